"""One open WebSocket: frames between a client and an agent, as they are, and how the two connections end.

For: what happens after both handshakes (`opening`). Not for what a frame is (`frames`). Invariant: whoever is still
there when a connection ends is told why in a Close frame, put in where a frame ends; where a frame was cut short the
connection is broken off instead, so that nobody takes a part for the whole.

    what ends it                                   the client gets                  the agent gets
    a Close frame of either, and the answer        the agent's Close frame          the client's Close frame
    the client's frame too big, too many, wrong    1009, 1008, 1002                 1001
    open for too long                              1008                             1001
    the worker stops                               1001                             1001
    the session has ended                          1001
    the agent is gone, or its frame is wrong       1011                             1002, if it is there
    the client is gone                                                              the end of its connection
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Final

from freehold.domain.errors import AgentFailed, FreeholdError, Throttled, ValidationFailed
from freehold.domain.sessions import EndReason
from freehold.gateway import errors
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.exchange import Exchange
from freehold.gateway.heads import Headers
from freehold.gateway.sweeper import NEVER, Sweeper
from freehold.gateway.upstream import Upstream
from freehold.gateway.websocket import frames
from freehold.gateway.websocket.direction import Direction
from freehold.gateway.websocket.frames import BadFrame, FrameFollower

_SILENCE_S: Final = 60
_PROBE_S: Final = 15
_PROBES: Final = 4
"""A client is gone when it has not answered for two minutes."""
_NOBODYS_FAULT: Final = frozenset(
    {
        EndReason.IDLE_TIMEOUT,
        EndReason.MAX_LIFETIME,
        EndReason.STOPPED,
        EndReason.OPERATOR,
        EndReason.RUNTIME_DELETED,
        EndReason.ENDPOINT_DELETED,
        EndReason.SHUTDOWN,
    }
)
"""Ends of sessions that somebody wanted, or that were due."""


def _watch_for_silence(client: socket.socket) -> None:
    """Have the kernel find out that the other side is gone without a word, also while something waits to be taken.

    Not with pings of ours: they would need answers that the agent must not see, and clients count what they get.
    """
    if client.family in (socket.AF_INET, socket.AF_INET6):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (_SILENCE_S + _PROBE_S * _PROBES))


class _FromClient(asyncio.Protocol):
    """The client's connection, as the event loop sees it. What comes goes to the agent."""

    def __init__(self, direction: Direction, line: asyncio.Protocol) -> None:
        """`line` hears of the connection everything else."""
        self.data_received = direction.data_received
        self.pause_writing = line.pause_writing
        self.resume_writing = line.resume_writing
        self.connection_lost = line.connection_lost


class _FromAgent(asyncio.Protocol):
    """The agent's connection, as the event loop sees it. What comes goes to the client."""

    def __init__(self, direction: Direction, tunnel: Tunnel) -> None:
        self.data_received = direction.data_received
        self.connection_lost = tunnel.agent_lost
        self._tunnel = tunnel

    def pause_writing(self) -> None:
        self._tunnel.agent_writable(False)

    def resume_writing(self) -> None:
        self._tunnel.agent_writable(True)


class _Leaving(asyncio.Protocol):
    """The agent's connection once it has been told the end: what still comes is dropped, until it closes."""

    def __init__(self, sweeper: Sweeper, transport: asyncio.Transport, on_lost: Callable[[Exception | None], None]):
        self._sweeper = sweeper
        self._transport = transport
        self._on_lost = on_lost
        self.deadline = NEVER

    def expired(self, now: float) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sweeper.forget(self)
        self._on_lost(exc)


