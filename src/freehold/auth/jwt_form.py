"""The form of a signed JSON Web Token: three parts, read strictly and within bounds.

Not for what any of it means (`jwt`), nor for signatures (`jwt_keys`, where a signature that can't be read is a wrong
one). Pure. Invariant: there is one spelling of a header's or claims' bytes that is read, and one reading of it.

Source: RFC 7515 (compact serialization), RFC 7519 section 4 (no member twice).
"""

from __future__ import annotations

import binascii
import json
from typing import Any, Final

import msgspec

from freehold.auth.jwt_refusals import TokenUnreadable

MAX_TOKEN_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024
"""Of the part before the first dot, as it is sent."""
MAX_SIGNATURE_BYTES: Final = 2 * 1024
_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/***")
"""From the alphabet for URLs to the standard one. What is of that one alone becomes what is of neither."""
_PADDING: Final = (b"", b"", b"==", b"=")
_LAST: Final = (frozenset(range(256)), frozenset[int](), frozenset(b"AQgw"), frozenset(b"AEIMQUYcgkosw048"))
"""What the last character can be, by how many there are beyond full groups: bits that say nothing are zero."""


def split(token: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, claims and signature of a token in compact serialization, as sent. Raises TokenUnreadable."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenUnreadable(f"token is longer than {MAX_TOKEN_BYTES} bytes")
    parts = token.split(b".")
    if len(parts) != 3:
        raise TokenUnreadable("token does not have three parts")
    header, claims, signature = parts
    if len(header) > MAX_HEADER_BYTES or len(signature) > MAX_SIGNATURE_BYTES:
        raise TokenUnreadable("the header or the signature is too long")
    return header, claims, signature


def decode(part: bytes, what: str) -> bytes:
    """The bytes of one part, in Base64 for URLs without padding and with unused bits zero. Raises TokenUnreadable."""
    over = len(part) % 4
    if part and part[-1] in _LAST[over]:
        try:
            return binascii.a2b_base64(part.translate(_STANDARD) + _PADDING[over], strict_mode=True)
        except binascii.Error:
            pass
    raise TokenUnreadable(f"{what} is not in Base64 for URLs")


def read_object(part: bytes, what: str) -> dict[str, Any]:
    """The JSON object that is one part. Raises TokenUnreadable."""
    try:
        value = parse_json(decode(part, what))
    except ValueError:
        raise TokenUnreadable(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise TokenUnreadable(f"{what} is not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def parse_json(data: bytes) -> Any:
    """Any JSON value in UTF-8, without a member that is there twice or a number that is none. Raises ValueError."""
    # The quick reader takes the last of two members and more; but only of a text with one reading it writes the same.
    try:
        value = _quick.decode(data)
        if _writer.encode(value) == data:
            return value
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass  # the strict reader says whether it is wrong
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
_quick: Final = msgspec.json.Decoder()
_writer: Final = msgspec.json.Encoder()
