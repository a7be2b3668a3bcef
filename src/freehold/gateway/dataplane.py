"""The data plane's operations: who calls, which session, and the way to it.

Not for the wire (`server`) or for moving bytes (`relay`). Invariant: until the signature over the whole request has
been found right, an answer depends on nothing but the request, the key's existence and the clock: what is wrong with
its target is told afterwards, and a body for nothing is hashed but not kept.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from freehold.auth.sigv4 import Head, Pending, Verifier
from freehold.control.protocol import Contract, EndpointRoute
from freehold.domain import arns
from freehold.domain.errors import FreeholdError, NotFound, RetryableConflict, ValidationFailed
from freehold.domain.principals import Principal
from freehold.domain.runtimes import DEFAULT_ENDPOINT
from freehold.domain.sessions import SessionKey
from freehold.gateway import contracts, eager, headers
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.contracts.base import Rules
from freehold.gateway.directory import Directory
from freehold.gateway.errors import UnknownOperation
from freehold.gateway.exchange import Exchange
from freehold.gateway.members import INVOKE, STOP
from freehold.gateway.relay import AgentRelay
from freehold.gateway.spool import Budget, Spool, too_large
from freehold.gateway.sweeper import Sweeper
from freehold.observe.tracing import Trace, Tracer

PREFIX: Final = b"/runtimes/"
_OPERATIONS: Final[dict[bytes, str]] = {
    b"invocations": INVOKE,
    b"invocations/": INVOKE,
    b"stopruntimesession": STOP,
    b"stopruntimesession/": STOP,
    b"commands": "InvokeAgentRuntimeCommand",
    b"invocations/.well-known/agent-card.json": "GetAgentCard",
    b"invocations/.well-known/oauth-protected-resource": "GetRuntimeProtectedResourceMetadata",
    b"ws": "InvokeAgentRuntimeWithWebSocketStream",
    b"ws/shells": "InvokeAgentRuntimeCommandShell",
}
"""What follows the runtime in a path of the data plane. Source: spec section 0."""
_IDENTITY_PREFIX: Final = b"/identities/"
_IDENTITIES: Final = frozenset(
    {b"GetWorkloadAccessToken", b"GetWorkloadAccessTokenForJWT", b"GetWorkloadAccessTokenForUserId"}
)
_MAX_ATTEMPTS: Final = 3
_ACCESS_KEY: Final = re.compile(rb"Credential=([A-Za-z0-9]{1,128})/")


@dataclass(frozen=True, slots=True)
class Named:
    """What a request's path and query name, as text; nothing of it is known to exist."""

    given: str
    """The runtime as the caller wrote it, decoded."""
    account: str
    runtime_id: str
    qualifier: str

    def not_found(self) -> NotFound:
        return NotFound(f"No endpoint or agent found with qualifier '{self.qualifier}' for agent '{self.given}'")


@dataclass(frozen=True, slots=True)
class _Target:
    named: Named
    route: EndpointRoute
    contract: Contract
    rules: Rules


