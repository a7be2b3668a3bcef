"""Control's HTTP server for clients that are not Freehold's own: uvicorn.

Not for gateway workers (`gateway_port`), nor for the public port, which is theirs. Invariant: signals are the
process's business (`freehold.child`), not uvicorn's; a stop lets requests under way end, for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, Final

import uvicorn

STOP_TIMEOUT_S: Final = 5
KEEP_ALIVE_S: Final = 75


class HttpServer:
    """Serves the ASGI application `app` on `listener` while `run` runs."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )

    async def run(self) -> None:
        """Serve until cancelled."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        finally:
            self._server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
