"""Who bears this token: JWT callers of one runtime version.

Not for SigV4 (`freehold.auth.sigv4`), and not for the check itself (`freehold.auth.jwt`), whose verdicts are remembered
here. Invariant: a Principal comes only from a token that the version's own authorizer takes by the keys that are good
now; a verdict is remembered for MAX_VERDICT_S at the most, not beyond its token's end, and never for another runtime,
another configuration or other keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Final

import structlog

from freehold.auth import bearer
from freehold.auth.jwt_claims import DEFAULT_SKEW_S, Authorizer
from freehold.auth.jwt_refusals import TokenRefused, TokenUnreadable, UnknownKey
from freehold.auth.sigv4 import SignatureRefused, is_presigned
from freehold.control.protocol import GetKeySet
from freehold.domain.errors import Unavailable
from freehold.domain.principals import Principal
from freehold.gateway.exchange import Exchange
from freehold.gateway.heads import lines_of
from freehold.gateway.key_sets import KeySets
from freehold.gateway.resource_metadata import Resources
from freehold.gateway.targets import Target

if TYPE_CHECKING:
    from freehold.auth.jwt import Verified
    from freehold.auth.jwt_keys import Keys

MAX_VERDICT_S: Final = 60.0
MAX_VERDICTS: Final = 10_000
MAX_PRINCIPALS: Final = 4096
MAX_TOLD_BYTES: Final = 1536

log = structlog.get_logger(__name__)


class Verdict:
    """Who bears a token, found by `keys`; remembered until the clock says `good_until`."""

    __slots__ = ("good_until", "keys", "principal")

    def __init__(self, principal: Principal, keys: Keys, good_until: float) -> None:
        self.principal = principal
        self.keys = keys
        self.good_until = good_until


class Bearers:
    """Checks tokens. `now` is the time of day, in seconds since 1970; `clock` counts seconds."""

    def __init__(
        self,
        key_sets: KeySets,
        resources: Resources,
        *,
        now: Callable[[], float],
        skew_s: float = DEFAULT_SKEW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key_sets = key_sets
        self.key_sets: Final = key_sets.entries
        """A verdict holds as long as the keys it was found by (Verdict.keys) are those of their set."""
        self._resources = resources
        self._now = now
        self._skew_s = skew_s
        self._clock = clock
        self._verdicts: dict[tuple[str, str, bytes], Verdict] = {}
        """By `_told`. Good ones alone."""

    async def check(self, exchange: Exchange, target: Target, authorizations: Sequence[bytes]) -> Principal:
        """The caller, given the values of the Authorization headers. Raises TokenRefused, AccessDenied, Unavailable."""
        raw_query = exchange.head.raw_query
        if len(authorizations) == 1 and not (raw_query and is_presigned(raw_query)):
            # By what was sent, so that what has been good is not read again.
            known = self._known(target, authorizations[0])
            if known is not None:
                return known
        try:
            token = bearer.from_request(authorizations, raw_query)
            return await self._of_token(target, token, authorizations[0])
        except (TokenRefused, TokenUnreadable, SignatureRefused) as refusal:
            self._tell(exchange, target, refusal)
            raise

    async def check_web_socket(self, exchange: Exchange, target: Target, authorizations: Sequence[bytes]) -> Principal:
        """The caller of a WebSocket's handshake, whose token may also be among its subprotocols; as `check`."""
        head = exchange.head
        try:
            token = bearer.from_web_socket(authorizations, head.headers, head.raw_query)
            known = self._known(target, token)
            if known is not None:
                return known
            return await self._of_token(target, token, token)
        except (TokenRefused, TokenUnreadable, SignatureRefused) as refusal:
            self._tell(exchange, target, refusal)
            raise

    async def issuer(self, target: Target) -> str:
        """Whose tokens the target takes. Raises Unavailable when that can't be known just now."""
        authorizer = target.contract.authorizer
        assert authorizer is not None
        try:
            return (await self._key_sets.get(authorizer.key_set, _question(target))).issuer
        except TokenRefused:
            raise Unavailable("The identity provider can't be reached just now, please retry") from None

    def _known(self, target: Target, sent: bytes) -> Principal | None:
        """Who has been found to bear the token that was sent so."""
        authorizer = target.contract.authorizer
        keys = None if authorizer is None else self._key_sets.current(authorizer.key_set)
        if authorizer is None or keys is None:
            return None
        known = self._verdicts.get(_told(authorizer, keys, sent))
        return known.principal if known is not None and self._clock() < known.good_until else None

    def at_once(self, target: Target, authorization: bytes) -> Verdict | None:
        """As `check` of a single Authorization header, but None where it would wait or raise."""
        authorizer = target.contract.authorizer
        keys = None if authorizer is None else self._key_sets.current(authorizer.key_set)
        if authorizer is None or keys is None:
            return None
        told = _told(authorizer, keys, authorization)
        known = self._verdicts.get(told)
        if known is not None and self._clock() < known.good_until:
            return known
        token = bearer.alone(authorization)
        if token is None:
            return None
        now = self._now()
        try:
            verified = _jwt().verify(token, keys, authorizer, now=now, skew_s=self._skew_s)
        except (TokenRefused, TokenUnreadable):
            return None
        return self._admit(target, keys, told, verified, now)

    def _admit(
        self, target: Target, keys: Keys, told: tuple[str, str, bytes], verified: Verified, now: float
    ) -> Verdict:
        """What has been found out at `now`; remembered as long as it may be."""
        left_s = max(0.0, min(MAX_VERDICT_S, verified.expires_at - now))
        verdict = Verdict(_principal(target.named.account, verified.owner), keys, self._clock() + left_s)
        if left_s:
            verdicts = self._verdicts
            verdicts.pop(told, None)
            verdicts[told] = verdict
            if len(verdicts) > MAX_VERDICTS:
                # The oldest: none is remembered for long.
                del verdicts[next(iter(verdicts))]
        return verdict

    async def _of_token(self, target: Target, token: bytes, sent: bytes) -> Principal:
        """The bearer of `token`, which was `sent` so. Raises TokenRefused, TokenUnreadable, Unavailable."""
        authorizer = target.contract.authorizer
        if authorizer is None:
            raise SignatureRefused.other_method()
        keys = self._key_sets.current(authorizer.key_set)
        if keys is None:
            keys = await self._key_sets.get(authorizer.key_set, _question(target))
        keys, verified = await self._verify(target, authorizer, keys, token)
        return self._admit(target, keys, _told(authorizer, keys, sent), verified, self._now()).principal

    async def _verify(self, target: Target, authorizer: Authorizer, keys: Keys, token: bytes) -> tuple[Keys, Verified]:
        jwt = _jwt()
        try:
            return keys, jwt.verify(token, keys, authorizer, now=self._now(), skew_s=self._skew_s)
        except UnknownKey as unknown:
            newer = await self._key_sets.newer(authorizer.key_set, _question(target), keys, unknown.wanted)
            if newer is None:
                raise
        return newer, jwt.verify(token, newer, authorizer, now=self._now(), skew_s=self._skew_s)

    def _tell(
        self, exchange: Exchange, target: Target, refusal: TokenRefused | TokenUnreadable | SignatureRefused
    ) -> None:
        """The log names what failed; whoever asked learns what AWS tells, and where to get a token."""
        checks = ("another method",) if isinstance(refusal, SignatureRefused) else refusal.checks
        log.info(
            "gateway.token_refused",
            checks=list(checks),
            runtime_id=target.named.runtime_id,
            endpoint=target.route.endpoint,
            request_id=exchange.request_id,
        )
        if isinstance(refusal, TokenRefused):
            exchange.also += lines_of([(b"www-authenticate", self._resources.challenge(target))])


@cache
def _jwt() -> ModuleType:
    """Imported by now: there are keys."""
    from freehold.auth import jwt

    return jwt


@lru_cache(MAX_PRINCIPALS)
def _principal(account: str, owner: str) -> Principal:
    return Principal(account, "", owner, by_token=True)


def _told(authorizer: Authorizer, keys: Keys, sent: bytes) -> tuple[str, str, bytes]:
    """What a verdict is remembered by. Of what was sent its hash where that is shorter by far: it costs more than the
    look-up."""
    told = sent if len(sent) <= MAX_TOLD_BYTES else hashlib.sha256(sent).digest()
    return authorizer.digest, keys.generation, told


def _question(target: Target) -> GetKeySet:
    named = target.named
    return GetKeySet(named.account, named.runtime_id, target.contract.version)
