"""An issuer's public key as plain data, which crosses process borders.

Not for using it (`jwt_keys`, which imports what that takes). Invariant: nothing private is ever in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec


class PublicKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as it is published (RFC 7517), without what does not count here."""

    kty: str
    algorithms: tuple[str, ...]
    """Those it may be used with."""
    kid: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


def generation_of(issuer: str, keys: Iterable[PublicKey]) -> str:
    """Names a key set by its content: the same issuer and keys have the same generation, others never."""
    return hashlib.sha256(msgspec.json.encode((issuer, tuple(keys)))).hexdigest()
