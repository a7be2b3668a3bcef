"""What a runtime asks of its callers' tokens, and whether a token's claims answer it.

For: the rules of customJWTAuthorizer (spec section 4.1) and the times of RFC 7519. Pure. Not for signatures: what is
looked at here has been signed by the issuer. Invariant: a rule that is set and not met refuses, a claim of another type
than its rule wants meets nothing, and an authorizer without a rule lets nobody in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from freehold.auth.jwt_refusals import TokenRefused

DEFAULT_SKEW_S: Final = 10.0
"""How far the issuer's clock may be from ours."""
_LAST_INSTANT: Final = 10**13
"""No date of anybody's, and still a number that can be calculated with. (Not a number is not below it, either.)"""
_NUMBERS: Final = (int, float)

Claims = Mapping[str, Any]


class ClaimRule(msgspec.Struct, frozen=True):
    """One of customClaims: the claim `name` is one of `values`, or, when `is_list`, a list that has one of them."""

    name: str
    is_list: bool
    values: tuple[str, ...]


class Authorizer(msgspec.Struct, frozen=True):
    """A version's customJWTAuthorizer, as far as tokens are judged by it. Crosses process borders."""

    digest: str
    """Of the whole configuration and the runtime it is of: what was decided by one is not good for another."""
    key_set: str
    """Names the keys that sign its tokens: equal for authorizers that get them from the same place in the same way."""
    audiences: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    claims: tuple[ClaimRule, ...] = ()
    advertised_scopes: tuple[str, ...] = ()
    """What clients are told to ask for: `scopes`, by advertisedScopeMapping."""


def check(claims: Claims, issuer: str, authorizer: Authorizer, *, now: float, skew_s: float) -> float:
    """When a token with these claims expires. Raises TokenRefused unless it is of `issuer`, to the letter, within its
    time, and meets every rule that is set."""
    if claims.get("iss") != issuer:
        raise TokenRefused("iss is not the issuer of the discovery document")
    value = claims.get("exp")
    if value is None:
        raise TokenRefused("exp is missing")
    expires_at = _instant("exp", value)
    if now >= expires_at + skew_s:
        raise TokenRefused("exp is in the past")
    for name in ("nbf", "iat"):
        value = claims.get(name)
        if value is not None and now < _instant(name, value) - skew_s:
            raise TokenRefused(f"{name} is in the future")
    if not (authorizer.audiences or authorizer.clients or authorizer.scopes or authorizer.claims):
        raise TokenRefused("the authorizer has no rule")
    failed = _failed(authorizer, claims)
    if failed:
        raise TokenRefused(*(check for check, _ in failed), message=" ".join(told for _, told in failed))
    return expires_at


def subject(claims: Claims) -> tuple[str, str] | None:
    """The claim by which callers are told apart, and its value: `sub`, else `client_id`; None when there is neither.

    Raises TokenRefused for a `sub` that is no string.
    """
    for name in ("sub", "client_id"):
        value = claims.get(name)
        if isinstance(value, str) and value:
            return name, value
        if name == "sub" and value is not None and value != "":
            raise TokenRefused("sub is not a string")
    return None


def _failed(authorizer: Authorizer, claims: Claims) -> list[tuple[str, str]]:
    """For each rule that is set and not met: what the log says, and what the caller is told."""
    failed: list[tuple[str, str]] = []
    if authorizer.audiences and set(_strings(claims.get("aud"))).isdisjoint(authorizer.audiences):
        failed.append(("aud", _mismatch("aud")))
    # AWS looks at client_id alone: not at azp, cid or appid (spec section 4.1).
    if authorizer.clients and claims.get("client_id") not in authorizer.clients:
        failed.append(("client_id", _mismatch("client_id")))
    if authorizer.scopes and _scopes(claims).isdisjoint(authorizer.scopes):
        failed.append(("scope", _mismatch("scope")))
    for rule in authorizer.claims:
        if not _holds(rule, claims):
            failed.append((f"custom claim {rule.name}", f"Authorization denied: claim '{rule.name}' does not match."))
    return failed


def _mismatch(name: str) -> str:
    return f"Claim '{name}' value mismatch with configuration."


def _holds(rule: ClaimRule, claims: Claims) -> bool:
    value = claims.get(rule.name)
    if not rule.is_list:
        return isinstance(value, str) and value in rule.values
    return isinstance(value, list) and not set(_strings(value)).isdisjoint(rule.values)  # pyright: ignore[reportUnknownArgumentType]


def _scopes(claims: Claims) -> set[str]:
    """`scope` is a string with spaces; `scp` is that or a list."""
    scope, scp = claims.get("scope"), claims.get("scp")
    found = scope.split(" ") if isinstance(scope, str) else []
    found += scp.split(" ") if isinstance(scp, str) else _strings(scp)
    return set(found)


def _strings(value: Any) -> list[str]:
    """A string, or a list of nothing but strings; anything else is nothing."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):  # pyright: ignore[reportUnknownVariableType]
        return value  # pyright: ignore[reportUnknownVariableType]
    return []


def _instant(name: str, value: Any) -> float:
    """A NumericDate, as JSON has it. Raises TokenRefused for what is none."""
    if type(value) not in _NUMBERS or not abs(value) <= _LAST_INSTANT:
        raise TokenRefused(f"{name} is no date")
    return value
