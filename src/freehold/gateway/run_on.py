"""An agent whose client has gone, and who is to run to its end all the same (`gateway.client_disconnect = "continue"`).

For: keeping its session claimed until then, and what it says out of the way. Invariant: the claim is left once.
"""

from __future__ import annotations

from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.heads import ResponseHead
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream


class RunOn:
    """Takes over one request's connection from its relay; the Sink of what is still to come. Ends by itself."""

    def __init__(
        self, claims: Claims, claim: LiveClaim, connection: Upstream, sweeper: Sweeper, deadline: float
    ) -> None:
        self._claims = claims
        self._claim = claim
        self._connection = connection
        self._sweeper = sweeper
        self.deadline = deadline
        connection.pass_to(self)
        connection.resume_reading()
        sweeper.watch(self)

    def response_head(self, head: ResponseHead) -> None:
        """Nobody is told."""

    def response_body(self, raw: bytes) -> None:
        """Nobody is told."""

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
        self._claims.leave(self._claim)
