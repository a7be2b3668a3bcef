"""Which JSON-RPC message a request's body holds: whose id a failure has to repeat, and which method is called.

For agents that speak MCP or A2A. Not for checking a message: that is the agent's. Invariant: looking changes nothing of
what reaches the agent, and fails no request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from freehold.gateway.bodies import AtHand, Streamed
from freehold.gateway.contracts import json_rpc
from freehold.gateway.contracts.base import Rules
from freehold.gateway.errors import Answer, WireError
from freehold.gateway.spool import Spool

MAX_HEAD_BYTES: Final = 4 * 1024
"""Kept of a message that passes, or is too large to be read whole."""

log = structlog.get_logger(__name__)


class Message:
    """What is known of one: of a body that is held at once, of one that passes as it does."""

    __slots__ = ("_head", "_request", "_size", "_tail")

    def __init__(self, body: AtHand | Spool | Streamed | None = None) -> None:
        self._head = b""
        self._tail = b""
        self._size = 0
        self._request = None if body is None or isinstance(body, Streamed) else _read(body)

    @property
    def method(self) -> str | None:
        """None also where it is not known."""
        return None if self._request is None else self._request.method

    @property
    def id(self) -> bytes | None:
        """As JSON; None also where it is not known."""
        if self._request is not None:
            return self._request.id
        whole = self._size <= len(self._head)
        return json_rpc.read(self._head, b"" if whole else self._tail).id

    def passing_to(self, take: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Looks at the bytes of a message on their way to `take`."""

        def passing(raw: bytes) -> None:
            self._size += len(raw)
            if len(self._head) < MAX_HEAD_BYTES:
                self._head += raw[:MAX_HEAD_BYTES]
            self._tail = (self._tail + raw[-json_rpc.MAX_TAIL_BYTES :])[-json_rpc.MAX_TAIL_BYTES :]
            take(raw)

        return passing

    def render_error(self, rules: Rules, error: WireError) -> Answer:
        """The answer that tells of a failure of it."""
        return rules.render_error(error, self.id)


def _read(body: AtHand | Spool) -> json_rpc.Request:
    if body.size <= json_rpc.MAX_WHOLE_BYTES:
        return json_rpc.read(body.data if isinstance(body, AtHand) else body.in_memory() or b"")
    if isinstance(body, AtHand):
        return json_rpc.read(body.data[:MAX_HEAD_BYTES], body.data[-json_rpc.MAX_TAIL_BYTES :])
    try:
        return json_rpc.read(*body.ends(MAX_HEAD_BYTES, json_rpc.MAX_TAIL_BYTES))
    except OSError as error:
        log.warning("gateway.message_unread", error=error.strerror)
        return json_rpc.Request()
