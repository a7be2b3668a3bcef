"""Access keys: what they are, where they are looked up, how new ones are made.

Not for keeping them (`store`, sealed by `store.vault`). Invariant: a secret never shows in a repr.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

TEMPORARY_PREFIX: Final = "ASIAFH"
_ID_PREFIX: Final = "AKIAFH"
_ID_LENGTH: Final = 20
_ID_ALPHABET: Final = string.ascii_uppercase + "234567"
_SECRET_LENGTH: Final = 40
_SECRET_ALPHABET: Final = string.ascii_letters + string.digits + "+/"
"""Forms of AWS's own keys (IAM user guide): 20 characters beginning with AKIA, or ASIA for temporary ones, and 40 of
the Base64 alphabet."""
_TOKEN_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key of an account, in the clear."""

    access_key_id: str
    account: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Of a temporary key, which is refused without it; a long-lived one is refused with one."""
    expires_at: datetime | None = None
    """From when on it is refused: always set of a temporary key, and of one that was rotated."""


class KeySource(Protocol):
    """Where a verifier finds keys. Whoever implements it may cache, as long as a disabled key is forgotten at once."""

    def known(self, access_key_id: str) -> AccessKey | None:
        """The key, if it is at hand; None says nothing."""
        ...

    async def get(self, access_key_id: str) -> AccessKey | None:
        """The key; None when it is unknown or disabled. Raises Unavailable when it can't be known just now."""
        ...


def mint_access_key(account: str) -> AccessKey:
    """A new random key of `account`: some 69 bits of id, 240 bits of secret."""
    return AccessKey(_new_id(_ID_PREFIX), account, _random(_SECRET_ALPHABET, _SECRET_LENGTH))


def mint_temporary_key(account: str, *, expires_at: datetime) -> AccessKey:
    """A new random key of `account` that comes with a session token, and ends."""
    return AccessKey(
        _new_id(TEMPORARY_PREFIX),
        account,
        secret=_random(_SECRET_ALPHABET, _SECRET_LENGTH),
        session_token=_random(_SECRET_ALPHABET, _TOKEN_LENGTH),
        expires_at=expires_at,
    )


def _new_id(prefix: str) -> str:
    return prefix + _random(_ID_ALPHABET, _ID_LENGTH - len(prefix))


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
