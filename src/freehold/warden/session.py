"""One session's life, from its start to the removal of its last trace.

Not for: which sessions there are (`server`). Invariant: `state` leaves READY in the same step that decided so, so no
claim can slip between the decision to end and the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from freehold.backends.base import Exit, SessionBackend, SessionRef, StartSpec
from freehold.domain import errors, limits
from freehold.domain.launch import LaunchSpec
from freehold.domain.sessions import (
    TRANSITIONS,
    AskHealth,
    End,
    EndReason,
    Health,
    SessionState,
    Timers,
    Wait,
    after_health,
    next_action,
)
from freehold.warden import health, hints
from freehold.warden.clock import Clock
from freehold.warden.journal import Journal
from freehold.warden.slots import Slots
from freehold.warden.usage import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

    from freehold.domain.usage import Usage
    from freehold.ipc import Peer
    from freehold.warden.protocol import SessionRecord

PING_TIMEOUT_S = 5.0
PING_PAUSE_S = 0.02
"""Between two tries while an agent that listens is not healthy yet; doubles up to half a second."""

DIAL_WAIT_S = 0.5
EXIT_NOTICE_S = 0.5

log = structlog.get_logger(__name__)


class Lost(errors.NotFound):
    """The session's agent has exited under a claim: the next claim of the key starts another."""


