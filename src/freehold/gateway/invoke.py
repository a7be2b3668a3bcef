"""InvokeAgentRuntime: from a recognised call to a relay between the caller and the session's agent.

Not for who calls (`callers`), or for moving bytes (`relay`). Invariant: a request reaches at most one agent process; it
is sent again only when nothing of it has been delivered.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from freehold.domain.errors import FreeholdError, NotFound
from freehold.gateway import eager, mcp_sessions, resends
from freehold.gateway.bodies import Streamed
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Call, Callers
from freehold.gateway.claims import AnsweredBefore, Claims, LiveClaim
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange, new_id
from freehold.gateway.headers import AgentHead
from freehold.gateway.heads import ResponseHead
from freehold.gateway.joins import Joined, Joins
from freehold.gateway.mcp_sessions import Asked
from freehold.gateway.members import INVOKE
from freehold.gateway.messages import Message
from freehold.gateway.relay import AgentRelay
from freehold.gateway.resends import Resend
from freehold.gateway.seats import Seats
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream
from freehold.observe.tracing import Trace, Tracer


class _Taken(Exception):
    """The session is another client's, and a new one does as well."""


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
        self._joins = Joins(claims, directory)
        self._sweeper = sweeper
        self._limits = limits
        self._tracer = tracer
        self.seats: Seats | None = None
        """For requests like those that arrived (`passages`)."""

    def _keep_seat(self, exchange: Exchange, call: Call, rules: Rules, claim: LiveClaim, agent_head: AgentHead) -> None:
        """Have the next request like this one go the short way, if its head says all that decides where it goes."""
        if self._limits.asks_to_enter or rules.is_json_rpc or rules.has_sessions:
            return
        key = claim.key
        if call.params.get("runtimeSessionId") != key.session_id:
            return
        members = self._directory.members
        if self.seats is None or self.seats.members is not members:
            self.seats = Seats(members)
        self.seats.keep(exchange.head, target=call.target, rules=rules, key=key, claim=claim, agent_head=agent_head)

    async def handle(self, exchange: Exchange, runtime: bytes) -> None:
        """Answer InvokeAgentRuntime; see exchange.Handler."""
        trace = self._tracer.begin(exchange.head.headers)
        try:
            call = await self._callers.recognise(
                exchange, INVOKE, runtime, max_body_bytes=self._limits.max_payload_bytes
            )
        finally:
            if exchange.account:
                # Also when it is refused; of a caller who is not known nothing is traced.
                exchange.trace = trace
        handed_over = False
        message: Message | None = None
        try:
            if call.target.rules.is_json_rpc:
                message = await self._message(exchange, call)
            resend = await self._resend(exchange, call) if self._limits.knows_resends else None
            asked = self._asked(exchange, call, message)
            relay = await self._relay(exchange, call, asked, message, trace, resend)
            handed_over = True
        except AnsweredBefore as before:
            exchange.answer(before.answer.status, before.answer.lines, before.answer.body)
            return
        finally:
            if not handed_over:
                call.body.close()
        if isinstance(call.body, Streamed):
            take = relay.take_body if message is None else message.passing_to(relay.take_body)
            try:
                await exchange.pass_body(take)
            except BaseException:
                relay.body_broke_off()
                raise
            relay.body_sent()

    async def _resend(self, exchange: Exchange, call: Call) -> Resend | None:
        """What the request is known by when it is sent again, if its client says so. All of its body is waited for."""
        invocation = resends.invocation_id(exchange.head.headers)
        if invocation is None:
            return None
        await self._callers.hold(exchange, call)
        assert not isinstance(call.body, Streamed)  # it is held
        return Resend(invocation, call.body)

    async def _message(self, exchange: Exchange, call: Call) -> Message:
        """What is known of the JSON-RPC message. A small one is waited for: its agent does, too, before it acts."""
        size = call.body.size
        if size is None or size <= json_rpc.MAX_WHOLE_BYTES:
            await self._callers.hold(exchange, call)
        message = Message(call.body)
        exchange.render_error = partial(message.render_error, call.target.rules)
        return message

    @staticmethod
    def _asked(exchange: Exchange, call: Call, message: Message | None) -> Asked:
        if not call.target.rules.has_sessions:
            return Asked(call.params.get("runtimeSessionId") or new_id())
        return mcp_sessions.asked(
            call.params,
            exchange.head.headers,
            None if message is None else message.method,
            owner=call.principal.owner,
            version=call.target.route.version,
        )

    async def _relay(
        self,
        exchange: Exchange,
        call: Call,
        asked: Asked,
        message: Message | None,
        trace: Trace,
        resend: Resend | None,
    ) -> AgentRelay:
        body = call.body
        # Of a body that is not held nothing can be sent again: it goes where nobody is about to close.
        fresh = isinstance(body, Streamed)

        async def prepare(joined: Joined) -> tuple[AgentHead, Upstream]:
            claim, contract, rules = joined.claim, joined.contract, joined.rules
            if asked.may_move and claim.agent_session is not None:
                raise _Taken
            if contract is not call.target.contract:
                exchange.render_error = rules.render_error if message is None else partial(message.render_error, rules)
            agent_head = AgentHead(
                contract.path.encode() if contract.path else rules.target,
                exchange.head.headers,
                rules=rules,
                allowlist=contract.header_allowlist,
                session_id=claim.key.session_id,
                port=contract.port,
                added=asked.told_agent(claim.agent_session) if rules.has_sessions else None,
                by_token=call.principal.by_token,
            )
            return agent_head, await self._claims.connection(claim, fresh=fresh)

        try:
            joined, (agent_head, connection) = await self._joins.join(
                exchange, call, asked.session_id, prepare, resumes=asked.resumes, resend=resend
            )
        except _Taken:
            return await self._relay(exchange, call, asked.elsewhere(), message, trace, resend)
        claim, rules = joined.claim, joined.rules
        relay = AgentRelay(
            exchange,
            claims=self._claims,
            claim=claim,
            rules=rules,
            request_head=agent_head.of(exchange.request_id, body.size, trace),
            body=body,
            session_id=claim.key.session_id.encode(),
            sweeper=self._sweeper,
            limits=self._limits,
            trace=trace,
            admit=partial(self._admit, claim) if asked.opens and claim.agent_session is None else None,
            resend=resend,
        )
        relay.begin(connection, retry=self.begin_again)
        self._keep_seat(exchange, call, rules, claim, agent_head)
        return relay

    def _admit(self, claim: LiveClaim, head: ResponseHead) -> Coroutine[Any, Any, None] | None:
        """An answer to `initialize`: if the server has begun a session of its own, every worker has to know first."""
        made = mcp_sessions.made_by(head)
        return None if made is None else self._claims.bind(claim, made)

    def begin_again(self, relay: AgentRelay) -> None:
        """Send a request over another connection, of which nothing was delivered over the first."""

        async def begin() -> None:
            await eager.in_task()
            try:
                connection = await self._claims.connection(relay.claim, fresh=True)
            except NotFound:
                # The session was found, and its agent is gone: to the caller that is the agent's failure.
                relay.response_failed("the session ended")
                return
            except FreeholdError as error:
                relay.fail(error)
                return
            if relay.ended:
                self._claims.keep(relay.claim, connection)
            else:
                relay.begin(connection, retry=None)

        relay.exchange.continue_in(begin())