def operation_of(raw_path: bytes) -> tuple[str, bytes] | None:
    """The data plane's operation that a path names, and the runtime's part of it; None for any other path."""
    if raw_path.startswith(PREFIX):
        runtime, _, rest = raw_path[len(PREFIX) :].partition(b"/")
        operation = _OPERATIONS.get(rest)
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
        region: str,
        now: Callable[[], datetime],
        tracer: Tracer,
    ) -> None:
        self._tracer = tracer
        self._directory = directory
        self._claims = claims
        self._sweeper = sweeper
        self._limits = limits
        self._region = region
        self._now = now
        self._verifier = Verifier(directory, region=region)
        self._budget = Budget(per_key_bytes=limits.spool_bytes_per_key, total_bytes=limits.spool_bytes_total)

    async def handle(self, exchange: Exchange, operation: str, runtime: bytes) -> None:
        """Answer a request for `operation`; see exchange.Handler."""
        exchange.operation = operation
        if operation in (INVOKE, STOP) and exchange.head.method != "POST":
            body = msgspec.json.encode({"message": "Method Not Allowed. Use POST."})
            exchange.answer(405, [(b"content-type", b"application/json"), (b"allow", b"POST")], body)
        elif operation == INVOKE:
            await self._invoke(exchange, runtime)
        elif operation == STOP:
            await self._stop(exchange, runtime)
        else:
            verdict = UnknownOperation(f"Freehold does not have the operation {operation} yet")
            await self._authenticate(exchange)
            raise verdict

    # -- operations -----------------------------------------------------------------------------------------------

    async def _invoke(self, exchange: Exchange, runtime: bytes) -> None:
        head = exchange.head
        pending = await self._check_head(exchange)
        if head.content_length is not None and head.content_length > self._limits.max_payload_bytes:
            raise too_large(self._limits.max_payload_bytes)
        target: _Target | None = None
        verdict: FreeholdError | None = None
        session_id: str | None = None
        try:
            params = self._directory.members.read(INVOKE, runtime, head.raw_query, head.headers)
            session_id = params.get("runtimeSessionId")
            target = await self._resolve(params)
        except FreeholdError as error:
            verdict = error
        body = self._spool(exchange, self._limits.max_payload_bytes, keep=verdict is None)
        handed_over = False
        try:
            await exchange.read_body(body.write)
            principal = pending.finish(body.sha256())
            exchange.account = principal.account
            exchange.trace = trace = self._tracer.begin(head.headers)
            _check_account(principal, target)
            if target is not None:
                _note(exchange, target, session_id)
                exchange.render_error = target.rules.render_error
            if verdict is not None or target is None:
                raise verdict or RuntimeError("a request without a target has a verdict")
            key = self._session_key(principal, target, session_id or str(uuid.uuid4()))
            exchange.session_id = key.session_id
            await self._relay(exchange, target, key, body, trace)
            handed_over = True
        finally:
            if not handed_over:
                body.close()

    async def _relay(self, exchange: Exchange, target: _Target, key: SessionKey, body: Spool, trace: Trace) -> None:
        for _ in range(_MAX_ATTEMPTS):
            try:
                claim = await self._claims.join(key, target.route.version)
            except NotFound:
                raise target.named.not_found() from None
            exchange.generation = claim.generation
            try:
                rules, contract = target.rules, target.contract
                if claim.version != contract.version:
                    contract = await self._directory.contract(key.account, key.runtime_id, claim.version)
                    rules = _rules(contract)
                    exchange.render_error = rules.render_error
                request_head = headers.agent_request(
                    rules.target,
                    exchange.head.headers,
                    also=rules.request_headers,
                    allowlist=frozenset(allowed.encode() for allowed in contract.header_allowlist),
                    session_id=key.session_id,
                    request_id=exchange.request_id,
                    port=contract.port,
                    content_length=body.size,
                    trace=trace.context,
                )
                connection = await self._claims.connection(claim)
            except NotFound:
                # Nothing has been sent: whoever joins now gets a new session.
                self._claims.forget(claim)
                self._claims.leave(claim)
                continue
            except BaseException:
                self._claims.leave(claim)
                raise
            relay = AgentRelay(
                exchange,
                claims=self._claims,
                claim=claim,
                rules=rules,
                request_head=request_head,
                body=body,
                session_id=key.session_id.encode(),
                sweeper=self._sweeper,
                limits=self._limits,
                trace=trace.context,
            )
            relay.begin(connection, on_undelivered=partial(self._begin_again, exchange, relay, claim))
            return
        raise RetryableConflict("Session operation in progress, please retry")

    def _begin_again(self, exchange: Exchange, relay: AgentRelay, claim: LiveClaim) -> None:
        async def begin() -> None:
            await eager.in_task()
            try:
                connection = await self._claims.connection(claim, fresh=True)
            except FreeholdError as error:
                relay.fail(error)
                return
            if relay.ended:
                self._claims.keep(claim, connection)
            else:
                relay.begin(connection, on_undelivered=None)

        exchange.continue_in(begin())

    async def _stop(self, exchange: Exchange, runtime: bytes) -> None:
        head = exchange.head
        pending = await self._check_head(exchange)
        body = self._spool(exchange, self._limits.max_small_body_bytes)
        try:
            await exchange.read_body(body.write)
            principal = pending.finish(body.sha256())
            document = body.in_memory() or b""
        finally:
            body.close()
        params = self._directory.members.read(STOP, runtime, head.raw_query, head.headers, document)
        exchange.account = principal.account
        target = await self._resolve(params)
        _check_account(principal, target)
        session_id: str = params["runtimeSessionId"]
        _note(exchange, target, session_id)
        try:
            await self._claims.stop(self._session_key(principal, target, session_id))
        except NotFound:
            raise NotFound(f"No running session '{session_id}' found for agent '{target.named.given}'") from None
        told = [(b"content-type", b"application/json"), (headers.SESSION_ID, session_id.encode())]
        exchange.answer(200, told, b"{}")

    # -- their parts ----------------------------------------------------------------------------------------------

    async def _check_head(self, exchange: Exchange) -> Pending:
        head = exchange.head
        signed = Head(head.method, head.raw_path, head.raw_query, head.headers)
        return await self._verifier.check_head(signed, now=self._now())

    async def _authenticate(self, exchange: Exchange) -> None:
        pending = await self._check_head(exchange)
        body = self._spool(exchange, self._limits.max_payload_bytes, keep=False)
        await exchange.read_body(body.write)
        exchange.account = pending.finish(body.sha256()).account

    def _spool(self, exchange: Exchange, max_bytes: int, *, keep: bool = True) -> Spool:
        key = b""
        for header, value in exchange.head.headers:
            if header == b"authorization":
                match = _ACCESS_KEY.search(value)
                key = match[1] if match else b""
        return Spool(
            self._budget,
            key.decode(),
            max_bytes=max_bytes,
            memory_bytes=self._limits.memory_spool_bytes,
            keep=keep,
        )

    async def _resolve(self, params: dict[str, Any]) -> _Target:
        named = name(params, region=self._region)
        try:
            route = await self._directory.route(named.account, named.runtime_id, named.qualifier)
            contract = await self._directory.contract(named.account, named.runtime_id, route.version)
        except NotFound:
            raise named.not_found() from None
        return _Target(named, route, contract, _rules(contract))

    @staticmethod
    def _session_key(principal: Principal, target: _Target, session_id: str) -> SessionKey:
        return SessionKey(
            account=principal.account,
            runtime_id=target.named.runtime_id,
            endpoint=target.route.endpoint,
            owner=principal.owner,
            session_id=session_id,
        )


