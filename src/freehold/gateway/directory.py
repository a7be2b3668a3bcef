"""What control has told this worker: routes, contracts, access keys.

Not for deciding anything: control knows. Invariant: nothing is remembered beyond control's `Changed`, nor beyond a
new connection to it; while control is away nothing can change, so what is known stays good. (Keys of identity
providers, which change without control, have rules of their own: `key_sets`.)
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

import structlog

from freehold import ipc
from freehold.auth.keys import AccessKey
from freehold.control import protocol
from freehold.domain.errors import NotFound, Unavailable
from freehold.gateway import eager
from freehold.gateway.key_sets import KeySets
from freehold.gateway.members import Members
from freehold.observe.spans import SpanRecord

MAX_REMEMBERED: Final = 10_000
"""Answers of each kind."""
_ANSWER_TIMEOUT_S: Final = 10.0
_HELLO_TIMEOUT_S: Final = 5.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
log = structlog.get_logger(__name__)


class Standing:
    """Whether what was learnt of a runtime after this was asked for still holds. Once it does not, it never will."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = True


class Directory:
    """A worker's view of control. Also its KeySource. Make it inside the event loop."""

    def __init__(
        self,
        path: str,
        *,
        worker: int,
        counts: Callable[[int], protocol.GatewayCounts] | None = None,
        answer_timeout_s: float = _ANSWER_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`counts` answers control's questions for them, given the first series that is wanted."""
        self._counts = counts
        self._worker = worker
        self._answer_timeout_s = answer_timeout_s
        self._keys: OrderedDict[str, AccessKey] = OrderedDict()
        self._routes: OrderedDict[tuple[str, str, str], protocol.EndpointRoute] = OrderedDict()
        self._contracts: OrderedDict[tuple[str, str, int], protocol.Contract] = OrderedDict()
        self.key_sets: Final = KeySets(self._ask, clock=clock)
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._members: Members | None = None
        self._link = ipc.Link(path, protocol.REPLIES, handler=self._told, on_connect=self._greet)

    @property
    def connected(self) -> bool:
        return self._link.connected

    async def until_connected(self) -> None:
        """Wait until control has been reached, and answers."""
        await self._link.until_connected()

    @property
    def members(self) -> Members:
        """The service model's view of requests. Raises Unavailable before control has first been reached."""
        if self._members is None:
            raise Unavailable("The server is starting, please retry")
        return self._members

    async def aclose(self) -> None:
        await self._link.aclose()

    def known(self, access_key_id: str) -> AccessKey | None:
        """See auth.keys.KeySource."""
        return self._keys.get(access_key_id)

    async def get(self, access_key_id: str) -> AccessKey | None:
        """See auth.keys.KeySource."""
        known = self._keys.get(access_key_id)
        if known is not None:
            return known
        try:
            told: protocol.AccessKey = await self._ask(protocol.GetAccessKey(access_key_id))
        except NotFound:
            return None
        key = AccessKey(told.access_key_id, told.account, told.secret, told.session_token, told.expires_at)
        _remember(self._keys, access_key_id, key)
        return key

    def standing(self, runtime_id: str) -> Standing:
        """To be had before what it is about is asked for."""
        found = self._standings.get(runtime_id)
        if found is None:
            found = self._standings[runtime_id] = Standing()
            if len(self._standings) > MAX_REMEMBERED:
                # Whoever has it would not hear of a change any more.
                self._standings.popitem(last=False)[1].current = False
        return found

    async def route(self, account: str, runtime_id: str, qualifier: str) -> protocol.EndpointRoute:
        """Which version an endpoint serves. Raises NotFound, Unavailable."""
        wanted = (account, runtime_id, qualifier)
        known = self._routes.get(wanted)
        if known is None:
            known = await self._ask(protocol.ResolveEndpoint(account, runtime_id, qualifier))
            _remember(self._routes, wanted, known)
        return known

    async def contract(self, account: str, runtime_id: str, version: int) -> protocol.Contract:
        """How to speak to sessions of a version. Raises NotFound, Unavailable."""
        wanted = (account, runtime_id, version)
        known = self._contracts.get(wanted)
        if known is None:
            known = await self._ask(protocol.GetContract(account, runtime_id, version))
            _remember(self._contracts, wanted, known)
        return known

    async def _ask(self, question: ipc.Body) -> Any:
        # Whoever asks goes on in the step of the loop in which the answer was read or the one after, and so before
        # a Changed that control sent later is acted on: what it remembers is forgotten in time.
        await eager.in_task()
        answer, fds = await self._link.call(question, timeout_s=self._answer_timeout_s)
        ipc.close_all(fds)
        return answer

    async def _greet(self, peer: ipc.Peer) -> None:
        self._keys.clear()
        self._routes.clear()
        self._contracts.clear()
        self.key_sets.doubt()
        for standing in self._standings.values():
            standing.current = False
        self._standings.clear()
        try:
            welcome, fds = await peer.call(protocol.Hello(self._worker), timeout_s=_HELLO_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable("control does not answer") from None
        ipc.close_all(fds)
        self._members = Members(welcome.data_plane)

    def send_spans(self, spans: list[SpanRecord]) -> None:
        """Hand them to control. Lost when it is away (see `connected`)."""
        self._link.notify(protocol.SpansEnded(spans))

    async def _told(self, _peer: ipc.Peer, message: Any, fds: list[int]) -> ipc.Body | None:
        ipc.close_all(fds)
        if isinstance(message, protocol.GetCounts) and self._counts is not None:
            return self._counts(message.start)
        self._forget(message)
        return None

    def _forget(self, message: Any) -> None:
        if not isinstance(message, protocol.Changed):
            log.warning("gateway.unexpected_message", message=type(message).__name__)
            return
        for key_id in message.access_key_ids:
            self._keys.pop(key_id, None)
        self.key_sets.forget(message.key_sets)
        changed = set(message.runtime_ids)
        if changed:
            for runtime_id in changed & self._standings.keys():
                self._standings.pop(runtime_id).current = False
            for wanted in [w for w in self._routes if w[1] in changed]:
                del self._routes[wanted]
            for version in [w for w in self._contracts if w[1] in changed]:
                del self._contracts[version]


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
