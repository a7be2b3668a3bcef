"""The data plane's operations: which one a request is for, and who answers it.

Not for the wire (`server`), for who calls (`callers`), or for what InvokeAgentRuntime does (`invoke`). Invariant: every
path of the data plane is known here; any other goes to control.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from freehold.auth.sigv4 import SignatureRefused
from freehold.domain.errors import FreeholdError, NotFound, SessionEnded
from freehold.gateway import cors, headers
from freehold.gateway.bearers import Bearers
from freehold.gateway.bodies import document_of
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Call, Callers
from freehold.gateway.cards import Cards
from freehold.gateway.claims import Claims
from freehold.gateway.contracts import mcp
from freehold.gateway.directory import Directory
from freehold.gateway.errors import UnknownOperation
from freehold.gateway.exchange import Exchange
from freehold.gateway.invoke import Invocations
from freehold.gateway.joins import note, session_key
from freehold.gateway.members import CARD, INVOKE, STOP, WEB_SOCKET
from freehold.gateway.observer import Observer
from freehold.gateway.passages import Host, Passages
from freehold.gateway.resource_metadata import Resources
from freehold.gateway.sources import Sources
from freehold.gateway.spool import Spools
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.targets import Targets
from freehold.gateway.websocket.opening import WebSockets
from freehold.observe.tracing import Tracer

PREFIX: Final = b"/runtimes/"
METADATA: Final = "GetRuntimeProtectedResourceMetadata"
_OPERATIONS: Final[dict[bytes, str]] = {
    b"invocations": INVOKE,
    b"invocations/": INVOKE,
    b"stopruntimesession": STOP,
    b"stopruntimesession/": STOP,
    b"commands": "InvokeAgentRuntimeCommand",
    b"invocations/.well-known/agent-card.json": CARD,
    b"invocations/.well-known/agent.json": CARD,
    b"invocations/.well-known/oauth-protected-resource": METADATA,
    b"ws": WEB_SOCKET,
    b"ws/shells": "InvokeAgentRuntimeCommandShell",
}
"""What follows the runtime in a path of the data plane. Source: spec section 0."""
_PLAIN_ARN: Final = re.compile(rb"([^/]+(?::|%3[Aa])runtime/[^/]+)/(ws|ws/shells)")
"""AWS's samples for browsers open WebSockets by ARNs that are not percent-encoded (spec section 0)."""
_METHODS: Final = {INVOKE: "POST", STOP: "POST", CARD: "GET", METADATA: "GET"}
_IDENTITY_PREFIX: Final = b"/identities/"
_IDENTITIES: Final = frozenset(
    {b"GetWorkloadAccessToken", b"GetWorkloadAccessTokenForJWT", b"GetWorkloadAccessTokenForUserId"}
)


def operation_of(raw_path: bytes) -> tuple[str, bytes] | None:
    """The data plane's operation that a path names, and the runtime's part of it; None for any other path."""
    if raw_path.startswith(PREFIX):
        runtime, _, rest = raw_path[len(PREFIX) :].partition(b"/")
        operation = _OPERATIONS.get(rest)
        if operation is None and (plain := _PLAIN_ARN.fullmatch(raw_path, len(PREFIX))):
            return _OPERATIONS[plain[2]], plain[1]
        return None if operation is None or not runtime else (operation, runtime)
    if raw_path.startswith(_IDENTITY_PREFIX):
        last = raw_path[len(_IDENTITY_PREFIX) :]
        return (last.decode(), b"") if last in _IDENTITIES else None
    return None