def _check_account(principal: Principal, target: _Target | None) -> None:
    """Raise NotFound when the runtime is another account's: the same answer as for one that is not there."""
    if target is not None and target.named.account != principal.account:
        raise target.named.not_found()


def _note(exchange: Exchange, target: _Target, session_id: str | None) -> None:
    """For whoever watches (`observer`). Only once the caller is known to own the target."""
    exchange.runtime_id = target.named.runtime_id
    exchange.endpoint = target.route.endpoint
    exchange.session_id = session_id or ""


def _rules(contract: Contract) -> Rules:
    rules = contracts.REGISTRY.get(contract.protocol)
    if rules is None:
        raise UnknownOperation(f"Freehold does not relay to {contract.protocol} agents yet")
    return rules


def name(params: dict[str, Any], *, region: str) -> Named:
    """The endpoint that a request's parameters name. Raises ValidationFailed, or NotFound for what can't exist."""
    given: str = params["agentRuntimeArn"]
    qualifier: str = params.get("qualifier") or DEFAULT_ENDPOINT
    account_id: str | None = params.get("accountId")
    arn = arns.parse_runtime(given)
    if arn is not None:
        named = Named(given, arn.account, arn.runtime_id, qualifier)
        if arn.region != region or (account_id is not None and account_id != arn.account):
            raise named.not_found()
        return named
    if not arns.is_runtime_id(given):
        raise Named(given, "", "", qualifier).not_found()
    if account_id is None:
        raise ValidationFailed("accountId is required when agentRuntimeArn is the id of an agent runtime, not its ARN")
    return Named(given, account_id, given, qualifier)
