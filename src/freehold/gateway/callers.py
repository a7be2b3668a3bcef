"""Who calls, and what for: every request of the data plane is recognised here before anything is done for it.

A runtime version with an authorizer takes JWT, and its callers' bodies stream at once; any other takes SigV4, whose
signature covers the body, so that is held until all of it has come. Not for the checks themselves (`auth`, `bearers`).
Invariant: until the caller is known, an answer depends on nothing but the request, the key's existence, the clock and
whether the target takes JWT: what is wrong with a request is told afterwards, and a body for nothing is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from freehold.auth import sigv4
from freehold.auth.sigv4 import Pending, SignatureRefused, Verifier
from freehold.domain.errors import FreeholdError
from freehold.domain.principals import Principal
from freehold.gateway.bearers import Bearers
from freehold.gateway.bodies import AtHand, Body, Streamed
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange
from freehold.gateway.spool import Budget, Spool, too_large
from freehold.gateway.targets import Target, Targets


@dataclass(slots=True)
class Call:
    """A request whose caller is known, and may call."""

    principal: Principal
    target: Target
    params: dict[str, Any]
    """The operation's, without those in the body."""
    body: Body
    """Whoever has the Call closes it."""


class Callers:
    """Recognises the callers of one worker."""

    def __init__(
        self,
        directory: Directory,
        targets: Targets,
        bearers: Bearers,
        *,
        limits: GatewayLimits,
        region: str,
        now: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._targets = targets
        self._bearers = bearers
        self._limits = limits
        self._now = now
        self._verifier = Verifier(directory, region=region)
        self._budget = Budget(per_key_bytes=limits.spool_bytes_per_key, total_bytes=limits.spool_bytes_total)

    async def recognise(self, exchange: Exchange, operation: str, runtime: bytes, *, max_body_bytes: int) -> Call:
        """Who calls `operation` on `runtime` (percent-encoded), and with what. Raises FreeholdError, ClientGone."""
        head = exchange.head
        credentials = [value for name, value in head.headers if name == b"authorization"]
        is_signed = bool(credentials) and not (len(credentials) == 1 and credentials[0][:7].lower() == b"bearer ")
        is_signed = is_signed or sigv4.is_presigned(head.raw_query)
        pending = await self._check_head(exchange) if is_signed else None
        if head.content_length is not None and head.content_length > max_body_bytes:
            raise too_large(max_body_bytes)
        target: Target | None = None
        params: dict[str, Any] = {}
        verdict: FreeholdError | None = None
        try:
            target = await self._targets.find(runtime, head.raw_query)
            params = self._directory.members.read(operation, runtime, head.raw_query, head.headers)
        except FreeholdError as error:
            verdict = error
        if target is not None and target.contract.takes_jwt:
            if pending is not None:
                raise SignatureRefused.other_method()
            return await self._bearer(exchange, target, params, verdict, max_body_bytes)
        if pending is None:
            raise SignatureRefused.other_method() if credentials else SignatureRefused.missing()
        return await self._signer(exchange, pending, target, params, verdict, max_body_bytes)

    async def authenticate(self, exchange: Exchange) -> None:
        """Recognise a caller of nothing in particular, by signature."""
        pending = await self._check_head(exchange)
        body = self._spool(pending, self._limits.max_payload_bytes, keep=False)
        await exchange.read_body(body.write)
        exchange.account = pending.finish(body.sha256()).account

    async def _bearer(
        self,
        exchange: Exchange,
        target: Target,
        params: dict[str, Any],
        verdict: FreeholdError | None,
        max_body_bytes: int,
    ) -> Call:
        # That it is there, and what it speaks, is no secret: whoever asks is told where to get a token for it.
        exchange.render_error = target.rules.render_error
        principal = await self._bearers.check(exchange.head, target)
        exchange.account = principal.account
        if verdict is not None:
            raise verdict
        at_hand = exchange.body_at_hand()
        body = Streamed(exchange.head.content_length, max_body_bytes) if at_hand is None else AtHand(at_hand)
        return Call(principal, target, params, body)

    async def _signer(
        self,
        exchange: Exchange,
        pending: Pending,
        target: Target | None,
        params: dict[str, Any],
        verdict: FreeholdError | None,
        max_body_bytes: int,
    ) -> Call:
        is_own = target is not None and target.named.account == pending.account
        body = self._spool(pending, max_body_bytes, keep=verdict is None and is_own)
        try:
            await exchange.read_body(body.write)
            principal = pending.finish(body.sha256())
            exchange.account = principal.account
            if target is not None and target.named.account != principal.account:
                # Another account's: the same answer as for one that is not there.
                raise target.named.not_found()
            if target is not None:
                exchange.render_error = target.rules.render_error
            if verdict is not None or target is None:
                raise verdict or RuntimeError("a request without a target has a verdict")
        except BaseException:
            body.close()
            raise
        return Call(principal, target, params, body)

    async def _check_head(self, exchange: Exchange) -> Pending:
        return await self._verifier.check_head(exchange.head, now=self._now())

    def _spool(self, pending: Pending, max_bytes: int, *, keep: bool = True) -> Spool:
        return Spool(
            self._budget,
            pending.access_key_id,
            max_bytes=max_bytes,
            memory_bytes=self._limits.memory_spool_bytes,
            keep=keep,
        )
