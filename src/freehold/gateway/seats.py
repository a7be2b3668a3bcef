"""Seats: what a request of a session in use needs, found by what the request says, as it was found for one before it.

For: `invoke`, which takes a seat instead of going through all that leads to one. Not for who calls: that is found out
anew for every request. Invariant: a seat is found only by a request that says what the one that made it said, in every
header that has a say in where it goes or reaches the agent, and only while what was learnt of its target still holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from freehold.domain.sessions import SessionKey
from freehold.gateway import cors
from freehold.gateway.claims import LiveClaim
from freehold.gateway.contracts.base import Rules
from freehold.gateway.familiar import FamiliarHead, FirstLine, Recent, Shape
from freehold.gateway.headers import SESSION_ID, AgentHead
from freehold.gateway.heads import RequestHead
from freehold.gateway.members import Members
from freehold.gateway.targets import Target
from freehold.observe import trace_context
from freehold.observe.access_log import Alike
from freehold.observe.counts import Series

MAX_SEATS: Final = 4096
MAX_SEAT_BYTES: Final = 4096
"""Of what a request says, for it to get a seat."""
MAX_NAMES: Final = 512
MAX_VIEWS: Final = 256
_QUERY: Final = re.compile(rb"(?:qualifier=[A-Za-z0-9_]*)?")
"""Queries that say nothing of who calls."""
_NO_SEATS: Final = frozenset({b"sec-websocket-protocol"})
"""Headers that may hold other credentials."""


class Seat:
    """A session's. `claim` may have ended."""

    __slots__ = (
        "agent_head",
        "answer_lines",
        "by_token",
        "claim",
        "compiled",
        "is_traced",
        "key",
        "log_lines",
        "rules",
        "series",
        "session_id",
        "target",
    )

    def __init__(
        self,
        target: Target,
        rules: Rules,
        key: SessionKey,
        claim: LiveClaim,
        agent_head: AgentHead,
        *,
        is_traced: bool,
    ) -> None:
        self.target = target
        self.rules = rules
        self.key = key
        self.session_id = key.session_id.encode()
        self.claim = claim
        self.agent_head = agent_head
        self.is_traced = is_traced
        """Whether its requests may tell of a trace."""
        self.by_token = target.contract.authorizer is not None
        self.answer_lines = b"%b: %b\r\n%b" % (SESSION_ID, self.session_id, cors.ANSWER if self.by_token else b"")
        """What all answers have."""
        self.series: Series | None = None
        """Where its requests are counted, once one has been."""
        self.log_lines: Alike | None = None
        """What is logged of each of them, once one has been."""
        self.compiled: object = None
        """What `fastpath` has made of it."""


class View:
    """What there is to see in heads of one shape."""

    __slots__ = ("authorization", "bounded", "compiled", "told", "told_at")

    def __init__(self, shape: Shape, names: frozenset[bytes], bounds: Mapping[bytes, int]) -> None:
        places = {name: at for at, name in enumerate(shape.names)}
        self.authorization = -1 if places.keys() & _NO_SEATS else places.get(b"authorization", -1)
        self.bounded = tuple((places[name], most) for name, most in bounds.items() if name in places)
        """Where values are that say nothing as long as they are no longer than this."""
        self.told_at = [at for name, at in places.items() if name in names]
        self.told: Callable[[Sequence[bytes]], Any] | None = itemgetter(*self.told_at) if self.told_at else None
        self.compiled: object = None
        """What `fastpath` has made of it."""


class Seats:
    """The seats of one worker, for requests whose parameters `members` reads."""

    def __init__(self, members: Members) -> None:
        self.members: Final = members
        self._bounds = members.bounds(trace_context.NAMES)
        self._names = members.headers - self._bounds.keys()
        """Of headers that have a say in where a request goes, or reach the agent."""
        self.views: dict[Shape, View] = {}
        self.recent: Recent[tuple[FirstLine, View, Any], Seat] = Recent(MAX_SEATS)
        """Seats by a first line, a view and what is told in it."""

    def find(self, head: FamiliarHead) -> tuple[Seat, bytes] | None:
        """The seat for a request, if there is one, and the value of its one Authorization header."""
        view = self.views.get(head.shape)
        if view is None or view.told is None:
            return None
        values = head.values
        seat = self.recent.get((head.first, view, view.told(values)))
        if seat is None or not seat.target.standing.current:
            return None
        for at, most in view.bounded:
            if len(values[at]) > most or not values[at].isascii():
                return None
        return seat, values[view.authorization]

    def keep(
        self,
        head: RequestHead,
        *,
        target: Target,
        rules: Rules,
        key: SessionKey,
        claim: LiveClaim,
        agent_head: AgentHead,
    ) -> None:
        """Have a seat for requests that say what this one says, which has gone all the way."""
        if not isinstance(head, FamiliarHead) or not _QUERY.fullmatch(head.raw_query):
            return
        if not agent_head.kept <= self._names:
            if b"authorization" in agent_head.kept or len(self._names | agent_head.kept) > MAX_NAMES:
                return
            self._names |= agent_head.kept
            self.views.clear()
        view = self.views.get(head.shape)
        if view is None:
            if len(self.views) >= MAX_VIEWS:
                self.views.clear()
            view = self.views[head.shape] = View(head.shape, self._names, self._bounds)
        if view.told is None or view.authorization < 0:
            return
        told = view.told(head.values)
        if len(told if isinstance(told, bytes) else b"".join(told)) <= MAX_SEAT_BYTES:
            seat = Seat(target, rules, key, claim, agent_head, is_traced=bool(view.bounded))
            self.recent.put((head.first, view, told), seat)
