"""InvokeAgentRuntime: from a recognised call to a relay between the caller and the session's agent.

Not for who calls (`callers`), or for moving bytes (`relay`). Invariant: a request reaches at most one agent process; it
is sent again only when nothing of it has been delivered.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from freehold.domain.errors import FreeholdError, NotFound, RetryableConflict
from freehold.domain.sessions import SessionKey
from freehold.gateway import eager, headers
from freehold.gateway.bodies import Streamed
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Call, Callers
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange, new_id
from freehold.gateway.members import INVOKE
from freehold.gateway.relay import AgentRelay
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.targets import Target, rules_of
from freehold.observe.tracing import Trace, Tracer

_MAX_ATTEMPTS: Final = 3


class Invocations:
    """Relays invocations."""

    def __init__(
        self,
        *,
        callers: Callers,
        directory: Directory,
        claims: Claims,
        sweeper: Sweeper,
        limits: GatewayLimits,
        tracer: Tracer,
    ) -> None:
        self._callers = callers
        self._directory = directory
        self._claims = claims
        self._sweeper = sweeper
        self._limits = limits
        self._tracer = tracer

    async def handle(self, exchange: Exchange, runtime: bytes) -> None:
        """Answer InvokeAgentRuntime; see exchange.Handler."""
        call = await self._callers.recognise(exchange, INVOKE, runtime, max_body_bytes=self._limits.max_payload_bytes)
        handed_over = False
        try:
            exchange.trace = trace = self._tracer.begin(exchange.head.headers)
            key = session_key(call, call.params.get("runtimeSessionId") or new_id())
            note(exchange, call.target, key.session_id)
            relay = await self._relay(exchange, call, key, trace)
            handed_over = True
        finally:
            if not handed_over:
                call.body.close()
        if isinstance(call.body, Streamed):
            try:
                await exchange.pass_body(relay.take_body)
            except BaseException:
                relay.body_broke_off()
                raise
            relay.body_sent()

    async def _relay(self, exchange: Exchange, call: Call, key: SessionKey, trace: Trace) -> AgentRelay:
        target, body = call.target, call.body
        # Of a body that is not held nothing can be sent again: it goes where nobody is about to close.
        fresh = isinstance(body, Streamed)
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
                    rules = rules_of(contract)
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
                connection = await self._claims.connection(claim, fresh=fresh)
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
            return relay
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


def session_key(call: Call, session_id: str) -> SessionKey:
    """Whose session, and which."""
    return SessionKey(
        account=call.target.named.account,
        runtime_id=call.target.named.runtime_id,
        endpoint=call.target.route.endpoint,
        owner=call.principal.owner,
        session_id=session_id,
    )


def note(exchange: Exchange, target: Target, session_id: str) -> None:
    """For whoever watches (`observer`). Only once the caller is known to own the target."""
    exchange.runtime_id = target.named.runtime_id
    exchange.endpoint = target.route.endpoint
    exchange.session_id = session_id
