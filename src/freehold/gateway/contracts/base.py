"""What differs between the protocols that agents speak, as the gateway sees it.

Invariant: a Rules object is plain data and pure functions; everything that moves bytes is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from freehold.gateway.errors import Answer, WireError


@dataclass(frozen=True, slots=True)
class Rules:
    """How one protocol's requests reach the agent, and how its callers are told of failures."""

    target: bytes
    """Where the agent takes what InvokeAgentRuntime carries; always by POST."""
    request_headers: frozenset[bytes]
    """Names (lower case) of request headers that reach the agent beside those of every protocol."""
    response_headers: frozenset[bytes]
    """Names (lower case) of the agent's response headers that reach the caller beside those of every protocol."""
    render_error: Callable[[WireError], Answer]
