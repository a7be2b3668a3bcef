"""One small answer of an agent's, whole: for what the gateway reads itself instead of relaying it.

Invariant: nothing is kept of an answer that is larger than its bound or comes later than its time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from freehold.domain.errors import AgentFailed
from freehold.gateway import framing
from freehold.gateway.heads import ResponseHead
from freehold.gateway.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer; its `head.framing` has been read to its end."""

    head: ResponseHead
    body: bytes


class _Sink:
    """Collects one answer (see upstream.Sink)."""

    def __init__(self, max_bytes: int) -> None:
        self.done: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self._max_bytes = max_bytes
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def response_head(self, head: ResponseHead) -> None:
        self._head = head
        if isinstance(head.framing, framing.Chunked):
            head.framing.content = []

    def response_body(self, raw: bytes) -> None:
        assert self._head is not None
        content = self._head.framing.content
        parts = [raw] if content is None else list(content)
        if content is not None:
            content.clear()
        self._size += sum(map(len, parts))
        if self._size > self._max_bytes:
            self._fail(f"The runtime's answer is larger than {self._max_bytes} bytes.")
        else:
            self._parts += parts

    def response_end(self) -> None:
        assert self._head is not None
        if not self.done.done():
            self.done.set_result(Fetched(self._head, b"".join(self._parts)))

    def response_failed(self, why: str) -> None:
        self._fail(f"The runtime broke off before it had answered: {why}.")

    def upstream_writable(self) -> None:
        """There is no body to send."""

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(AgentFailed(why))


async def fetch(
    connection: Upstream, request_head: bytes, *, method: str = "GET", max_bytes: int, timeout_s: float
) -> Fetched:
    """Send a request without a body over a connection that is not in use. Raises AgentFailed; the connection is closed
    then, and whenever the caller gives up."""
    sink = _Sink(max_bytes)
    connection.begin(sink, method)
    connection.write(request_head)
    try:
        async with asyncio.timeout(timeout_s):
            return await sink.done
    except BaseException as error:
        connection.leave()
        if isinstance(error, TimeoutError):
            raise AgentFailed(f"The runtime did not complete its answer within {timeout_s:g} s.") from None
        raise
