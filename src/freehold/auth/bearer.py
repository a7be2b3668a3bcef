"""Where in a request its bearer token is: in the Authorization header, or among a WebSocket's subprotocols.

Not for the token itself (`jwt`). Pure. Invariant: a request that could be read as bringing two tokens, or a token and a
signature, brings none.

Sources: RFC 6750 section 2.1; spec sections 1.7 (browsers' WebSockets) and 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from freehold.auth import jwt_form
from freehold.auth.jwt_refusals import TokenUnreadable, missing
from freehold.auth.sigv4 import SignatureRefused, is_presigned

SUBPROTOCOL: Final = b"base64UrlBearerAuthorization"
"""What the server answers as the subprotocol when the token came so."""
_TOKEN68: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values as received, in order."""


def from_request(authorizations: Sequence[bytes], raw_query: bytes) -> bytes:
    """The token of an HTTP request, given the values of its Authorization headers.

    Raises TokenRefused (there is none), TokenUnreadable, SignatureRefused (the caller means another method).
    """
    if len(authorizations) > 1:
        raise TokenUnreadable("authorization is there more than once")
    if is_presigned(raw_query):
        raise SignatureRefused.other_method()
    value = authorizations[0].strip(b" \t") if authorizations else b""
    if not value:
        raise missing()
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer":
        raise SignatureRefused.other_method()
    token = token.lstrip(b" ")
    if not _TOKEN68.fullmatch(token):
        raise TokenUnreadable("authorization holds no token")
    return token


def alone(authorization: bytes) -> bytes | None:
    """What follows `Bearer ` in the one Authorization header of a request without a query.

    If that is a token, it is the one that from_request reads; nothing is found out about it here.
    """
    return authorization[7:] if authorization.startswith(b"Bearer ") else None


def from_web_socket(authorizations: Sequence[bytes], headers: Headers, raw_query: bytes) -> bytes:
    """The token of a WebSocket's handshake: of its Authorization header, or of the subprotocols that it offers.

    Raises as from_request does.
    """
    offered = [
        offer.strip(b" \t")
        for name, value in headers
        if name == b"sec-websocket-protocol"
        for offer in value.split(b",")
    ]
    encoded = [offer[len(SUBPROTOCOL) + 1 :] for offer in offered if offer.startswith(SUBPROTOCOL + b".")]
    if not encoded:
        return from_request(authorizations, raw_query)
    if len(encoded) > 1 or authorizations:
        raise TokenUnreadable("there is more than one token")
    if is_presigned(raw_query):
        raise SignatureRefused.other_method()
    if SUBPROTOCOL not in offered:
        # The answer would have to name a subprotocol that the client did not offer.
        raise TokenUnreadable("the subprotocol is not offered without its token, too")
    token = jwt_form.decode(encoded[0], "subprotocol")
    if not _TOKEN68.fullmatch(token):
        raise TokenUnreadable("subprotocol holds no token")
    return token
