"""Opaque page tokens: where a listing goes on, unforgeable and bound to whose listing it is.

Not a secret: a token tells its holder nothing that the listing did not. Invariant: a token that this installation
did not make for this account is refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from freehold.domain.errors import FieldProblem, ValidationFailed
from freehold.store.base import Position, Scope

_MAC_BYTES: Final = 16
T = TypeVar("T")


class Pages:
    """Makes and reads the tokens of one kind of listing. `key` is 32 secret bytes of this installation."""

    def __init__(self, key: bytes, kind: str) -> None:
        self._key = key
        self._kind = kind

    def of(self, kind: str) -> Pages:
        """For another kind of listing of the same installation."""
        return Pages(self._key, kind)

    def token(self, scope: Scope, position: Position) -> str:
        """The token of the page after `position`."""
        return self.seal(scope, (position.created_at.astimezone(UTC), position.runtime_id))

    def position(self, scope: Scope, token: str) -> Position:
        """Where the page begins. Raises ValidationFailed for a token that `token` did not make for this scope."""
        return Position(*self.open(scope, token, tuple[datetime, str]))

    def seal(self, scope: Scope, mark: Any) -> str:
        """The token that holds `mark`: strings, numbers, instants in UTC, tuples of them."""
        body = msgspec.msgpack.encode(mark)
        return base64.urlsafe_b64encode(self._mac(scope, body) + body).decode().rstrip("=")

    def open(self, scope: Scope, token: str, kind: type[T]) -> T:
        """The mark, of type `kind`. Raises ValidationFailed for a token that `seal` did not make for this scope."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _invalid() from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(scope, body)):
            raise _invalid()
        return msgspec.msgpack.decode(body, type=kind)

    def _mac(self, scope: Scope, body: bytes) -> bytes:
        about = msgspec.msgpack.encode((self._kind, scope.account, scope.region, body))
        return hmac.digest(self._key, about, "sha256")[:_MAC_BYTES]


def _invalid() -> ValidationFailed:
    problem = FieldProblem("nextToken", "not a token of this listing")
    return ValidationFailed("The nextToken is invalid", fields=(problem,))