class DataPlane:
    """Answers the data plane's requests."""

    def __init__(
        self,
        *,
        directory: Directory,
        claims: Claims,
        sweeper: Sweeper,
        limits: GatewayLimits,
        spools: Spools,
        sources: Sources,
        region: str,
        public_url: str,
        jwt_skew_s: float,
        now: Callable[[], float],
        tracer: Tracer,
    ) -> None:
        self._directory = directory
        self._claims = claims
        self._sweeper = sweeper
        self._tracer = tracer
        self._limits = limits
        self._targets = targets = Targets(directory, region=region)
        self._resources = Resources(public_url, region)
        self._bearers = Bearers(directory.key_sets, self._resources, now=now, skew_s=jwt_skew_s, clock=sweeper.clock)
        self._callers = Callers(
            directory,
            targets,
            self._bearers,
            limits=limits,
            spools=spools,
            sources=sources,
            region=region,
            now=lambda: datetime.fromtimestamp(now(), UTC),
        )
        self._invocations = Invocations(
            callers=self._callers, directory=directory, claims=claims, sweeper=sweeper, limits=limits, tracer=tracer
        )
        self._web_sockets = WebSockets(
            callers=self._callers, directory=directory, claims=claims, sweeper=sweeper, limits=limits, tracer=tracer
        )
        self._cards = Cards(
            callers=self._callers,
            directory=directory,
            claims=claims,
            limits=limits,
            tracer=tracer,
            region=region,
            public_url=public_url,
        )

    def passages(self, host: Host, observer: Observer) -> Passages:
        """Who takes the requests of `host` that need not be exchanges."""
        return Passages(
            host,
            invocations=self._invocations,
            callers=self._callers,
            claims=self._claims,
            sweeper=self._sweeper,
            limits=self._limits,
            tracer=self._tracer,
            observer=observer,
        )

    def handle(self, exchange: Exchange, operation: str, runtime: bytes) -> Coroutine[Any, Any, None] | None:
        """Answer a request for `operation`; see exchange.Handler."""
        exchange.operation = operation
        method = _METHODS.get(operation)
        if exchange.head.method == "OPTIONS":
            return self._preflight(exchange, runtime, method or "GET")
        if operation == INVOKE and exchange.head.method == "DELETE" and mcp.names_session(exchange.head.headers):
            return self._terminate(exchange, runtime)
        if method is not None and exchange.head.method != method:
            return self._refuse_method(exchange, runtime, method)
        if operation == METADATA:
            return self._metadata(exchange, runtime)
        if operation == INVOKE:
            return self._invocations.handle(exchange, runtime)
        if operation == WEB_SOCKET:
            return self._web_sockets.handle(exchange, runtime)
        if operation == STOP:
            return self._stop(exchange, runtime)
        if operation == CARD:
            return self._cards.handle(exchange, runtime)
        return self._unknown(exchange, operation)

    async def _refuse_method(self, exchange: Exchange, runtime: bytes, method: str) -> None:
        await self._answers_pages(exchange, runtime)
        _answer_wrong_method(exchange, method)

    async def _unknown(self, exchange: Exchange, operation: str) -> None:
        await self._callers.authenticate(exchange)
        raise UnknownOperation(f"Freehold does not have the operation {operation} yet")

    async def _answers_pages(self, exchange: Exchange, runtime: bytes) -> bool:
        """Whether pages in browsers may call the runtime: then this answer says so."""
        try:
            target = await self._targets.find(runtime, exchange.head.raw_query)
        except FreeholdError:
            return False
        if target.contract.authorizer is None:
            return False
        exchange.also = cors.ANSWER
        return True

    async def _preflight(self, exchange: Exchange, runtime: bytes, method: str) -> None:
        """A browser asks whether a page may call. Nobody else sends OPTIONS; no token comes with it."""
        if not await self._answers_pages(exchange, runtime):
            raise SignatureRefused.missing()
        exchange.answer(200, cors.preflight(exchange.head.headers, method.encode()), b"")

    async def _metadata(self, exchange: Exchange, runtime: bytes) -> None:
        """Where to get tokens for a runtime: for anybody. One that takes none is as one that is not there."""
        target = await self._targets.find(runtime, exchange.head.raw_query)
        if target.contract.authorizer is None:
            raise target.named.not_found()
        exchange.also = cors.ANSWER
        document = self._resources.document(target, await self._bearers.issuer(target))
        exchange.answer(200, [(b"content-type", b"application/json")], document)

    async def _stop(self, exchange: Exchange, runtime: bytes) -> None:
        call = await self._callers.recognise(exchange, STOP, runtime, max_body_bytes=self._limits.max_small_body_bytes)
        params = await self._with_document(exchange, call, STOP, runtime)
        session_id: str = params["runtimeSessionId"]
        note(exchange, call.target, session_id)
        try:
            await self._claims.stop(session_key(call, session_id))
        except NotFound:
            raise NotFound(f"No running session '{session_id}' found for agent '{call.target.named.given}'") from None
        told = [(b"content-type", b"application/json"), (headers.SESSION_ID, session_id.encode())]
        exchange.answer(200, told, b"{}")

    async def _terminate(self, exchange: Exchange, runtime: bytes) -> None:
        """An MCP client ends its session: what StopRuntimeSession does, in the protocol's own words."""
        bound = self._limits.max_small_body_bytes
        call = await self._callers.recognise(exchange, INVOKE, runtime, max_body_bytes=bound)
        call.body.close()
        if not call.target.rules.has_sessions:
            _answer_wrong_method(exchange, "POST")
            return
        session_id: str = call.params["mcpSessionId"]
        note(exchange, call.target, session_id)
        try:
            await self._claims.stop(session_key(call, session_id))
        except NotFound:
            raise SessionEnded(f"The session '{session_id}' has ended") from None
        exchange.answer(200, [], b"")

    async def _with_document(self, exchange: Exchange, call: Call, operation: str, runtime: bytes) -> dict[str, Any]:
        """The operation's parameters, also those in the body."""
        try:
            document = await document_of(exchange, call.body)
        finally:
            call.body.close()
        head = exchange.head
        return self._directory.members.read(operation, runtime, head.raw_query, head.headers, document)


def _answer_wrong_method(exchange: Exchange, method: str) -> None:
    body = msgspec.json.encode({"message": f"Method Not Allowed. Use {method}."})
    exchange.answer(405, [(b"content-type", b"application/json"), (b"allow", method.encode())], body)
