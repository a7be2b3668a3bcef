"""What differs between the protocols that agents speak, as the gateway sees it.

Invariant: a Rules object is plain data and pure functions; everything that moves bytes is the same for all. The tables
of docs/reference/protocols.md are made from this data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from freehold.gateway.errors import Answer, WireError


@dataclass(frozen=True, slots=True)
class Told:
    """How a protocol tells of a failure: by a code of its own (None: it has none), in an answer with this status."""

    code: int | str | None
    status: int


Render = Callable[[WireError, Told, bytes | None], Answer]
"""Makes the answer that tells of a failure. The last is the id of the JSON-RPC request that failed, as JSON; None when
it is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """How one protocol's requests reach the agent, and how its callers are told of failures."""

    target: bytes
    """Where the agent takes what InvokeAgentRuntime carries, unless its configuration says otherwise; by POST."""
    render: Render
    failures: Mapping[str, Told]
    """By the service's code, or by the `case` of a WireError that has one."""
    others: Told
    """Of failures that are not in `failures`."""
    web_socket_target: bytes | None = None
    """Where the agent takes WebSocket connections, if its protocol has them."""
    passes: frozenset[int] = frozenset()
    """Statuses of an agent's, beside every 2xx, that reach the caller with their bodies. Any other is its failure."""
    request_headers: frozenset[bytes] = frozenset()
    """Names (lower case) of request headers that reach the agent beside those of every protocol."""
    request_prefixes: tuple[bytes, ...] = ()
    """Beginnings (lower case) of more such names."""
    withheld_headers: frozenset[bytes] = frozenset()
    """Names that never reach the agent as they came, whatever its configuration allows."""
    response_headers: frozenset[bytes] = frozenset()
    """Names (lower case) of the agent's response headers that reach the caller beside those of every protocol."""
    is_json_rpc: bool = False
    """Whether a request is a JSON-RPC message, whose id an answer has to repeat."""
    has_sessions: bool = False
    """Whether agents may keep sessions of their own, which the protocol names in Mcp-Session-Id."""

    def told(self, error: WireError) -> Told:
        found = self.failures.get(error.case) if error.case else None
        return found or self.failures.get(error.code, self.others)

    def render_error(self, error: WireError, request_id: bytes | None = None) -> Answer:
        """The answer that tells of `error`."""
        return self.render(error, self.told(error), request_id)

    def lets_pass(self, status: int) -> bool:
        """Whether an agent's answer with this status reaches the caller."""
        return status < 300 or status in self.passes
