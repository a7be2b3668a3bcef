"""The AG-UI contract: POST /invocations; every failure is one RUN_ERROR event. Source: spec section 1.6, AG-UI.

An agent's failure has status 200, as the stream that it broke would have had.
"""

from __future__ import annotations

from typing import Final

import msgspec

from freehold.gateway.contracts.base import Rules, Told
from freehold.gateway.errors import Answer, WireError


def _render(error: WireError, told: Told, _request_id: bytes | None) -> Answer:
    event = msgspec.json.encode({"type": "RUN_ERROR", "code": told.code, "message": error.message})
    headers = (
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"x-amzn-errortype", error.code.encode()),
    )
    return Answer(told.status, headers, b"data: " + event + b"\n\n")


RULES: Final = Rules(
    target=b"/invocations",
    web_socket_target=b"/ws",
    render=_render,
    failures={
        "UnauthorizedException": Told("UNAUTHORIZED", 401),
        "AccessDeniedException": Told("ACCESS_DENIED", 403),
        "ValidationException": Told("VALIDATION_ERROR", 400),
        "ThrottlingException": Told("RATE_LIMIT_EXCEEDED", 429),
        "ServiceQuotaExceededException": Told("SERVICE_QUOTA_EXCEEDED", 429),
        "ConflictException": Told("SESSION_BUSY", 409),
        "RetryableConflictException": Told("SESSION_BUSY", 409),
        "RuntimeClientError": Told("AGENT_ERROR", 200),
    },
    others=Told("INTERNAL_ERROR", 500),
)
