"""Listeners of the platform inside sessions: addresses in a session's own network that lead to the server.

The supervisor of a session, which is in its network, holds them and passes accepted connections on. Standard library
only: the supervisor imports this. Not for what is served over the connections (whoever is given them). Invariant: of
one inlet of one session at most MAX_HELD connections are outside of the supervisor at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

MAX_HELD = 8
BACKLOG = 16

OnInlet = Callable[[int, str, socket.socket, Callable[[], None]], None]
"""Gets a connection that an agent has made: the session's generation, the inlet's name, the socket, which is the
callee's, and what to call once it is closed."""


@dataclass(frozen=True, slots=True)
class Inlet:
    """An address that agents connect to."""

    name: str
    host: str
    port: int


class HeldInlet:
    """One inlet in one session, at the supervisor."""

    def __init__(self, inlet: Inlet) -> None:
        """Listen. Raises OSError."""
        self.name = inlet.name
        self.held = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            self.socket.bind((inlet.host, inlet.port))
            self.socket.listen(BACKLOG)
        except OSError:
            self.socket.close()
            raise

    @property
    def takes_more(self) -> bool:
        return self.held < MAX_HELD

    def accept(self) -> socket.socket | None:
        """The next connection, counted as held; None when there is none after all."""
        try:
            accepted, _ = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        self.held += 1
        return accepted
