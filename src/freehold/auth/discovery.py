"""What an identity provider says of itself: its issuer, and where its keys are.

For: control, which fetches the document. Pure. Source: OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2;
spec section 4.1 (AWS takes the issuer from the document, whatever the document's own address). Invariant: an issuer
that comes out of here is a string that tokens can be compared with, and the address of keys is one to be fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

from freehold.auth import jwt_form

MAX_LENGTH: Final = 2048
"""Of an issuer or an address."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider, as far as tokens are concerned."""

    issuer: str
    jwks_uri: str


class UnusableDocument(Exception):
    """What was fetched is no discovery document that tokens can be checked by. The message is for the log."""


def read_document(document: bytes) -> Provider:
    """Read OpenID Provider or OAuth authorization server metadata. Raises UnusableDocument."""
    try:
        found: Any = jwt_form.parse_json(document)
    except ValueError:
        raise UnusableDocument("it is not JSON") from None
    if not isinstance(found, dict):
        raise UnusableDocument("it is not a JSON object")
    said = cast(dict[str, Any], found)
    return Provider(_text(said, "issuer"), _text(said, "jwks_uri"))


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LENGTH or not value.isprintable():
        raise UnusableDocument(f"it has no usable {name}")
    return value
