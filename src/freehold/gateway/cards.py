"""GetAgentCard: what an A2A agent says of itself, at the address by which its callers reach it.

Not for invocations. An agent can't know that address unless it was told (AGENTCORE_RUNTIME_URL), and one that was not
names its own loopback: only that is put right (`contracts.a2a`). Invariant: any other card passes byte for byte.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from freehold.domain.arns import AgentRuntimeArn
from freehold.domain.errors import AgentFailed, ValidationFailed
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway import eager, errors, headers
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Call, Callers
from freehold.gateway.claims import Claims
from freehold.gateway.contracts import a2a
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange, new_id
from freehold.gateway.fetch import Fetched, fetch
from freehold.gateway.joins import Joined, Joins
from freehold.gateway.members import CARD
from freehold.observe.tracing import Trace, Tracer

MAX_CARD_BYTES: Final = 1024 * 1024


class Cards:
    """Answers for the cards of agents."""

    def __init__(
        self,
        *,
        callers: Callers,
        directory: Directory,
        claims: Claims,
        limits: GatewayLimits,
        tracer: Tracer,
        region: str,
        public_url: str,
    ) -> None:
        self._callers = callers
        self._claims = claims
        self._joins = Joins(claims, directory)
        self._limits = limits
        self._tracer = tracer
        self._region = region
        self._public_url = public_url

    async def handle(self, exchange: Exchange, runtime: bytes) -> None:
        """Answer GetAgentCard; see exchange.Handler."""
        call = await self._callers.recognise(exchange, CARD, runtime, max_body_bytes=self._limits.max_small_body_bytes)
        call.body.close()
        if call.target.contract.protocol is not ServerProtocol.A2A:
            spoken = call.target.contract.protocol.value
            raise ValidationFailed(f"The agent runtime has no agent card: its serverProtocol is {spoken}, not A2A")
        exchange.trace = trace = self._tracer.begin(exchange.head.headers)
        session_id = call.params.get("runtimeSessionId") or new_id()
        await eager.in_task()
        joined, fetched = await self._joins.join(
            exchange, call, session_id, lambda joined: self._fetch(exchange, call, joined, trace)
        )
        self._claims.leave(joined.claim)
        self._answer(exchange, call, fetched, session_id.encode(), trace)

    async def _fetch(self, exchange: Exchange, call: Call, joined: Joined, trace: Trace) -> Fetched:
        """The card, by either spelling: the one that the caller used first. Raises NotFound, AgentFailed."""
        claim, contract = joined.claim, joined.contract
        asked_old = exchange.head.raw_path.endswith(a2a.CARD_PATHS[1])
        fetched: Fetched | None = None
        for path in reversed(a2a.CARD_PATHS) if asked_old else a2a.CARD_PATHS:
            head = headers.AgentHead(
                path,
                exchange.head.headers,
                rules=joined.rules,
                allowlist=contract.header_allowlist,
                session_id=claim.key.session_id,
                port=contract.port,
                method=b"GET",
                by_token=call.principal.by_token,
            ).of(exchange.request_id, 0, trace)
            # A card costs little to ask for, and nothing says whether an idle connection is about to be closed.
            connection = await self._claims.connection(claim, fresh=True)
            fetched = await fetch(
                connection, head, max_bytes=MAX_CARD_BYTES, timeout_s=self._limits.first_byte_timeout_s
            )
            self._claims.keep(claim, connection)
            if fetched.head.status != 404:
                break
        assert fetched is not None
        if not 200 <= fetched.head.status < 300:
            raise errors.answered_error(fetched.head.status)
        return fetched

    def _answer(self, exchange: Exchange, call: Call, fetched: Fetched, session_id: bytes, trace: Trace) -> None:
        target = call.target
        arn = AgentRuntimeArn(self._region, target.named.account, target.named.runtime_id)
        try:
            card = msgspec.json.decode(fetched.body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise AgentFailed("The runtime's agent card is not a JSON object.") from None
        path = target.contract.path or target.rules.target.decode()
        body = fetched.body
        if a2a.make_reachable(
            card, arn.url(self._public_url, target.route.endpoint), port=target.contract.port, path=path
        ):
            body = msgspec.json.encode(card)
        kept = headers.caller_lines(fetched.head, rules=target.rules, session_id=session_id, trace=trace)
        exchange.answer(200, kept, body)
