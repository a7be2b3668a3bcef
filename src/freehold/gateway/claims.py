"""Which sessions this worker holds, and its connections to them.

Not for sessions themselves: the warden owns them. A claim is held while requests are in flight and for a moment
after, so that a busy session costs one message and not one per request. Invariant: a claim that is in the table is
one the warden counts; when the link to the warden breaks, every claim is gone on both sides.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from functools import partial
from typing import Any, Final

import structlog

from freehold import ipc
from freehold.domain.errors import FreeholdError, NotFound, SessionEnded, Unavailable
from freehold.domain.sessions import EndReason, SessionKey
from freehold.gateway import eager, fast
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.familiar import Reader
from freehold.gateway.resends import Resend
from freehold.gateway.sweeper import NEVER, Sweeper
from freehold.gateway.upstream import Upstream, attach
from freehold.warden import protocol

_STOP_TIMEOUT_S: Final = 120.0
MAX_EARLY: Final = 256
"""Words of the warden that are kept for claims whose answer has not been acted on."""
_MAX_JOINS: Final = 5
"""Tries to join a session that ends each time just before it is used."""
_MAX_DIALS: Final = 3
"""Tries to reach an agent that closes each connection at once."""
_CAUTION: Final = 0.8
"""Of the time after which an agent closed an idle connection: how long others are used again."""
SHORTEST_S: Final = 1.0
"""An agent that closes sooner than this keeps no connections worth using again."""

log = structlog.get_logger(__name__)


class AnsweredBefore(Exception):
    """The request was sent before; `answer` is what it was answered then."""

    def __init__(self, answer: protocol.Answered) -> None:
        super().__init__()
        self.answer = answer


class LiveClaim:
    """One session that this worker holds."""

    __slots__ = (
        "agent_session",
        "connections",
        "end_reason",
        "ended",
        "generation",
        "idle",
        "idle_since",
        "in_flight",
        "key",
        "requests",
        "reusable_for_s",
        "version",
    )

    def __init__(self, key: SessionKey, generation: int, version: int, idle_since: float) -> None:
        self.key = key
        self.generation = generation
        self.version = version
        self.agent_session: str | None = None
        """What the agent calls the session of its own that this one is bound to."""
        self.in_flight = 0
        self.requests = 0
        self.idle_since = idle_since
        self.idle: deque[Upstream] = deque()
        self.connections: set[Upstream] = set()
        self.reusable_for_s = NEVER
        """How long a connection may have been idle when it is used again: less than the agent has been seen to wait
        before it closes one."""
        self.ended: str | None = None
        """Why it is not held any more."""
        self.end_reason: EndReason | None = None
        """Why the session has ended, when the warden says that it has."""


class Claims:
    """The table. Make it inside the event loop; it has one there and no locks."""

    def __init__(self, path: str, sweeper: Sweeper, limits: GatewayLimits, reader: Reader | None = None) -> None:
        self._limits = limits
        self._reader = reader or Reader()
        compiled = fast.compiled()
        self._receiver = None if compiled is None else compiled.agent
        self._clock = sweeper.clock
        self._live: dict[SessionKey, LiveClaim] = {}
        self._by_generation: dict[int, LiveClaim] = {}
        self._joining: dict[SessionKey, asyncio.Task[None]] = {}
        self._ended_early: deque[int] = deque(maxlen=MAX_EARLY)
        """Generations that ended before the answer to their claim was acted on."""
        self._bound_early: OrderedDict[int, str] = OrderedDict()
        """Generations that another worker bound before the answer to their claim was acted on."""
        self._up = asyncio.Event()
        self._links_broken = 0
        self._link = ipc.Link(
            path,
            protocol.REPLIES,
            handler=self._told,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
        )
        sweeper.every_tick(self._release_unused)

    @property
    def connected(self) -> bool:
        return self._link.connected

    async def until_connected(self) -> None:
        """Wait until the warden has been reached."""
        await self._link.until_connected()

    @property
    def is_busy(self) -> bool:
        """Whether any request is under way."""
        return any(claim.in_flight for claim in self._by_generation.values())

    async def aclose(self) -> None:
        """Give everything up. The warden sees the link close."""
        for task in list(self._joining.values()):
            task.cancel()
        await asyncio.gather(*self._joining.values(), return_exceptions=True)
        await self._link.aclose()
        self._drop_all("the worker stopped")

    # -- for requests ---------------------------------------------------------------------------------------------

    async def join(
        self, key: SessionKey, version: int, *, resumes: bool = False, resend: Resend | None = None
    ) -> LiveClaim:
        """Hold the session `key` for one request more, started with `version` when there is none; see `leave`.

        With `resumes` (see protocol.Claim) SessionEnded may be the answer; with `resend`, AnsweredBefore or Conflict.
        Raises StartFailed, QuotaExceeded, RetryableConflict, Throttled, NotFound, Unavailable.
        """
        for _ in range(_MAX_JOINS):
            claim = self._live.get(key)
            if claim is not None:
                self.rejoin(claim)
                if self._limits.asks_to_enter:
                    try:
                        await self._enter(claim, resend)
                    except NotFound:
                        self.forget(claim)
                        continue
                return claim
            await eager.in_task()
            task = self._joining.get(key)
            if task is None:
                task = asyncio.create_task(self._claim(key, version, resumes))
                self._joining[key] = task
                task.add_done_callback(_retrieve)
            # A caller that goes away does not stop the start that others may wait for.
            try:
                await asyncio.shield(task)
            except SessionEnded:
                if resumes:
                    raise
        raise Unavailable("The session ended while it was being joined, please retry")

    @staticmethod
    def rejoin(claim: LiveClaim) -> None:
        """Hold for one request more what is held already: `claim` has not ended."""
        claim.in_flight += 1
        claim.requests += 1

    async def bind(self, claim: LiveClaim, agent_session: str) -> None:
        """The agent has begun a session of its own (see protocol.Bind).

        Raises NotFound, RetryableConflict, Unavailable.
        """
        await eager.in_task()
        if claim.ended is not None:
            raise NotFound("The session has ended")
        await self._link.call(protocol.Bind(claim.generation, agent_session))
        claim.agent_session = agent_session

    async def connection(self, claim: LiveClaim, *, fresh: bool = False) -> Upstream:
        """A connection to the session's agent. Raises NotFound when the session has ended, Unavailable."""
        found = None if fresh else self.idle_connection(claim, self._clock())
        if found is not None:
            return found
        await eager.in_task()
        for _ in range(_MAX_DIALS):
            if claim.ended is not None:
                raise NotFound("The session has ended")
            _reply, fds = await self._link.call(protocol.Dial(claim.generation))
            made = await self._adopt(claim, fds)
            if made:
                return made[0]
            # It was closed at once: by an agent that has just died, of which the warden knows before it dials again.
        raise Unavailable("The session can't be reached")

    def idle_connection(self, claim: LiveClaim, now: float) -> Upstream | None:
        """A connection to the session's agent that is there already, for whoever takes it."""
        while claim.idle:
            found = claim.idle.pop()
            idle_s = now - found.idle_since
            # The kernel is asked where an agent is about to tire of waiting: one that closes sooner is soon known to.
            usable = not found.closed and (idle_s < SHORTEST_S or found.is_usable())
            if usable and idle_s < claim.reusable_for_s:
                return found
            if not usable:
                self._closed_idle(claim, found)
            found.leave()
        return None

    def keep(self, claim: LiveClaim, connection: Upstream) -> None:
        """Have a connection whose response has ended ready for the next request."""
        if connection.closed:
            return
        if claim.ended is not None or len(claim.idle) >= self._limits.max_idle_connections:
            connection.leave()
        else:
            connection.resume_reading()  # its last client may have been slow
            connection.idle_since = self._clock()
            claim.idle.append(connection)

    def passed(self, claim: LiveClaim, connection: Upstream, now: float) -> None:
        """As `keep` and `leave` together: at `now` a response has ended that came at once, and whole."""
        claim.in_flight -= 1
        claim.idle_since = connection.idle_since = now
        if claim.ended is None and len(claim.idle) < self._limits.max_idle_connections:
            connection.end_passage()
            claim.idle.append(connection)
        else:
            connection.leave()

    def leave(self, claim: LiveClaim, resend: Resend | None = None) -> None:
        """A request that joined, with `resend`, has completed."""
        self._left(claim)
        if self._limits.asks_to_enter and claim.ended is None:
            generation = claim.generation
            self._link.notify(protocol.Leave(generation) if resend is None else resend.leave(generation))

    def _left(self, claim: LiveClaim) -> None:
        claim.in_flight -= 1
        claim.idle_since = self._clock()

    async def _enter(self, claim: LiveClaim, resend: Resend | None) -> None:
        """Raises AnsweredBefore, Conflict, RetryableConflict, Throttled, NotFound, Unavailable; the request has not
        joined then."""
        await eager.in_task()
        generation, once = claim.generation, b"" if resend is None else resend.once
        try:
            reply, _fds = await self._link.call(protocol.Enter(generation, once))
            if isinstance(reply, protocol.Answered):
                raise AnsweredBefore(reply)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and claim.ended is None:
                # Comes after the Enter, which nobody waits for.
                self._link.notify(protocol.Leave(generation, once, reached=False))
            self._left(claim)
            raise

    def forget(self, claim: LiveClaim) -> None:
        """The session turned out to have ended, before the warden's word of it came."""
        if claim.ended is None:
            self._drop(claim, "the session ended")

    async def stop(self, key: SessionKey) -> None:
        """End the session. Raises NotFound, RetryableConflict, Unavailable."""
        await eager.in_task()
        await self._wait_for_warden()
        await self._link.call(protocol.StopSession(key), timeout_s=_STOP_TIMEOUT_S)

    # -- the warden -----------------------------------------------------------------------------------------------

    async def _wait_for_warden(self) -> None:
        try:
            async with asyncio.timeout(self._limits.away_timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise Unavailable("The server is starting again, please retry") from None

    async def _claim(self, key: SessionKey, version: int, resumes: bool) -> None:
        try:
            await self._wait_for_warden()
            links_broken = self._links_broken
            asked = protocol.Claim(key, version, resumes=resumes)
            reply, fds = await self._link.call(asked, timeout_s=self._limits.claim_timeout_s)
            assert isinstance(reply, protocol.Claimed)
            claim = LiveClaim(key, reply.generation, reply.version, self._clock())
            claim.agent_session = reply.agent_session or self._bound_early.pop(reply.generation, None)
            if reply.generation in self._ended_early or links_broken != self._links_broken:
                ipc.close_all(fds)
                return
            self._live[key] = claim
            self._by_generation[reply.generation] = claim
            claim.idle.extend(await self._adopt(claim, fds))
        finally:
            del self._joining[key]

    async def _adopt(self, claim: LiveClaim, fds: list[int]) -> list[Upstream]:
        made: list[Upstream] = []
        waiting = [socket.socket(fileno=fd) for fd in fds]
        try:
            while waiting:
                connection = await self._attach(claim, waiting.pop())
                if connection is not None:
                    made.append(connection)
        except BaseException:
            for sock in waiting:
                sock.close()
            for connection in made:
                connection.leave()
            raise
        return made

    async def _attach(self, claim: LiveClaim, sock: socket.socket) -> Upstream | None:
        try:
            connection = await attach(sock, partial(self._lost, claim), self._reader.read_response, self._receiver)
        except OSError as error:
            log.warning("gateway.session_socket_dead", generation=claim.generation, error=error.strerror)
            return None
        if connection.closed:
            return None
        claim.connections.add(connection)
        if claim.ended is not None:
            connection.leave()
            return None
        return connection

    def _lost(self, claim: LiveClaim, connection: Upstream) -> None:
        claim.connections.discard(connection)
        if connection.closed_unasked:
            self._closed_idle(claim, connection)

    def _closed_idle(self, claim: LiveClaim, connection: Upstream) -> None:
        """The agent closed it between requests. A request that is sent at that very moment is lost, so that from now
        on none is sent over one that has been idle for nearly as long."""
        if connection.is_reused:
            idle_s = self._clock() - connection.idle_since
            bound_s = _CAUTION * idle_s if idle_s >= SHORTEST_S else 0.0
            claim.reusable_for_s = min(claim.reusable_for_s, bound_s)

    async def _connected(self, _peer: ipc.Peer) -> None:
        self._up.set()

    def _disconnected(self) -> None:
        self._up.clear()
        self._links_broken += 1
        self._drop_all("the server's part that owns the sessions went away")

    async def _told(self, _peer: ipc.Peer, message: Any, fds: list[int]) -> None:
        ipc.close_all(fds)
        if isinstance(message, protocol.Bound):
            self._bound(message)
            return
        if not isinstance(message, protocol.Ended):
            log.warning("gateway.unexpected_message", message=type(message).__name__)
            return
        claim = self._by_generation.get(message.generation)
        if claim is None:
            self._ended_early.append(message.generation)
        else:
            # The session is on its way out, and its record wants the count.
            self._link.notify(protocol.Release(claim.generation, last_activity_age_s=0.0, requests=claim.requests))
            claim.end_reason = message.reason
            self._drop(claim, f"the session ended: {message.reason.value}")

    def _bound(self, message: protocol.Bound) -> None:
        claim = self._by_generation.get(message.generation)
        if claim is not None:
            claim.agent_session = message.agent_session
            return
        self._bound_early[message.generation] = message.agent_session
        if len(self._bound_early) > MAX_EARLY:
            self._bound_early.popitem(last=False)

    def _drop(self, claim: LiveClaim, why: str) -> None:
        claim.ended = why
        if self._live.get(claim.key) is claim:
            del self._live[claim.key]
        self._by_generation.pop(claim.generation, None)
        claim.idle.clear()
        for connection in list(claim.connections):
            connection.abort(why)

    def _drop_all(self, why: str) -> None:
        for claim in list(self._by_generation.values()):
            self._drop(claim, why)

    def _release_unused(self, now: float) -> None:
        unused_since = now - self._limits.claim_linger_s
        for claim in [c for c in self._live.values() if not c.in_flight and c.idle_since <= unused_since]:
            age_s = max(0.0, now - claim.idle_since)
            self._link.notify(protocol.Release(claim.generation, last_activity_age_s=age_s, requests=claim.requests))
            self._drop(claim, "it was released")


def _retrieve(task: asyncio.Task[None]) -> None:
    """A claim that nobody waits for any more may fail without a complaint of the event loop."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None and not isinstance(error, FreeholdError):
        log.error("gateway.claim_failed", exc_info=error)
