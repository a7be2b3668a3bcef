"""Asking an agent how it is: GET /ping over a socket into its sandbox.

Not for: what follows from the answer (`domain.sessions`). HTTP/1.0, so that the answer is one status, one body and a
close, whatever server the agent uses. Source: spec sections 1.1 and 1.2.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import Health

MAX_ANSWER_BYTES = 64 * 1024
PING_OPTIONAL: Final = frozenset({ServerProtocol.MCP, ServerProtocol.A2A})
"""Protocols whose own servers know nothing of /ping: one that says so has answered, and that is enough."""


@dataclass(frozen=True, slots=True)
class PingAnswer:
    """`status_code` as answered; `changed_at` is the agent's time_of_last_update in Unix seconds, if it said."""

    health: Health
    status_code: int
    changed_at: float | None = None


async def ping(sock: socket.socket, *, protocol: ServerProtocol, port: int, timeout_s: float) -> PingAnswer:
    """Ask once over a connected socket, and close it.

    Raises TimeoutError, ConnectionError, or ValueError when the answer is not HTTP.
    """
    loop = asyncio.get_running_loop()
    request = f"GET /ping HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n\r\n"
    with sock:
        async with asyncio.timeout(timeout_s):
            await loop.sock_sendall(sock, request.encode("ascii"))
            answer = b""
            while not _is_whole(answer):
                data = await loop.sock_recv(sock, 16 * 1024)
                if not data:
                    break
                answer += data
                if len(answer) > MAX_ANSWER_BYTES:
                    raise ValueError("the answer to /ping is too long")
    return read_answer(answer, ping_optional=protocol in PING_OPTIONAL)


def read_answer(answer: bytes, *, ping_optional: bool = False) -> PingAnswer:
    """Read a whole HTTP answer. Bodies in the wild: `{"status":"Healthy"}`, `"healthy"`, `"ok"`, nothing.

    With `ping_optional`, an answer that does not tell of a failure of the server's is as good as a healthy one.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        raise ValueError("the answer to /ping is not HTTP")
    status_code = int(parts[1])
    if status_code != 200:
        if ping_optional and status_code < 500:
            return PingAnswer(Health.HEALTHY, status_code)
        return PingAnswer(Health.UNHEALTHY, status_code)
    try:
        told = json.loads(body)
    except ValueError:
        return PingAnswer(Health.HEALTHY, status_code)
    if not isinstance(told, dict):
        return PingAnswer(Health.HEALTHY, status_code)
    document = cast("dict[str, Any]", told)
    status = document.get("status")
    busy = isinstance(status, str) and status.lower() == "healthybusy"
    return PingAnswer(
        Health.BUSY if busy else Health.HEALTHY, status_code, _instant(document.get("time_of_last_update"))
    )


def _instant(value: Any) -> float | None:
    """Unix seconds, or an ISO-8601 string as one of the SDKs sends."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    return None


def _is_whole(answer: bytes) -> bool:
    """Whether a Content-Length has been satisfied already; otherwise the close says so."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value.strip())
    return False
