"""The form of a signed JSON Web Token: three parts, read strictly and within bounds.

Not for what any of it means (`jwt`), nor for signatures (`jwt_keys`, where a signature that can't be read is a wrong
one). Pure; standard library only. Invariant: there is one spelling of a header's or claims' bytes that is read, and one
reading of it.

Source: RFC 7515 (compact serialization), RFC 7519 section 4 (no member twice).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from freehold.auth.jwt_refusals import TokenUnreadable

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024
"""Of the part before the first dot, as it is sent."""
MAX_SIGNATURE_BYTES: Final = 2 * 1024
_PART: Final = re.compile(rb"[A-Za-z0-9_-]+")
_LAST_OF_TWO: Final = frozenset(b"AQgw")
_LAST_OF_THREE: Final = frozenset(b"AEIMQUYcgkosw048")
"""What the last character of a group that is not full can be: its unused bits are zero."""


@dataclass(frozen=True, slots=True)
class Form:
    """A token that could be read; nothing of it has been found true."""

    header: dict[str, Any] = field(repr=False)
    claims: dict[str, Any] = field(repr=False)


def read(token: bytes) -> Form:
    """Read a token in compact serialization. Raises TokenUnreadable."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenUnreadable(f"token is longer than {MAX_TOKEN_BYTES} bytes")
    parts = token.split(b".")
    if len(parts) != 3:
        raise TokenUnreadable("token does not have three parts")
    header, claims, signature = parts
    if len(header) > MAX_HEADER_BYTES or len(signature) > MAX_SIGNATURE_BYTES:
        raise TokenUnreadable("the header or the signature is too long")
    return Form(_object(header, "header"), _object(claims, "claims"))


def decode(part: bytes, what: str) -> bytes:
    """The bytes of one part, in Base64 for URLs without padding and with unused bits zero. Raises TokenUnreadable."""
    over = len(part) % 4
    if (
        not _PART.fullmatch(part)
        or over == 1
        or (over == 2 and part[-1] not in _LAST_OF_TWO)
        or (over == 3 and part[-1] not in _LAST_OF_THREE)
    ):
        raise TokenUnreadable(f"{what} is not in Base64 for URLs")
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _object(part: bytes, what: str) -> dict[str, Any]:
    try:
        value = parse_json(decode(part, what))
    except ValueError:
        raise TokenUnreadable(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise TokenUnreadable(f"{what} is not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def parse_json(data: bytes) -> Any:
    """Any JSON value in UTF-8, without a member that is there twice or a number that is none. Raises ValueError."""
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _no_number(constant: str) -> Any:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_number)
