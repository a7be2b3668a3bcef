"""Who calls, and what for: every request of the data plane is recognised here before anything is done for it.

A runtime version with an authorizer takes JWT, and its callers' bodies stream at once; any other takes SigV4, whose
signature covers the body, so that is held until all of it has come. Not for the checks themselves (`auth`, `bearers`).
Invariant: until the caller is known, an answer depends on nothing but the request, the key's existence, the clock and
whether the target takes JWT: what is wrong with a request is told afterwards, and a body for nothing is not kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from freehold.auth.sigv4 import Pending, Verifier
from freehold.aws.sigv4 import SIGNATURE_SIZE
from freehold.aws.sigv4_template import Template
from freehold.domain.errors import FreeholdError
from freehold.domain.principals import Principal
from freehold.gateway import cors
from freehold.gateway.bearers import Bearers
from freehold.gateway.bodies import AtHand, Body, Streamed
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange
from freehold.gateway.familiar import FamiliarHead, FirstLine, Recent, Shape
from freehold.gateway.members import INVOKE, WEB_SOCKET
from freehold.gateway.messages import Message
from freehold.gateway.sources import Sources
from freehold.gateway.spool import Spool, Spools, too_large
from freehold.gateway.sweeper import NEVER
from freehold.gateway.targets import Target, Targets

MAX_TEMPLATES: Final = 512


@dataclass(slots=True)
class Call:
    """A request whose caller is known, and may call."""

    principal: Principal
    target: Target
    params: dict[str, Any]
    """The operation's, without those in the body."""
    body: Body
    """Whoever has the Call closes it."""


@dataclass(slots=True)
class _Asked:
    """What a request asks for, of which nothing is told before its caller is known."""

    operation: str
    runtime: bytes
    target: Target | None
    params: dict[str, Any]
    verdict: FreeholdError | None
    """What is wrong with it."""
    max_body_bytes: int

    def tell(self, exchange: Exchange, rules: Rules, seen: Message | None = None) -> None:
        """From now on failures are told as the agent's protocol does; of the service's other operations as it does."""
        if self.operation == INVOKE:
            exchange.render_error = rules.render_error if seen is None else partial(seen.render_error, rules)


