"""The warden as control needs it: end a runtime's sessions, list what runs.

Not for claims, which are the gateway's. Invariant: every call is bounded; a warden that is away is Unavailable.
"""

from __future__ import annotations

from typing import Final, Protocol

from freehold import ipc
from freehold.warden import protocol

STOP_TIMEOUT_S: Final = 60.0
"""Ending every session of a runtime: each gets its grace period, all at once."""
LIST_TIMEOUT_S: Final = 5.0


class Warden(Protocol):
    async def stop_runtime(self, account: str, runtime_id: str) -> None:
        """End every session of the runtime; returns when they have ended. Raises Unavailable."""
        ...

    async def sessions(self, *, after: int, limit: int) -> list[protocol.SessionInfo]:
        """Running sessions in order of generation. Raises Unavailable."""
        ...


class LinkedWarden:
    """The warden at the other end of an `ipc.Link` made with `warden.protocol.REPLIES`."""

    def __init__(self, link: ipc.Link) -> None:
        self._link = link

    async def stop_runtime(self, account: str, runtime_id: str) -> None:
        """End every session of the runtime; returns when they have ended."""
        _, fds = await self._link.call(protocol.StopRuntime(account, runtime_id), timeout_s=STOP_TIMEOUT_S)
        ipc.close_all(fds)

    async def sessions(self, *, after: int, limit: int) -> list[protocol.SessionInfo]:
        """Running sessions in order of generation."""
        page, fds = await self._link.call(protocol.ListSessions(after, limit), timeout_s=LIST_TIMEOUT_S)
        ipc.close_all(fds)
        if not isinstance(page, protocol.SessionPage):
            raise TypeError(f"the warden answered {type(page).__name__} to ListSessions")
        return page.sessions
