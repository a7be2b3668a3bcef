"""The contract of a session backend: where one session's agent runs, and how it is reached.

Not for: deciding when a session starts or ends (`warden`). Invariant: whatever a backend has made for a session is
named by the last reference it yielded, so that a crash at any point leaves nothing that `sweep` can't find.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from typing import Protocol

from freehold.domain.launch import LaunchSpec
from freehold.domain.usage import Usage


@dataclass(frozen=True, slots=True)
class StartSpec:
    """One session to start. `generation` is unique for ever and is safe as a path name."""

    generation: int
    launch: LaunchSpec
    environment: dict[str, str] = field(repr=False)
    """Everything the agent finds in its environment, except what depends on where it runs (HOME, PATH, PYTHONPATH,
    TMPDIR), which the backend adds."""


@dataclass(frozen=True, slots=True)
class SessionRef:
    """What a backend needs to find a session again: recorded before each next step of its start."""

    generation: int
    data: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Exit:
    """How an agent's process ended. `code` is None for a signal; `signal` is None for an exit."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.signal is None else f"signal {self.signal}"


class SessionBackend(Protocol):
    """One way to run sessions. Every method is called from one event loop."""

    async def open(self) -> None:
        """Probe the host and get ready. Raises BackendUnavailable, naming the missing protection and its remedy."""
        ...

    def start(self, spec: StartSpec) -> AsyncGenerator[SessionRef]:
        """Start the agent, yielding a reference after each thing made; ends when the process runs (not yet ready).

        Raises StartFailed when the process could not be started.
        """
        ...

    async def dial(self, ref: SessionRef, port: int, *, wait_s: float = 0.0) -> socket.socket:
        """A connected, non-blocking stream socket to `port` inside the session.

        With `wait_s`, keeps trying that long for somebody to listen. Raises ConnectionError when nobody does, or
        at once when the agent has exited.
        """
        ...

    async def exited(self, ref: SessionRef) -> Exit:
        """Wait until the agent's process has ended, and say how."""
        ...

    def output_tail(self, ref: SessionRef) -> str:
        """The last lines the agent wrote on stdout and stderr (bounded)."""
        ...

    async def usage(self, refs: Collection[SessionRef]) -> dict[int, Usage]:
        """What running sessions have used until now, by generation; those that do not run are left out."""
        ...

    async def listening(self, ref: SessionRef) -> frozenset[int]:
        """The TCP ports on which the session's processes listen, as far as the host tells."""
        ...

    async def stop(self, ref: SessionRef) -> None:
        """End the session and remove all that was made for it. Idempotent; also for a half-started one."""
        ...

    async def sweep(self, leftover: Collection[SessionRef]) -> None:
        """Remove what an earlier run of the server left behind: `leftover`, and anything else that is ours."""
        ...

    async def aclose(self) -> None:
        """End every session and the backend itself."""
        ...


class BackendUnavailable(Exception):
    """The backend can't run here. The message names what is missing and the command that enables it."""