class Callers:
    """Recognises the callers of one worker."""

    def __init__(
        self,
        directory: Directory,
        targets: Targets,
        bearers: Bearers,
        *,
        limits: GatewayLimits,
        spools: Spools,
        sources: Sources,
        region: str,
        now: Callable[[], datetime],
    ) -> None:
        self._directory = directory
        self._targets = targets
        self._bearers = bearers
        self.bearer_at_once = bearers.at_once
        self.key_sets = bearers.key_sets
        self._limits = limits
        self._spools = spools
        self._sources = sources
        self.now: Final = now
        self._verifier = Verifier(directory, region=region)
        self.signer = self._verifier.signer
        self._templates: Recent[tuple[bytes, FirstLine, Shape], Template] = Recent(MAX_TEMPLATES)
        self.known_template = self._templates.get
        """Of requests whose signature was right, by what they have in common: all of their Authorization header but
        its signature, their first line, and their shape."""

    async def recognise(self, exchange: Exchange, operation: str, runtime: bytes, *, max_body_bytes: int) -> Call:
        """Who calls `operation` on `runtime` (percent-encoded), and with what. Raises FreeholdError, ClientGone."""
        head = exchange.head
        credentials = [value for name, value in head.headers if name == b"authorization"]
        target: Target | None = None
        params: dict[str, Any] = {}
        verdict: FreeholdError | None = None
        try:
            target = await self._targets.find(runtime, head.raw_query)
            params = self._directory.members.read(operation, runtime, head.raw_query, head.headers)
        except FreeholdError as error:
            verdict = error
        asked = _Asked(operation, runtime, target, params, verdict, max_body_bytes)
        if target is not None and target.contract.authorizer is not None:
            return await self._bearer(exchange, asked, target, credentials)
        pending = await self._check_head(exchange)
        if head.content_length is not None and head.content_length > max_body_bytes:
            raise too_large(max_body_bytes)
        return await self._signer(exchange, pending, asked)

    def signer_at_once(self, head: FamiliarHead, body: bytes, target: Target, authorization: bytes) -> Principal | None:
        """Who calls `target`, given the one Authorization header's value; None when `recognise` has to find out.

        For a request whose body is at hand. See Bearers.at_once for tokens.
        """
        start = authorization[:-SIGNATURE_SIZE]
        alike = (start, head.first, head.shape)
        template = known = self.known_template(alike)
        if template is None:
            template = self._verifier.template(
                start, method=head.method, raw_path=head.raw_path, raw_query=head.raw_query, names=head.shape.names
            )
            if template is None:
                return None
        values = head.values
        payload_sha256 = hashlib.sha256(body).hexdigest().encode()
        canonical = template.canonical(values, payload_sha256)
        claimed = payload_sha256 if template.claimed < 0 else values[template.claimed]
        if not hmac.compare_digest(claimed, payload_sha256):
            return None
        token = None if template.token < 0 else values[template.token]
        signature = authorization[-SIGNATURE_SIZE:]
        principal = self.signer(template, canonical, values[template.stamp], token, signature, self.now())
        if principal is None or principal.account != target.named.account:
            return None
        if known is None:
            self._templates.put(alike, template)
        return principal

    async def hold(self, exchange: Exchange, call: Call) -> None:
        """Have all of a body that streams before anything is done with it."""
        if not isinstance(call.body, Streamed):
            return
        body = call.body
        held = self._spools.of_caller(call.principal.owner, max_bytes=body.max_bytes, expected=body.size)
        try:
            await exchange.read_body(held.write)
        except BaseException:
            held.close()
            raise
        call.body = held

    async def authenticate(self, exchange: Exchange) -> None:
        """Recognise a caller of nothing in particular, by signature."""
        pending = await self._check_head(exchange)
        body = self._spool(exchange, pending, self._limits.max_payload_bytes)
        body.keep = False
        try:
            await exchange.read_body(self._in_turns(exchange, body))
        finally:
            body.close()
        exchange.account = pending.finish(body.sha256()).account

    async def _bearer(self, exchange: Exchange, asked: _Asked, target: Target, credentials: list[bytes]) -> Call:
        # That it is there, and what it speaks, is no secret: whoever asks is told where to get a token for it.
        asked.tell(exchange, target.rules)
        exchange.also = cors.ANSWER
        check = self._bearers.check_web_socket if asked.operation == WEB_SOCKET else self._bearers.check
        principal = await check(exchange, target, credentials)
        exchange.account = principal.account
        size = exchange.head.content_length
        if size is not None and size > asked.max_body_bytes:
            raise too_large(asked.max_body_bytes)
        at_hand = exchange.body_at_hand()
        if asked.verdict is not None:
            seen = Message(None if at_hand is None else AtHand(at_hand))
            asked.tell(exchange, target.rules, seen)
            if at_hand is None and size is not None and size <= json_rpc.MAX_WHOLE_BYTES and target.rules.is_json_rpc:
                await exchange.read_body(seen.passing_to(lambda _part: None))
            raise asked.verdict
        body = Streamed(size, asked.max_body_bytes) if at_hand is None else AtHand(at_hand)
        return Call(principal, target, asked.params, body)

    async def _signer(self, exchange: Exchange, pending: Pending, asked: _Asked) -> Call:
        target, verdict = asked.target, asked.verdict
        body, principal, seen = await self._signed_body(exchange, pending, asked)
        try:
            exchange.account = principal.account
            if target is not None and target.named.account != principal.account:
                # Another account's: the same answer as for one that is not there.
                raise target.named.not_found()
            rules = (
                await self._targets.spoken(asked.runtime, exchange.head.raw_query, account=principal.account)
                if target is None
                else target.rules
            )
            if rules is not None:
                asked.tell(exchange, rules, seen)
            if verdict is not None or target is None:
                raise verdict or RuntimeError("a request without a target has a verdict")
        except BaseException:
            body.close()
            raise
        return Call(principal, target, asked.params, body)

    async def _signed_body(
        self, exchange: Exchange, pending: Pending, asked: _Asked
    ) -> tuple[AtHand | Spool, Principal, Message | None]:
        """All of the body, once it is known to be the one that was signed; and what is seen of a body for nothing."""
        at_hand = exchange.body_at_hand()
        if at_hand is not None:
            body = AtHand(at_hand)
            principal = pending.finish(hashlib.sha256(at_hand).hexdigest())
            return body, principal, None if asked.verdict is None else Message(body)
        body = self._spool(exchange, pending, asked.max_body_bytes)
        seen = None if asked.verdict is None else Message()
        body.keep = seen is None and asked.target is not None and asked.target.named.account == pending.account
        take = self._in_turns(exchange, body)
        try:
            await exchange.read_body(take if seen is None else seen.passing_to(take))
            principal = pending.finish(body.sha256())
            body.admit()
        except BaseException:
            body.close()
            raise
        return body, principal, seen

    def _in_turns(self, exchange: Exchange, body: Spool) -> Callable[[bytes], None]:
        """Takes what comes of `body`, and keeps it waiting where many are under way."""

        def pause() -> None:
            exchange.pause_body()
            exchange.set_deadline(NEVER)  # it is we who keep it waiting

        def take(data: bytes) -> None:
            body.write(data)
            self._spools.queue(body, pause, exchange.resume_body)

        return take

    async def _check_head(self, exchange: Exchange) -> Pending:
        return await self._verifier.check_head(exchange.head, now=self.now())

    def _spool(self, exchange: Exchange, pending: Pending, max_bytes: int) -> Spool:
        key, size = pending.access_key_id, exchange.head.content_length
        if pending.is_verified:
            return self._spools.of_caller(key, max_bytes=max_bytes, expected=size)
        source = self._sources.of(exchange.peer, exchange.head.headers)
        return self._spools.of_stranger(source, key, max_bytes=max_bytes, expected=size)
