"""The warden: every session there is, and who has claimed which.

Not for: one session's life (`session`), how its agent runs (`backends`). Invariant: the table holds at most one
session per key that is not STOPPING, so no session runs twice.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from freehold import ipc
from freehold.backends.base import SessionBackend
from freehold.domain import errors, limits
from freehold.domain.launch import LaunchSpec
from freehold.domain.rates import Rates
from freehold.domain.sessions import EndReason, SessionKey, SessionState
from freehold.domain.usage import Usage
from freehold.warden import protocol
from freehold.warden.clock import Clock, SystemClock
from freehold.warden.environment import agent_environment
from freehold.warden.history import History, Lapsed
from freehold.warden.journal import Journal
from freehold.warden.log_store import new_record
from freehold.warden.once import Onces
from freehold.warden.output import AgentLogs
from freehold.warden.session import Lost, Session
from freehold.warden.slots import Slots
from freehold.warden.tally import Tally
from freehold.warden.usage import Meter

SETTLE_TIMEOUT_S = 30.0
"""How long a claim waits for a session of the same key that is ending."""
BOUND_TIMEOUT_S = 5.0
LAUNCHES_KEPT = 1024

log = structlog.get_logger(__name__)

LoadLaunch = Callable[[str, str, int], Awaitable[LaunchSpec]]
"""(account, runtime id, version) to its launch. Raises NotFound, Unavailable."""


@dataclass(frozen=True, slots=True)
class WardenLimits:
    max_sessions: int
    max_concurrent_starts: int
    start_timeout_s: float = limits.START_TIMEOUT_S
    max_concurrent_requests: int = 0
    """In one session; 0: any number."""
    max_requests_per_s: float = 0.0
    max_starts_per_s: float = 0.0
    """Of one runtime; 0: any rate."""
    resend_window_s: float = 0.0
    """How long after its end a request is known when it is sent again; 0: not at all."""


class Warden:
    """Owns every session. One event loop, no locks: each table changes in steps that never await."""

    def __init__(
        self,
        *,
        backend: SessionBackend,
        journal: Journal,
        load_launch: LoadLaunch,
        bounds: WardenLimits,
        public_url: str,
        logs: AgentLogs,
        otlp_endpoint: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._backend = backend
        self._journal = journal
        self._load_launch = load_launch
        self._bounds = bounds
        self._public_url = public_url
        self._otlp_endpoint = otlp_endpoint
        self._logs = logs
        self._history = History(logs.earlier)
        self._lapsed = Lapsed(logs.earlier)
        self._meter = Meter(backend)
        self._clock = clock or SystemClock()
        self._tally = Tally(self._clock.monotonic)
        self._by_key: dict[SessionKey, Session] = {}
        self._by_generation: dict[int, Session] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._start_slots = Slots(bounds.max_concurrent_starts)
        self._requests = Rates(bounds.max_requests_per_s)
        self._starts = Rates(bounds.max_starts_per_s)
        self._onces = Onces(bounds.resend_window_s, self._clock.monotonic)
        self._launches: OrderedDict[tuple[str, str, int], LaunchSpec] = OrderedDict()
        self._closing = False

    async def serve(self, listener: socket.socket) -> None:
        """Answer `protocol.REQUESTS` until cancelled."""
        await ipc.serve(listener, protocol.REQUESTS, handler=self.handle, on_close=self.peer_gone)

    async def handle(self, peer: ipc.Peer, message: Any, fds: list[int]) -> Any:
        """Answer one message; see `protocol`."""
        ipc.close_all(fds)
        match message:
            case protocol.Claim():
                return await self._claim(peer, message)
            case protocol.Release():
                self._release(peer, message)
                return None
            case protocol.Enter():
                return self._enter(peer, message)
            case protocol.Leave():
                self._leave(peer, message)
                return None
            case protocol.Bind():
                return await self._bind(peer, message)
            case protocol.Dial():
                return await self._dial(peer, message)
            case protocol.StopSession():
                return await self._stop_session(message.key)
            case protocol.StopRuntime():
                return await self._stop_runtime(message)
            case protocol.StopGeneration():
                return await self._stop_generation(message)
            case protocol.ListSessions():
                return await self._list(message)
            case protocol.FindSession():
                return await self._find(message)
            case protocol.GetTally():
                return await self._counted(message.start)
            case protocol.ListEnded():
                return protocol.EndedPage(self._history.page(message))
            case _:
                raise TypeError(f"not a request: {type(message).__name__}")

    def peer_gone(self, peer: ipc.Peer) -> None:
        """A worker's connection closed: it holds nothing any more."""
        for session in self._by_generation.values():
            session.drop_claim(peer)
            self._onces.gone(session.generation, peer)

    def set_bounds(self, bounds: WardenLimits) -> None:
        """From now on these; what runs or starts already is not touched."""
        self._bounds = bounds
        self._start_slots.set_limit(bounds.max_concurrent_starts)
        self._requests.set_rate(bounds.max_requests_per_s)
        self._starts.set_rate(bounds.max_starts_per_s)
        self._onces.set_window(bounds.resend_window_s)

    async def aclose(self) -> None:
        """End every session, then the backend."""
        self._closing = True
        for session in list(self._by_generation.values()):
            session.end(EndReason.SHUTDOWN)
        await asyncio.gather(*self._lives, return_exceptions=True)
        await self._backend.aclose()

    # -- claims ----------------------------------------------------------------------------------------------

    async def _claim(self, peer: ipc.Peer, claim: protocol.Claim) -> tuple[protocol.Claimed, list[int]]:
        launch: LaunchSpec | None = None
        deadline = self._clock.monotonic() + SETTLE_TIMEOUT_S
        while True:
            session = self._by_key.get(claim.key)
            if session is not None and session.state is SessionState.STOPPING:
                await self._settled(session, deadline)
                continue
            if session is not None:
                try:
                    return await self._join(peer, session, claim.sockets, started=False)
                except Lost:
                    continue
            if claim.resumes and claim.key in self._lapsed:
                raise errors.SessionEnded(f"The session '{claim.key.session_id}' has ended: begin another")
            if launch is None:
                # Loading takes time, in which another claim may have started the session: look again.
                launch = await self._launch_of(claim.key, claim.version)
                continue
            session = self._begin(claim.key, launch)
            return await self._join(peer, session, claim.sockets, started=True)

    async def _settled(self, session: Session, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline - self._clock.monotonic()):
                await session.ended()
        except TimeoutError:
            raise errors.RetryableConflict("Session operation in progress, please retry") from None

    async def _join(
        self, peer: ipc.Peer, session: Session, sockets: int, *, started: bool
    ) -> tuple[protocol.Claimed, list[int]]:
        session.add_claim(peer)
        try:
            await session.started()
            if peer.closed:
                raise errors.Unavailable("the worker has gone")
            connected = await self._dial_many(session, sockets)
        except BaseException:
            session.drop_claim(peer)
            raise
        told = protocol.Claimed(session.generation, session.launch.version, started, session.agent_session)
        return told, connected

    async def _bind(self, peer: ipc.Peer, bind: protocol.Bind) -> ipc.Done:
        session = self._by_generation.get(bind.generation)
        if session is None or session.state is not SessionState.READY or peer not in session.claimants:
            raise errors.NotFound("The session has ended")
        if session.agent_session not in (None, bind.agent_session):
            raise errors.RetryableConflict("Session operation in progress, please retry")
        if session.agent_session is None:
            session.agent_session = bind.agent_session
            session.record = msgspec.structs.replace(session.record, bound=True)
            self._logs.amend(session.record)
        told = protocol.Bound(bind.generation, bind.agent_session)
        others = [other for other in session.claimants if other is not peer]
        # One that does not answer has gone or is going, and holds nothing then.
        await asyncio.gather(*(other.call(told, timeout_s=BOUND_TIMEOUT_S) for other in others), return_exceptions=True)
        return ipc.Done()

    async def _dial(self, peer: ipc.Peer, dial: protocol.Dial) -> tuple[protocol.Dialed, list[int]]:
        session = self._by_generation.get(dial.generation)
        if session is None or session.state is not SessionState.READY or peer not in session.claimants:
            raise errors.NotFound("The session has ended")
        return protocol.Dialed(), await self._dial_many(session, dial.sockets)

    async def _dial_many(self, session: Session, count: int) -> list[int]:
        connected: list[int] = []
        try:
            for _ in range(min(count, ipc.MAX_DESCRIPTORS)):
                connected.append((await session.dial()).detach())
        except BaseException:
            ipc.close_all(connected)
            raise
        return connected

    def _release(self, peer: ipc.Peer, release: protocol.Release) -> None:
        session = self._by_generation.get(release.generation)
        if session is not None:
            session.requests += release.requests
            session.drop_claim(peer, last_activity_age_s=release.last_activity_age_s)
            self._onces.gone(session.generation, peer)

    def _enter(self, peer: ipc.Peer, enter: protocol.Enter) -> ipc.Done | protocol.Answered:
        session = self._by_generation.get(enter.generation)
        if session is None or peer not in session.claimants:
            raise errors.NotFound("The session has ended")
        once = (session.generation, enter.once)
        if enter.once:
            answered = self._onces.seek(once)
            if answered is not None:
                return answered
        most, key = self._bounds.max_concurrent_requests, session.key
        if most and session.entered.total() >= most:
            raise errors.RetryableConflict("Session operation in progress, please retry")
        if not self._requests.take((key.account, key.runtime_id), self._clock.monotonic()):
            raise errors.Throttled("Rate exceeded")
        session.entered[peer] += 1
        if enter.once:
            self._onces.begin(once, peer)
        return ipc.Done()

    def _leave(self, peer: ipc.Peer, leave: protocol.Leave) -> None:
        session = self._by_generation.get(leave.generation)
        if session is not None and session.entered[peer] > 0:
            session.entered[peer] -= 1
            if leave.once:
                self._onces.end((session.generation, leave.once), peer, reached=leave.reached, answer=leave.answer)

    # -- sessions --------------------------------------------------------------------------------------------

    def _begin(self, key: SessionKey, launch: LaunchSpec) -> Session:
        if self._closing:
            raise errors.Unavailable("The server is shutting down")
        if len(self._by_generation) >= self._bounds.max_sessions:
            raise errors.QuotaExceeded(f"The maximum number of {self._bounds.max_sessions} active sessions is reached")
        if not self._starts.take((key.account, key.runtime_id), self._clock.monotonic()):
            raise errors.Throttled("Rate of new sessions exceeded")
        generation = self._journal.next_generation()
        record = new_record(key, generation, launch.version, now=self._utc_now())
        session = Session(
            record,
            launch,
            backend=self._backend,
            journal=self._journal,
            clock=self._clock,
            environment=agent_environment(
                launch, endpoint=key.endpoint, public_url=self._public_url, otlp_endpoint=self._otlp_endpoint
            ),
            meter=self._meter,
            start_timeout_s=self._bounds.start_timeout_s,
        )
        self._by_key[key] = session
        self._by_generation[session.generation] = session
        self._tally.began(session.generation, key)
        self._lapsed.discard(key)
        self._logs.open(record)
        life = asyncio.create_task(self._live(session))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return session

    async def _live(self, session: Session) -> None:
        try:
            await session.run(self._start_slots, self._tell_claimants)
        finally:
            ended = msgspec.structs.replace(
                session.record,
                ended_at=self._utc_now(),
                reason=session.end_reason,
                detail=None if session.detail is None else session.detail[: protocol.MAX_DETAIL],
                requests=session.requests,
                usage=session.usage,
            )
            self._logs.close(ended)
            self._history.add(ended)
            self._lapsed.add(ended)
            self._tally.ended(session.generation, session.end_reason, session.usage)
            self._onces.session_ended(session.generation)
            del self._by_generation[session.generation]
            del self._by_key[session.key]
            session.gone()

    def _tell_claimants(self, session: Session) -> None:
        reason = session.end_reason or EndReason.SHUTDOWN
        log.info(
            "session.ended",
            generation=session.generation,
            runtime_id=session.key.runtime_id,
            reason=reason.value,
        )
        for peer in list(session.claimants):
            peer.notify(protocol.Ended(session.generation, reason))

    async def _launch_of(self, key: SessionKey, version: int) -> LaunchSpec:
        wanted = (key.account, key.runtime_id, version)
        launch = self._launches.get(wanted)
        if launch is None:
            launch = await self._load_launch(*wanted)
            self._launches[wanted] = launch
            while len(self._launches) > LAUNCHES_KEPT:
                self._launches.popitem(last=False)
        return launch

    async def _stop_session(self, key: SessionKey) -> ipc.Done:
        session = self._by_key.get(key)
        if session is None:
            raise errors.NotFound("No such running session")
        if session.state is not SessionState.READY:
            raise errors.RetryableConflict("Session operation in progress, please retry")
        session.end(EndReason.STOPPED)
        await session.ended()
        return ipc.Done()

    async def _stop_runtime(self, stop: protocol.StopRuntime) -> ipc.Done:
        if stop.endpoint is None:
            for wanted in [w for w in self._launches if w[:2] == (stop.account, stop.runtime_id)]:
                del self._launches[wanted]
        sessions = [
            session
            for session in self._by_generation.values()
            if session.key.account == stop.account
            and session.key.runtime_id == stop.runtime_id
            and stop.endpoint in (None, session.key.endpoint)
        ]
        reason = EndReason.RUNTIME_DELETED if stop.endpoint is None else EndReason.ENDPOINT_DELETED
        for session in sessions:
            session.end(reason)
        await asyncio.gather(*(session.ended() for session in sessions))
        return ipc.Done()

    async def _stop_generation(self, stop: protocol.StopGeneration) -> ipc.Done:
        session = self._running(stop.account, stop.generation)
        if session is None:
            raise errors.NotFound("No such running session")
        session.end(EndReason.OPERATOR)
        await session.ended()
        return ipc.Done()

    # -- telling ---------------------------------------------------------------------------------------------

    async def _list(self, wanted: protocol.ListSessions) -> protocol.SessionPage:
        found = [
            session
            for generation, session in sorted(self._by_generation.items())
            if generation > wanted.after
            and wanted.account in (None, session.key.account)
            and wanted.runtime_id in (None, session.key.runtime_id)
        ][: max(1, min(wanted.limit, 100))]
        return protocol.SessionPage(await self._infos(found, with_usage=wanted.with_usage))

    async def _find(self, wanted: protocol.FindSession) -> protocol.SessionFound:
        session = self._running(wanted.account, wanted.generation)
        if session is not None:
            (info,) = await self._infos([session], with_usage=True)
            return protocol.SessionFound(running=info)
        record = self._history.find(wanted.account, wanted.generation)
        if record is None:
            raise errors.NotFound("No such session")
        return protocol.SessionFound(ended=record)

    def _running(self, account: str, generation: int) -> Session | None:
        session = self._by_generation.get(generation)
        return session if session is not None and session.key.account == account else None

    async def _counted(self, start: int) -> protocol.TallyPage:
        if start == 0 and self._by_generation:
            self._tally.measured(await self._meter.measure(s.ref for s in self._by_generation.values()))
        return protocol.TallyPage(self._tally.page(start))

    async def _infos(self, sessions: list[Session], *, with_usage: bool) -> list[protocol.SessionInfo]:
        usage = await self._meter.measure(session.ref for session in sessions) if with_usage and sessions else {}
        return [self._info(session, usage.get(session.generation)) for session in sessions]

    def _info(self, session: Session, usage: Usage | None = None) -> protocol.SessionInfo:
        return protocol.SessionInfo(
            generation=session.generation,
            key=session.key,
            version=session.launch.version,
            state=session.state,
            claims=len(session.claimants),
            age_s=self._clock.monotonic() - session.created_at,
            idle_s=session.idle_s,
            requests=session.requests,
            usage=usage,
        )

    def _utc_now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)
