"""Who a bearer token speaks for: the whole check of one token against one runtime's authorizer.

For: gateway workers. Pure: keys, rules and the instant are handed in. Not for finding the token in a request
(`bearer`), for fetching keys (control), or for remembering verdicts (`gateway`). Invariant: what comes out of `verify`
was signed by a key of the issuer that the authorizer's discovery document names, is within its time, and meets every
rule; nothing in the token has a say in how it is checked, beyond which of that issuer's keys and of their algorithms.

Source: spec section 4; RFC 7515, 7519, 8725 (best current practices).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec

from freehold.auth import jwt_claims, jwt_form
from freehold.auth.jwt_claims import DEFAULT_SKEW_S, Authorizer
from freehold.auth.jwt_keys import ALGORITHMS, Keys
from freehold.auth.jwt_refusals import TokenRefused
from freehold.domain.principals import token_owner

_KIND_SUFFIX: Final = "+jwt"
_OF_ACCESS: Final = "at+jwt"
MAX_OWNERS: Final = 4096
MAX_SUBJECT_LENGTH: Final = 255
"""Of subjects whose owners are remembered: OpenID Connect's own bound."""
_known_owner: Final = lru_cache(MAX_OWNERS)(token_owner)


class Verified(msgspec.Struct, frozen=True):
    """What is known of a token that is good."""

    owner: str
    """See domain.principals.token_owner."""
    expires_at: float
    """Seconds since 1970."""


def verify(token: bytes, keys: Keys, authorizer: Authorizer, *, now: float, skew_s: float = DEFAULT_SKEW_S) -> Verified:
    """Check `token` at the instant `now` (seconds since 1970). Raises TokenUnreadable, TokenRefused, UnknownKey."""
    header, body, signature = jwt_form.split(token)
    signed = token[: -len(signature) - 1]
    signers = keys.signers_by_header(header)
    if signers is not None:
        claims = jwt_form.read_object(body, "claims")
        signers.check(signed, signature)
    else:
        said = jwt_form.read_object(header, "header")
        claims = jwt_form.read_object(body, "claims")
        signers = keys.signers(*_check_header(said))
        signers.check(signed, signature)
        keys.remember_header(header, signers)
    expires_at = jwt_claims.check(claims, keys.issuer, authorizer, now=now, skew_s=skew_s)
    return Verified(_owner(keys.issuer, claims, token), expires_at)


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    """The algorithm, and the name of the key. Keys and addresses of keys in the header (jwk, jku, x5u, x5c) are not
    looked at. Raises TokenRefused."""
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused("alg is not one of those allowed")
    if "crit" in header:
        # No extension is understood here, and so none that must be.
        raise TokenRefused("crit names an extension")
    if "kid" in header and not isinstance(kid, str):
        raise TokenRefused("kid is not a string")
    if kind is not None:
        named = kind.lower().removeprefix("application/") if isinstance(kind, str) else _KIND_SUFFIX
        if named.endswith(_KIND_SUFFIX) and named != _OF_ACCESS:
            # Proofs, logout tokens, events: signed by the same keys, and for another purpose (RFC 8725, 3.11).
            raise TokenRefused("typ is of another kind of token")
    return algorithm, kid


def _owner(issuer: str, claims: dict[str, Any], token: bytes) -> str:
    """Without `sub` a token speaks for its client; without that, too, for nobody but whoever holds this very token."""
    found = jwt_claims.subject(claims)
    kind, value = found or ("token", hashlib.sha256(token).hexdigest())
    return (_known_owner if len(value) <= MAX_SUBJECT_LENGTH else token_owner)(issuer, kind, value)
