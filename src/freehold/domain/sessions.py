"""A session's life as pure rules: its key, its states, and what is due next.

Not for: doing it (`warden`). Invariant: functions here take `now` (seconds, monotonic, of one process) and never
look at a clock, so that every timer can be tested without waiting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

BUSY_PING_INTERVAL_S: Final = 30.0
"""How soon an agent that said HealthyBusy is asked again, unless its idle timeout is shorter."""

_SESSION_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-_]*")


def is_session_id(text: str) -> bool:
    """Whether `text` is a session id by form: 33 to 256 characters of `[a-zA-Z0-9][a-zA-Z0-9-_]*` (spec section 0)."""
    return 33 <= len(text) <= 256 and _SESSION_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What makes two requests meet in one sandbox. Never a path name."""

    account: str
    runtime_id: str
    endpoint: str
    owner: str
    session_id: str


class SessionState(StrEnum):
    """STARTING: being made. READY: takes claims. STOPPING: takes none, its sandbox is being ended."""

    STARTING = "STARTING"
    READY = "READY"
    STOPPING = "STOPPING"


class EndReason(StrEnum):
    """Why a session ended; shown to operators and to whoever was cut off."""

    IDLE_TIMEOUT = "idle timeout"
    MAX_LIFETIME = "maximum lifetime"
    STOPPED = "stopped by StopRuntimeSession"
    OPERATOR = "stopped by an operator"
    RUNTIME_DELETED = "runtime deleted"
    ENDPOINT_DELETED = "endpoint deleted"
    AGENT_EXITED = "agent exited"
    START_FAILED = "start failed"
    SHUTDOWN = "server shut down"
    SERVER_DIED = "server ended abruptly"
    """Found out by the next run of the server."""


TRANSITIONS: Final[dict[SessionState, frozenset[SessionState]]] = {
    SessionState.STARTING: frozenset({SessionState.READY, SessionState.STOPPING}),
    SessionState.READY: frozenset({SessionState.STOPPING}),
    SessionState.STOPPING: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Timers:
    """The clock side of one READY session; instants are monotonic seconds."""

    ready_at: float
    last_activity_at: float
    in_flight: bool
    idle_timeout_s: float
    max_lifetime_s: float
    asked_at: float | None = None
    """When /ping was last answered with anything but HealthyBusy."""
    busy_until: float | None = None
    """HealthyBusy counts as activity until this instant; then the agent is asked again."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due before `until`."""

    until: float


@dataclass(frozen=True, slots=True)
class AskHealth:
    """The idle deadline is reached: ask /ping before ending the session."""


@dataclass(frozen=True, slots=True)
class End:
    reason: EndReason


Action = Wait | AskHealth | End


def next_action(timers: Timers, now: float) -> Action:
    """What is due for a READY session at `now`.

    The lifetime counts from readiness and never resets; it ends a session even with requests in flight. Idleness
    counts from the completion of the last request; a session in flight is never idle.
    """
    lifetime_end = timers.ready_at + timers.max_lifetime_s
    if now >= lifetime_end:
        return End(EndReason.MAX_LIFETIME)
    if timers.in_flight:
        # Whatever completes later, it can't be idle for long enough before this.
        return Wait(min(now + timers.idle_timeout_s, lifetime_end))
    idle_end = timers.busy_until or timers.last_activity_at + timers.idle_timeout_s
    if now < idle_end:
        return Wait(min(idle_end, lifetime_end))
    if timers.busy_until is None and timers.asked_at is not None and timers.asked_at >= idle_end:
        return End(EndReason.IDLE_TIMEOUT)
    return AskHealth()


class Health(StrEnum):
    """PingStatus of the HTTP contract, read leniently."""

    HEALTHY = "Healthy"
    BUSY = "HealthyBusy"
    UNHEALTHY = "Unhealthy"


def after_health(timers: Timers, health: Health, status_changed_at: float | None, now: float) -> Timers:
    """The timers after /ping answered.

    A busy agent counts as active now, and is asked again within BUSY_PING_INTERVAL_S. A healthy one is idle since
    its status changed (`status_changed_at`, on our clock; None when it did not say).
    """
    if health is Health.BUSY:
        pause = min(BUSY_PING_INTERVAL_S, timers.idle_timeout_s)
        return replace(timers, last_activity_at=now, busy_until=now + pause)
    changed = timers.last_activity_at
    if status_changed_at is not None and changed < status_changed_at <= now:
        changed = status_changed_at
    return replace(timers, last_activity_at=changed, asked_at=now, busy_until=None)
