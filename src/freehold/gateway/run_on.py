"""An agent whose client has gone, and who is to run to its end all the same (`gateway.client_disconnect = "continue"`).

For: keeping its session claimed until then, and what it says out of the way, or for when the request is sent again.
Invariant: the claim is left once.
"""

from __future__ import annotations

from collections.abc import Callable

from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.heads import ResponseHead
from freehold.gateway.resends import Resend
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream


class RunOn:
    """Takes over one request's connection from its relay; the Sink of what is still to come. Ends by itself."""

    def __init__(
        self,
        claims: Claims,
        claim: LiveClaim,
        connection: Upstream,
        sweeper: Sweeper,
        deadline: float,
        *,
        resend: Resend | None,
        lines: Callable[[ResponseHead], bytes | None],
    ) -> None:
        """`lines` are the headers that the caller would get, or None when it would not be given the answer."""
        self._claims = claims
        self._claim = claim
        self._connection = connection
        self._sweeper = sweeper
        self._resend = resend
        self._lines = lines
        self.deadline = deadline
        connection.pass_to(self)
        connection.resume_reading()
        sweeper.watch(self)

    def response_head(self, head: ResponseHead) -> None:
        """Nobody is told now."""
        if self._resend is not None:
            lines = self._lines(head)
            if lines is not None:
                self._resend.begin_answer(head.status, lines, head.framing)

    def response_body(self, raw: bytes) -> None:
        """Nobody is told now."""
        if self._resend is not None:
            self._resend.take(raw)

    def response_end(self) -> None:
        self._end()
        self._claims.keep(self._claim, self._connection)

    def response_failed(self, why: str) -> None:
        self._end()

    def upstream_writable(self) -> None:
        """All of the request has been written."""

    def expired(self, now: float) -> None:
        """As long as it may take with a client it may take without one."""
        self._connection.leave()
        self._end()

    def _end(self) -> None:
        self._sweeper.forget(self)
        self._claims.leave(self._claim, self._resend)
