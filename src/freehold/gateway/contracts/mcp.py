"""The MCP contract: streamable HTTP by POST /mcp. Source: spec sections 1.1, 1.6 and 1.9; the protocol's own texts.

Failures are JSON-RPC errors, most of them in an answer that succeeds. What is said here of sessions is said as pure
functions; `gateway.mcp_sessions` acts on it. Invariant: a session of the protocol is one sandbox, named by one id.
"""

from __future__ import annotations

import re
from typing import Final

from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules, Told
from freehold.gateway.errors import Unacceptable
from freehold.gateway.heads import Headers

SESSION_ID: Final = b"mcp-session-id"
PROTOCOL_VERSION: Final = b"mcp-protocol-version"
SESSION_ENDED: Final = "SessionEnded"
FIRST_WITHOUT_SESSIONS: Final = b"2026-07-28"
"""The first version of the protocol that has no handshake and no session ids."""

_MEDIA_RANGE: Final = re.compile(rb"\s*([^\s;]+)\s*(?:;.*?(?:;|\s)?[qQ]=(0(?:\.0{0,3})?)\s*|;.*)?")
"""Its second group is there when the range is not taken (RFC 9110, section 12.4.2)."""

RULES: Final = Rules(
    target=b"/mcp",
    render=json_rpc.render,
    failures={
        "UnauthorizedException": Told(json_rpc.UNAUTHORIZED, 401),
        "AccessDeniedException": Told(-32002, 403),
        "ThrottlingException": Told(-32003, 200),
        "ServiceQuotaExceededException": Told(-32003, 200),
        "ResourceNotFoundException": Told(-32004, 200),
        SESSION_ENDED: Told(-32004, 404),
        "ConflictException": Told(-32005, 200),
        "RetryableConflictException": Told(-32005, 200),
        "ValidationException": Told(-32006, 200),
        "RuntimeClientError": Told(-32010, 200),
        "McpRequestUnacceptable": Told(-32011, 406),
    },
    others=Told(-32603, 200),
    # What the transport's own rules have a server answer with, and clients act upon.
    passes=frozenset({400, 404, 405, 406, 415}),
    request_headers=frozenset({PROTOCOL_VERSION, b"mcp-method", b"mcp-name"}),
    # Arguments of tools that a tool's schema wants in headers, too: servers compare the two.
    request_prefixes=(b"mcp-param-",),
    withheld_headers=frozenset({SESSION_ID}),
    response_headers=frozenset({PROTOCOL_VERSION}),
    is_json_rpc=True,
    has_sessions=True,
)


def check_accept(headers: Headers) -> None:
    """Raise Unacceptable unless the caller takes JSON and event streams: the agent answers with either."""
    taken = [
        found[1].lower()
        for name, value in headers
        if name == b"accept"
        for part in value.split(b",")
        if (found := _MEDIA_RANGE.fullmatch(part)) is not None and not found[2]
    ]
    for wanted in (b"application/json", b"text/event-stream"):
        if not {wanted, wanted.partition(b"/")[0] + b"/*", b"*/*"}.intersection(taken):
            raise Unacceptable(
                "Accept Header Error - MCP protocol requires Accept header: application/json, text/event-stream"
            )


def names_session(headers: Headers) -> bool:
    return any(name == SESSION_ID for name, _ in headers)


def has_handshake(headers: Headers) -> bool:
    """Whether the request is of a version of the protocol whose sessions begin with `initialize`."""
    version = next((value for name, value in headers if name == PROTOCOL_VERSION), b"")
    return version < FIRST_WITHOUT_SESSIONS