class Tunnel:
    """Relays one connection. See exchange.Tunnel."""

    def __init__(
        self,
        exchange: Exchange,
        upstream: Upstream,
        *,
        claims: Claims,
        claim: LiveClaim,
        sweeper: Sweeper,
        limits: GatewayLimits,
        blocked: set[Tunnel],
    ) -> None:
        """`blocked` holds the tunnels whose agents take no more just now."""
        self._exchange = exchange
        self._upstream = upstream
        self._claims = claims
        self._claim = claim
        self._sweeper = sweeper
        self._limits = limits
        self._blocked = blocked
        self._to_agent = FrameFollower(
            masked=True,
            max_payload_bytes=limits.web_socket_frame_bytes,
            max_frames_per_s=limits.web_socket_frames_per_s,
        )
        self._to_client = FrameFollower(masked=False)
        self._directions: tuple[Direction, Direction] | None = None
        """To the agent, and to the client."""
        self._client: asyncio.Transport | None = None
        self._agent: asyncio.Transport | None = None
        """None once it has been told the end, or is lost."""
        self._last_words: bytes | None = None
        """A Close frame for the client that waits for the agent's frame to end."""
        self._is_closing = False
        """Whether a Close frame has passed."""
        self._ended = False

    def begin(self, headers: Headers) -> None:
        """Answer the client's handshake, and relay. Raises ClientGone."""
        clock = self._sweeper.clock
        client, early, line = self._exchange.switch_protocols(headers, self)
        agent, waiting = self._upstream.switch()
        to_agent = Direction(
            self._to_agent, agent, clock=clock, refused=self._client_broke_rules, ending=self._close_frame_passed
        )
        to_client = Direction(
            self._to_client, client, clock=clock, refused=self._agent_broke_rules, ending=self._close_frame_passed
        )
        self._client, self._agent, self._directions = client, agent, (to_agent, to_client)
        _watch_for_silence(client.get_extra_info("socket"))
        client.set_protocol(_FromClient(to_agent, line))
        agent.set_protocol(_FromAgent(to_client, self))
        to_agent.ride(client)
        to_client.ride(agent)
        self._exchange.set_deadline(clock() + self._limits.web_socket_timeout_s)
        if waiting:
            to_client.data_received(waiting)
        if early and not self._ended:
            to_agent.data_received(early)

    # -- what passes ----------------------------------------------------------------------------------------------

    def _client_broke_rules(self, bad: BadFrame) -> None:
        error: FreeholdError
        if bad.code == frames.POLICY:
            error = Throttled(f"The client sent {bad.reason}")
        else:
            error = ValidationFailed(f"The client's frame: {bad.reason}", reason="CannotParse")
        self._fail(error, bad.code, bad.reason)

    def _agent_broke_rules(self, bad: BadFrame) -> None:
        error = AgentFailed(f"The runtime's frame: {bad.reason}")
        self._fail(error, frames.INTERNAL, "the agent sent what is no frame", agent_code=bad.code)

    def _close_frame_passed(self) -> None:
        """A Close frame has passed, or the frame that was waited for has."""
        if self._last_words is not None:
            if self._to_client.at_boundary:
                self._finish_client(self._last_words)
                self._leave_agent(frames.GOING_AWAY)
        elif not self._is_closing:
            self._is_closing = True
            self._exchange.set_deadline(self._sweeper.clock() + self._limits.web_socket_close_timeout_s)

    def agent_writable(self, writable: bool) -> None:
        if self._ended:
            return
        assert self._directions is not None
        if not self._directions[0].set_reading(writable):
            self._exchange.set_reading(writable)
        if writable:
            self._blocked.discard(self)
        else:
            self._blocked.add(self)

    def check_blocked(self) -> None:
        """A client that is not read from because the agent takes nothing: has it gone? Only the kernel knows."""
        assert self._client is not None
        poll = select.poll()
        poll.register(self._client.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):  # POLLERR or POLLHUP: a FIN alone may follow bytes that are still to be passed on
            self._exchange.abort()

    # -- Tunnel: the client's side --------------------------------------------------------------------------------

    def client_writable(self, writable: bool) -> None:
        if self._agent is None:
            return
        assert self._directions is not None
        if self._directions[1].set_reading(writable):
            return
        if writable:
            self._agent.resume_reading()
        else:
            self._agent.pause_reading()

    def client_gone(self) -> None:
        if not self._ended:
            self._finish_client(None)
            self._leave_agent(None)

    def deadline_passed(self) -> None:
        if self._last_words is not None:
            self._exchange.abort()
        elif self._is_closing:
            # One has said goodbye, and the other is silent, or does not close.
            self._tell_both(self._to_agent.close_code or frames.NORMAL, "", agent_code=frames.NORMAL)
        else:
            seconds = self._limits.web_socket_timeout_s
            self._tell_both(frames.POLICY, f"the connection was open for {seconds:g} s", agent_code=frames.GOING_AWAY)

    def going_away(self) -> None:
        if not self._ended and self._last_words is None:
            self._tell_both(frames.GOING_AWAY, "the server is restarting", agent_code=frames.GOING_AWAY)

    # -- ends -----------------------------------------------------------------------------------------------------

    def agent_lost(self, exc: Exception | None) -> None:
        """The agent's connection is gone, before it was told the end."""
        self._finish_direction(1)
        self._agent = None
        self._lost(exc)
        if self._ended:
            return
        if self._to_client.close_code is not None:
            self._finish_client(None)
            return
        claim, reason = self._claim, self._claim.end_reason
        if reason is not None and reason in _NOBODYS_FAULT:
            code, why = frames.GOING_AWAY, f"the session ended: {reason.value}"
        else:
            code, why = frames.INTERNAL, claim.ended or "the agent closed the connection"
            self._exchange.error = errors.to_wire(AgentFailed(f"The runtime broke off: {why}."))
        if self._last_words is not None or not self._to_client.at_boundary:
            self._exchange.abort()
        else:
            self._finish_client(self._close_frame(code, why))

    def _fail(self, error: FreeholdError, code: int, reason: str, *, agent_code: int = frames.GOING_AWAY) -> None:
        if self._ended:
            return
        self._exchange.error = errors.to_wire(error)
        self._tell_both(code, reason, agent_code=agent_code)

    def _tell_both(self, code: int, reason: str, *, agent_code: int) -> None:
        """End both connections, each with a Close frame as soon as one can be put in, unless it has had one."""
        if self._to_client.close_code is not None:
            self._finish_client(None)
        elif self._to_client.at_boundary:
            self._finish_client(self._close_frame(code, reason))
        elif not self._ended:
            # The agent's frame goes on: it is let through to its end, and nothing after it.
            self._last_words = self._close_frame(code, reason)
            for direction in self._directions or ():
                direction.stop()
            self._exchange.set_deadline(self._sweeper.clock() + self._limits.web_socket_close_timeout_s)
            return
        self._leave_agent(agent_code, reason)

    def _close_frame(self, code: int, reason: str) -> bytes:
        self._exchange.close_code = code
        return frames.close_frame(code, reason)

    def _finish_client(self, last_words: bytes | None) -> None:
        self._ended = True
        self._finish_direction(0)
        self._blocked.discard(self)
        exchange = self._exchange
        if last_words is not None and self._client is not None:
            self._client.write(last_words)
        if self._directions is not None:
            exchange.bytes_in += self._directions[0].bytes
            exchange.bytes_out += self._directions[1].bytes
        said = self._to_client.close_code or self._to_agent.close_code
        exchange.close_code = exchange.close_code or said or 0
        exchange.end_tunnel(whole=said is not None)

    def _leave_agent(self, code: int | None, reason: str = "") -> None:
        """Tell the agent that there will be no more, and wait a moment for it to close."""
        agent, self._agent = self._agent, None
        if agent is None:
            return
        self._finish_direction(1)
        leaving = _Leaving(self._sweeper, agent, self._lost)
        agent.set_protocol(leaving)
        if agent.is_closing():
            return
        if code is not None and self._to_agent.close_code is None and self._to_agent.at_boundary:
            agent.write(frames.close_frame(code, reason, mask=os.urandom(4)))
        agent.write_eof()
        agent.resume_reading()
        leaving.deadline = self._sweeper.clock() + self._limits.web_socket_close_timeout_s
        self._sweeper.watch(leaving)

    def _finish_direction(self, number: int) -> None:
        if self._directions is not None:
            self._directions[number].finish()

    def _lost(self, exc: Exception | None) -> None:
        """The agent's connection is closed: the session has this one in flight no longer."""
        self._upstream.connection_lost(exc)
        self._claims.leave(self._claim)
