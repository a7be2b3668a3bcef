"""The warden as control needs it: end sessions, list what runs and what has run.

Not for claims, which are the gateway's. Invariant: every call is bounded; a warden that is away is Unavailable.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from freehold import ipc
from freehold.domain.errors import Unavailable
from freehold.warden import protocol
from freehold.warden.tally import PAGE_SIZE, EndpointTally

STOP_TIMEOUT_S: Final = 60.0
"""Ending every session of a runtime: each gets its grace period, all at once."""
ASK_TIMEOUT_S: Final = 10.0
"""Beyond the time that measuring usage may take."""

Reply = TypeVar("Reply")


class Warden(Protocol):
    async def stop_runtime(self, account: str, runtime_id: str, *, endpoint: str | None = None) -> None:
        """End every session of the runtime, or of one endpoint; returns when they have ended. Raises Unavailable."""
        ...

    async def sessions(
        self,
        *,
        after: int,
        limit: int,
        account: str | None = None,
        runtime_id: str | None = None,
        with_usage: bool = False,
    ) -> list[protocol.SessionInfo]:
        """Running sessions in order of generation, at most 100. Raises Unavailable."""
        ...

    async def ended(self, wanted: protocol.ListEnded) -> list[protocol.SessionRecord]:
        """Ended sessions, the newest first. Raises Unavailable."""
        ...

    async def find(self, account: str, generation: int) -> protocol.SessionFound:
        """One session, with its usage. Raises NotFound, Unavailable."""
        ...

    async def stop(self, account: str, generation: int) -> None:
        """End a session; returns when it has ended. Raises NotFound, Unavailable."""
        ...

    async def tally(self) -> list[EndpointTally]:
        """What has been counted of sessions, by endpoint. Raises Unavailable."""
        ...


class LinkedWarden:
    """The warden at the other end of an `ipc.Link` made with `warden.protocol.REPLIES`."""

    def __init__(self, link: ipc.Link) -> None:
        self._link = link

    async def stop_runtime(self, account: str, runtime_id: str, *, endpoint: str | None = None) -> None:
        """End every session of the runtime, or of one endpoint; returns when they have ended."""
        _, fds = await self._link.call(protocol.StopRuntime(account, runtime_id, endpoint), timeout_s=STOP_TIMEOUT_S)
        ipc.close_all(fds)

    async def sessions(
        self,
        *,
        after: int,
        limit: int,
        account: str | None = None,
        runtime_id: str | None = None,
        with_usage: bool = False,
    ) -> list[protocol.SessionInfo]:
        """Running sessions in order of generation, at most 100."""
        wanted = protocol.ListSessions(after, limit, account, runtime_id, with_usage)
        return (await self._ask(wanted, protocol.SessionPage)).sessions

    async def ended(self, wanted: protocol.ListEnded) -> list[protocol.SessionRecord]:
        """Ended sessions, the newest first."""
        return (await self._ask(wanted, protocol.EndedPage)).sessions

    async def find(self, account: str, generation: int) -> protocol.SessionFound:
        """One session, with its usage."""
        return await self._ask(protocol.FindSession(account, generation), protocol.SessionFound)

    async def stop(self, account: str, generation: int) -> None:
        """End a session; returns when it has ended."""
        _, fds = await self._link.call(protocol.StopGeneration(account, generation), timeout_s=STOP_TIMEOUT_S)
        ipc.close_all(fds)

    async def tally(self) -> list[EndpointTally]:
        """What has been counted of sessions, by endpoint."""
        found: list[EndpointTally] = []
        while True:
            page = await self._ask(protocol.GetTally(len(found)), protocol.TallyPage)
            found += page.endpoints
            if len(page.endpoints) < PAGE_SIZE:
                return found

    async def _ask(self, question: ipc.Body, kind: type[Reply]) -> Reply:
        try:
            reply, fds = await self._link.call(question, timeout_s=ASK_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable("The server did not answer in time, please retry") from None
        ipc.close_all(fds)
        if not isinstance(reply, kind):
            raise TypeError(f"the warden answered {type(reply).__name__} to {type(question).__name__}")
        return reply
