"""The opening handshake, both halves: what a client asks for, and what is asked of the agent (RFC 6455 section 4).

For: heads alone. Not for who calls (`callers`), or for frames. Invariant: a connection is opened between two that
agreed on nothing but RFC 6455 itself: no extension is offered to the agent, and no subprotocol.

permessage-deflate is not relayed although it could be: the bound on a frame's size would then bound what it had been
compressed to, and an agent could be made to unpack a thousand times as much.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from freehold.auth import bearer
from freehold.domain.errors import FieldProblem, FreeholdError, ValidationFailed
from freehold.domain.limits import ALLOWED_HEADER_VALUE_BYTES
from freehold.gateway import headers
from freehold.gateway.heads import Headers, RequestHead, ResponseHead

VERSION: Final = b"13"
_CUSTOM: Final = b"x-amzn-bedrock-agentcore-runtime-custom-"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CUSTOM_NAME: Final = re.compile(re.escape(_CUSTOM) + rb"[a-z0-9_-]{1,200}")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_OWS: Final = b" \t"
_OURS: Final = frozenset({b"qualifier", b"accountid"})
_RESERVED_PREFIXES: Final = (b"x-amz-", b"x-amzn-")


class UpgradeRequired(FreeholdError):
    """The request does not ask for a WebSocket of the version that is spoken here."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a client's handshake asks for."""

    key: bytes
    subprotocol: bytes | None
    """To be named in the answer."""
    bears_token: bool
    """Whether a token is among the subprotocols."""
    session_id: bytes | None
    """As the query says; a header may say so, too."""
    custom: Headers
    """What the query has the agent told in headers, names in lower case."""
    agent_query: bytes
    """What is left of the query: the agent's own parameters, as they came."""


def read(head: RequestHead) -> Opening:
    """What `head` asks for. Raises UpgradeRequired, ValidationFailed."""
    if head.is_http_1_0 or b"websocket" not in _tokens(head.headers, b"upgrade"):
        raise UpgradeRequired(
            "This path takes WebSocket connections: the request must have the header Upgrade: websocket"
        )
    if b"upgrade" not in _tokens(head.headers, b"connection"):
        raise ValidationFailed("The request to open a WebSocket must have the header Connection: Upgrade")
    if set(_all(head.headers, b"sec-websocket-version")) != {VERSION}:
        raise UpgradeRequired("Only version 13 of the WebSocket protocol is spoken here")
    if head.chunked or head.content_length:
        raise ValidationFailed("The request to open a WebSocket must not have a body")
    keys = _all(head.headers, b"sec-websocket-key")
    if not keys or not all(_is_key(key) for key in keys):
        raise ValidationFailed("The header Sec-WebSocket-Key must be there, with 16 bytes in base64")
    offered = _tokens(head.headers, b"sec-websocket-protocol", lower=False)
    session_id, custom, agent_query = _read_query(head)
    return Opening(
        # AWS's SDK makes headers for a client that adds its own before them: so version and key come twice, and the
        # client goes by its own key.
        key=keys[0],
        # The one subprotocol there is (spec section 1.7): a browser's way to send a token.
        subprotocol=bearer.SUBPROTOCOL if bearer.SUBPROTOCOL in offered else None,
        bears_token=any(offer.startswith(bearer.SUBPROTOCOL + b".") for offer in offered),
        session_id=session_id,
        custom=custom,
        agent_query=agent_query,
    )


def _read_query(head: RequestHead) -> tuple[bytes | None, Headers, bytes]:
    """The session's id, headers for the agent, and what is left of a query."""
    session_id: bytes | None = None
    custom: dict[bytes, bytes] = {}
    left: list[bytes] = []
    for pair in head.raw_query.split(b"&") if head.raw_query else ():
        raw_name, _, raw_value = pair.partition(b"=")
        name = _decoded(raw_name).lower()
        if name == headers.SESSION_ID:
            if session_id is not None:
                raise _given_twice(name)
            session_id = _decoded(raw_value)
        elif name.startswith(_CUSTOM):
            if name in custom:
                raise _given_twice(name)
            custom[name] = _custom_value(name, _decoded(raw_value))
        elif name not in _OURS and not name.startswith(_RESERVED_PREFIXES):
            # Neither credentials nor what else is said to us.
            left.append(pair)
    for name in custom:
        if _all(head.headers, name):
            raise _given_twice(name)
    return session_id, list(custom.items()), b"&".join(left)


def _custom_value(name: bytes, value: bytes) -> bytes:
    value = value.strip(_OWS)
    if not _CUSTOM_NAME.fullmatch(name):
        raise _bad_parameter(_CUSTOM, "After this, a name must have 1 to 200 letters, digits, - and _")
    if not _VALUE.fullmatch(value):
        raise _bad_parameter(name, "Its value must be one that a header can have")
    if len(value) > ALLOWED_HEADER_VALUE_BYTES:
        raise _bad_parameter(name, f"Its value must not be longer than {ALLOWED_HEADER_VALUE_BYTES} bytes")
    return value


def _bad_parameter(name: bytes, problem: str) -> ValidationFailed:
    told = name.decode("ascii")
    return ValidationFailed(
        f"1 validation error detected: Value at '{told}' failed to satisfy constraint: {problem}",
        fields=(FieldProblem(told, problem),),
    )


def _given_twice(name: bytes) -> ValidationFailed:
    return _bad_parameter(name, "It must be given once")


def _decoded(raw: bytes) -> bytes:
    return unquote_to_bytes(raw.replace(b"+", b" "))


def _all(received: Headers, name: bytes) -> list[bytes]:
    return [value for given, value in received if given == name]


def _tokens(received: Headers, name: bytes, *, lower: bool = True) -> list[bytes]:
    """The members of a header that is a list."""
    return [
        (token.lower() if lower else token).strip(_OWS) for value in _all(received, name) for token in value.split(b",")
    ]


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def accept_of(key: bytes) -> bytes:
    """What Sec-WebSocket-Accept must be for `key`."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def switching(opening: Opening) -> Headers:
    """The headers of a 101 that answers `opening`."""
    told = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", accept_of(opening.key)),
    ]
    if opening.subprotocol is not None:
        told.append((b"sec-websocket-protocol", opening.subprotocol))
    return told


# -- the agent's half ---------------------------------------------------------------------------------------------


def new_key() -> bytes:
    """A key of our own for the agent."""
    return base64.b64encode(os.urandom(16))


def request_lines(target: bytes, opening: Opening, *, port: int, key: bytes) -> list[bytes]:
    """How the request to an agent begins."""
    if opening.agent_query:
        target += b"?" + opening.agent_query
    return [
        b"GET %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nupgrade: websocket\r\nconnection: Upgrade\r\n" % (target, port),
        b"sec-websocket-version: %b\r\nsec-websocket-key: %b\r\n" % (VERSION, key),
    ]


def check_accepted(head: ResponseHead, key: bytes) -> str | None:
    """What is wrong with an agent's 101 to `key`; None when nothing is."""
    if b"websocket" not in _tokens(head.headers, b"upgrade") or b"upgrade" not in _tokens(head.headers, b"connection"):
        return "it switched to something other than a WebSocket"
    if _all(head.headers, b"sec-websocket-accept") != [accept_of(key)]:
        return "it did not prove that it had read the handshake"
    if _all(head.headers, b"sec-websocket-extensions"):
        return "it chose an extension that was not offered"
    if _all(head.headers, b"sec-websocket-protocol"):
        return "it chose a subprotocol that was not offered"
    return None