class Session:
    """A session being started, serving or ending. `run` is its whole life; the other methods are asked meanwhile."""

    def __init__(
        self,
        record: SessionRecord,
        launch: LaunchSpec,
        *,
        backend: SessionBackend,
        journal: Journal,
        clock: Clock,
        environment: dict[str, str],
        meter: Meter,
        start_timeout_s: float = limits.START_TIMEOUT_S,
    ) -> None:
        self.record = record
        """As it is kept while the session runs."""
        self.key = record.key
        self.launch = launch
        self.generation = record.generation
        self.state = SessionState.STARTING
        self.created_at = clock.monotonic()
        self.claimants: set[Peer] = set()
        self.entered: Counter[Peer] = Counter()
        """Requests under way, where they are limited."""
        self.end_reason: EndReason | None = None
        self.detail: str | None = None
        """More about the end: how the agent exited, or why it did not start."""
        self.requests = 0
        self.agent_session: str | None = None
        """What it is bound to (see protocol.Bind)."""
        self.usage: Usage | None = None
        """What it had used when it ended."""
        self._meter = meter
        self._ping_said: str | None = None
        """How /ping was answered last while the agent was starting."""
        self._backend = backend
        self._journal = journal
        self._clock = clock
        self._environment = environment
        self._start_timeout_s = start_timeout_s
        self._ref = SessionRef(self.generation)
        self._timers: Timers | None = None
        self._news = asyncio.Event()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._started.add_done_callback(_retrieve)
        self._ended = asyncio.Event()

    # -- asked by the server ---------------------------------------------------------------------------------

    async def started(self) -> None:
        """Wait until the agent is ready. Raises what made the start fail."""
        await asyncio.shield(self._started)

    async def ended(self) -> None:
        """Wait until nothing of the session is left."""
        await self._ended.wait()

    def gone(self) -> None:
        """`run` has returned and no table holds the session any more: wake who waits for its end."""
        self._ended.set()

    async def dial(self) -> socket.socket:
        """A connected socket to the agent's contract port.

        Raises Lost when the agent has exited, AgentFailed when it lives and does not take connections.
        """
        try:
            return await self._backend.dial(self._ref, self.launch.port, wait_s=DIAL_WAIT_S)
        except (ConnectionError, TimeoutError) as error:
            # An agent that exits closes its sockets a moment before its exit is known.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_NOTICE_S):
                    await self._backend.exited(self._ref)
                self.end(EndReason.AGENT_EXITED)
                raise Lost("The session has ended") from error
            raise errors.AgentFailed("The agent does not accept connections") from error

    def add_claim(self, peer: Peer) -> None:
        self.claimants.add(peer)
        self._touch(self._clock.monotonic())

    def drop_claim(self, peer: Peer, *, last_activity_age_s: float = 0.0) -> None:
        if peer in self.claimants:
            self.claimants.discard(peer)
            self.entered.pop(peer, None)
            self._touch(self._clock.monotonic() - max(0.0, last_activity_age_s))

    def end(self, reason: EndReason) -> None:
        """Ask the session to end; the first reason stays."""
        if self.state is not SessionState.STOPPING:
            self._move(SessionState.STOPPING)
            self.end_reason = reason
            self._news.set()

    @property
    def ref(self) -> SessionRef:
        """What the backend has made for it until now."""
        return self._ref

    @property
    def idle_s(self) -> float:
        """Seconds without a request; 0 while one is in flight or the agent starts."""
        if self._timers is None or self.claimants:
            return 0.0
        return self._clock.monotonic() - self._timers.last_activity_at

    # -- the life --------------------------------------------------------------------------------------------

    async def run(self, start_slot: Slots, on_end: Callable[[Session], None]) -> None:
        """Start, serve until something ends it, clean up. Never raises but for cancellation."""
        try:
            async with start_slot:
                if self.state is SessionState.STARTING:
                    await self._start()
            if self.state is SessionState.STARTING:
                self._move(SessionState.READY)
                self._serve_from(self._clock.monotonic())
                self._started.set_result(None)
            self.end(await self._serve())
        except errors.FreeholdError as error:
            self._fail(error)
        except Exception:
            log.exception("session.failed", generation=self.generation, runtime_id=self.key.runtime_id)
            self._fail(errors.FreeholdError("An internal error occurred"))
        finally:
            if self.state is not SessionState.STOPPING:
                self.end(EndReason.SHUTDOWN)
            if not self._started.done():
                self._started.set_exception(errors.RetryableConflict("Session operation in progress, please retry"))
            on_end(self)
            await asyncio.shield(self._clean_up())

    def _fail(self, error: errors.FreeholdError) -> None:
        self.detail = error.message
        if not self._started.done():
            self._started.set_exception(error)
        self.end(EndReason.START_FAILED)

    async def _start(self) -> None:
        spec = StartSpec(self.generation, self.launch, self._environment)
        self._journal.record(self._ref)
        async for ref in self._backend.start(spec):
            self._ref = ref
            self._journal.record(ref)
        exit_watch = asyncio.create_task(self._backend.exited(self._ref))
        readiness = asyncio.create_task(self._until_healthy())
        ended_early = asyncio.create_task(self._news_of_end())
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await asyncio.wait({exit_watch, readiness, ended_early}, return_when=asyncio.FIRST_COMPLETED)
                if exit_watch.done() and not readiness.done():
                    raise self._exited_at_start(exit_watch.result())
                if readiness.done():
                    readiness.result()
        except TimeoutError:
            raise await self._too_slow() from None
        finally:
            await _cancel(exit_watch, readiness, ended_early)

    async def _until_healthy(self) -> None:
        pause = PING_PAUSE_S
        while True:
            try:
                sock = await self._backend.dial(self._ref, self.launch.port, wait_s=self._start_timeout_s)
                answer = await self._ping(sock)
                if answer.health is not Health.UNHEALTHY:
                    return
                self._ping_said = f"was answered with status {answer.status_code}"
            except ValueError as error:
                self._ping_said = f"was not answered as HTTP is: {error}"
            except TimeoutError:
                self._ping_said = f"was not answered within {PING_TIMEOUT_S:g} s"
            except OSError:
                # Not up yet, or broke off: whether the agent has exited is watched elsewhere.
                pass
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _serve(self) -> EndReason:
        """Until the session is to end; returns why."""
        exit_watch = asyncio.create_task(self._backend.exited(self._ref))
        try:
            while self.state is SessionState.READY:
                now = self._clock.monotonic()
                assert self._timers is not None
                self._timers = dataclasses.replace(self._timers, in_flight=bool(self.claimants))
                match next_action(self._timers, now):
                    case End(reason):
                        return reason
                    case AskHealth():
                        await self._ask_health(exit_watch)
                    case Wait(until):
                        await self._wait(until, exit_watch)
                if exit_watch.done():
                    self.detail = f"the agent ended with {exit_watch.result()}"
                    log.info("session.agent_exited", generation=self.generation, how=str(exit_watch.result()))
                    return EndReason.AGENT_EXITED
            return self.end_reason or EndReason.STOPPED
        finally:
            await _cancel(exit_watch)

    async def _wait(self, until: float, exit_watch: asyncio.Task[Exit]) -> None:
        self._news.clear()
        timer = asyncio.create_task(self._clock.sleep_until(until))
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({timer, news, exit_watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(timer, news)

    async def _ask_health(self, exit_watch: asyncio.Task[Exit]) -> None:
        """Ask /ping once. Who does not answer is not busy."""
        changed_at: float | None = None
        told = Health.UNHEALTHY
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            sock = await self._backend.dial(self._ref, self.launch.port)
            answer = await self._ping(sock)
            told = answer.health
            if answer.changed_at is not None:
                changed_at = self._clock.monotonic() - (self._clock.wall() - answer.changed_at)
        assert self._timers is not None
        self._timers = after_health(self._timers, told, changed_at, self._clock.monotonic())

    async def _ping(self, sock: socket.socket) -> health.PingAnswer:
        return await health.ping(sock, protocol=self.launch.protocol, port=self.launch.port, timeout_s=PING_TIMEOUT_S)

    async def _news_of_end(self) -> None:
        while self.state is SessionState.STARTING:
            await self._news.wait()
            self._news.clear()

    async def _clean_up(self) -> None:
        self.usage = (await self._meter.measure([self._ref])).get(self.generation)
        try:
            await self._backend.stop(self._ref)
            self._journal.forget(self.generation)
        except Exception:
            # The journal still names it, so the next start of the server sweeps what is left.
            log.exception("session.clean_up_failed", generation=self.generation)

    # -- small parts -----------------------------------------------------------------------------------------

    def _serve_from(self, now: float) -> None:
        self._timers = Timers(
            ready_at=now,
            last_activity_at=now,
            in_flight=bool(self.claimants),
            idle_timeout_s=self.launch.idle_timeout_s,
            max_lifetime_s=self.launch.max_lifetime_s,
        )

    def _touch(self, instant: float) -> None:
        if self._timers is not None and instant > self._timers.last_activity_at:
            # The wait under way is never too long for it: see next_action.
            self._timers = dataclasses.replace(self._timers, last_activity_at=instant)

    def _move(self, target: SessionState) -> None:
        assert target in TRANSITIONS[self.state], f"{self.state} -> {target}"
        self.state = target

    def _exited_at_start(self, how: Exit) -> errors.StartFailed:
        tail = self._backend.output_tail(self._ref).strip()
        return _start_failure(
            f"An error occurred when starting the runtime: the agent ended with {how} before it was ready.",
            tail,
            hints.of_exit(self.launch, code=how.code, signal=how.signal, tail=tail),
            exit_code=how.code,
        )

    async def _too_slow(self) -> errors.StartFailed:
        tail = self._backend.output_tail(self._ref).strip()
        listening: frozenset[int] = frozenset()
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                listening = await self._backend.listening(self._ref)
        except (OSError, TimeoutError) as error:
            log.warning("session.ports_unknown", generation=self.generation, reason=str(error))
        return _start_failure(
            "Runtime initialization time exceeded. Please make sure that initialization completes in "
            f"{self._start_timeout_s:g}s.",
            tail,
            hints.of_silence(self.launch, listening=listening, ping=self._ping_said, tail=tail),
        )


def _start_failure(message: str, tail: str, hint: str | None, *, exit_code: int | None = None) -> errors.StartFailed:
    told = message if hint is None else f"{message} Hint: {hint}."
    if tail:
        told = f"{told} Its last output was:\n{tail}"
    return errors.StartFailed(told, exit_code=exit_code, output_tail=tail)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _retrieve(future: asyncio.Future[None]) -> None:
    """A start that nobody waits for any more may fail without a complaint of the event loop."""
    if not future.cancelled():
        future.exception()
