"""What the warden is asked and what it answers.

A gateway worker *claims* a session before it relays to it and *releases* the claim when nothing is in flight. A
claim keeps the session from ending as idle; it may be kept for a moment after the last request, since a release says
when the last activity really was. A worker whose connection closes has released everything.
"""

from __future__ import annotations

import msgspec

from freehold import ipc
from freehold.domain.sessions import EndReason, SessionKey, SessionState

# -- asked ------------------------------------------------------------------------------------------------------


class Claim(msgspec.Struct, tag="claim", frozen=True):
    """Join the session `key`, starting it with `version` when there is none. Answered by Claimed.

    Errors: StartFailed, QuotaExceeded, RetryableConflict, NotFound (no such version), Unavailable.
    """

    key: SessionKey
    version: int
    sockets: int = 1
    """How many connected sockets to the session's contract port are wanted at once."""


class Dial(msgspec.Struct, tag="dial", frozen=True):
    """More connected sockets for a session this worker has claimed. Answered by Dialed, or NotFound when it ended."""

    generation: int
    sockets: int = 1


class Release(msgspec.Struct, tag="release", frozen=True):
    """Nothing of this worker is in flight in `generation` any more (notification)."""

    generation: int
    last_activity_age_s: float
    """Seconds since the last request completed."""


class StopSession(msgspec.Struct, tag="stop", frozen=True):
    """End the session now, whatever is in flight. Answered by Done once it has ended, or NotFound."""

    key: SessionKey


class StopRuntime(msgspec.Struct, tag="stop_runtime", frozen=True):
    """End every session of a runtime (control: the runtime is deleted). Answered by Done once they have ended."""

    account: str
    runtime_id: str


class ListSessions(msgspec.Struct, tag="list", frozen=True):
    """One page of running sessions in order of generation, after `after`. Answered by SessionPage."""

    after: int = 0
    limit: int = 100


# -- answered ---------------------------------------------------------------------------------------------------


class Claimed(msgspec.Struct, tag="claimed", frozen=True):
    """The claim holds. The reply carries the sockets asked for, connected and non-blocking."""

    generation: int
    version: int
    """The version that runs in this session: older than the one asked for when the session is older."""
    started: bool
    """Whether this claim started the session."""


class Dialed(msgspec.Struct, tag="dialed", frozen=True):
    """The reply carries the sockets."""


class Ended(msgspec.Struct, tag="ended", frozen=True):
    """A session that this worker has claimed has ended (notification): its sockets are dead."""

    generation: int
    reason: EndReason


class SessionInfo(msgspec.Struct, frozen=True):
    generation: int
    key: SessionKey
    version: int
    state: SessionState
    claims: int
    age_s: float
    idle_s: float


class SessionPage(msgspec.Struct, tag="sessions", frozen=True):
    sessions: list[SessionInfo]


REQUESTS = ipc.decoder(Claim, Dial, Release, StopSession, StopRuntime, ListSessions)
"""What the warden receives."""
REPLIES = ipc.decoder(Claimed, Dialed, Ended, SessionPage)
"""What its clients receive."""
