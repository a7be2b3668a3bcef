"""The HTTP contract: POST /invocations; failures as AWS errors. Source: spec sections 1.1 and 1.6."""

from __future__ import annotations

from typing import Final

from freehold.gateway import errors
from freehold.gateway.contracts.base import Rules

RULES: Final = Rules(
    target=b"/invocations",
    request_headers=frozenset(),
    response_headers=frozenset(),
    render_error=errors.envelope,
)
