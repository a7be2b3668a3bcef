"""The AG-UI contract: POST /invocations; every failure is one RUN_ERROR event. Source: spec section 1.6, AG-UI.

An agent's failure has status 200, as the stream that it broke would have had.
"""

from __future__ import annotations

from typing import Final

import msgspec

from freehold.gateway.contracts.base import Rules
from freehold.gateway.errors import Answer, WireError

_CODES: Final[dict[str, tuple[str, int]]] = {
    "ValidationException": ("VALIDATION_ERROR", 400),
    "AccessDeniedException": ("ACCESS_DENIED", 403),
    "ThrottlingException": ("RATE_LIMIT_EXCEEDED", 429),
    "ConflictException": ("SESSION_BUSY", 409),
    "RetryableConflictException": ("SESSION_BUSY", 409),
    "ServiceQuotaExceededException": ("SERVICE_QUOTA_EXCEEDED", 429),
    "RuntimeClientError": ("AGENT_ERROR", 200),
}


def _render(error: WireError) -> Answer:
    code, status = _CODES.get(error.code, ("INTERNAL_ERROR", error.status))
    event = msgspec.json.encode({"type": "RUN_ERROR", "code": code, "message": error.message})
    headers = (
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"x-amzn-errortype", error.code.encode()),
    )
    return Answer(status, headers, b"data: " + event + b"\n\n")


RULES: Final = Rules(
    target=b"/invocations",
    request_headers=frozenset(),
    response_headers=frozenset(),
    render_error=_render,
)
