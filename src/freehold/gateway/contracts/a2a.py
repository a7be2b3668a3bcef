"""The A2A contract: JSON-RPC by POST /, and an agent card. Source: spec sections 1.1, 1.6 and 1.8.

Failures are JSON-RPC errors with real statuses; a caller that may not is told so in no particular form.
"""

from __future__ import annotations

from typing import Final

from freehold.gateway import errors
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules, Told
from freehold.gateway.errors import Answer, WireError

CARD_PATHS: Final = (b"/.well-known/agent-card.json", b"/.well-known/agent.json")
"""Where an agent has its card: today's spelling, and that of before version 0.3 of the protocol."""

_VERSIONING: Final = frozenset({b"a2a-version", b"a2a-extensions", b"x-a2a-extensions"})
"""Servers of version 1.0 take a request without A2A-Version for one of version 0.3."""


def _render(error: WireError, told: Told, request_id: bytes | None) -> Answer:
    return errors.envelope(error) if told.code is None else json_rpc.render(error, told, request_id)


RULES: Final = Rules(
    target=b"/",
    render=_render,
    failures={
        "UnauthorizedException": Told(json_rpc.UNAUTHORIZED, 401),
        "AccessDeniedException": Told(None, 403),
        "ResourceNotFoundException": Told(-32051, 404),
        "ValidationException": Told(-32052, 400),
        "ThrottlingException": Told(-32053, 429),
        "ServiceQuotaExceededException": Told(-32053, 429),
        "ConflictException": Told(-32054, 409),
        "RetryableConflictException": Told(-32054, 409),
        "RuntimeClientError": Told(-32055, 424),
    },
    others=Told(-32603, 500),
    request_headers=_VERSIONING,
    response_headers=_VERSIONING,
    is_json_rpc=True,
)
