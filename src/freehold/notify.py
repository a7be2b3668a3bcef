"""Tells systemd, or whatever supervises the server by its protocol, what the server is about: sd_notify(3).

Not for health, which callers ask for over HTTP. Invariant: telling never stands in the server's way, and the
server's children can't tell in its name.
"""

from __future__ import annotations

import os
import socket
import time

import structlog

_VARIABLE = "NOTIFY_SOCKET"

log = structlog.get_logger(__name__)


class Notifier:
    """Where to tell; nowhere when nobody listens. Use `from_environment`."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls) -> Notifier:
        """What the supervisor named, which is taken out of the environment."""
        address = os.environ.pop(_VARIABLE, "")
        # A path, or a name in the abstract space that is written with @ for the zero byte.
        if address.startswith("@"):
            return cls("\0" + address[1:])
        return cls(address if address.startswith("/") else None)

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1.0)
                sock.connect(self._address)
                sock.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("notify.failed", lines=lines, error=error.strerror or str(error))


def _one_line(text: str) -> str:
    return " ".join(text.split())
