"""One host user per live session, for a server that runs as root.

Not for: an ordinary user's server, whose sessions are all that user. Invariant: no two live sessions on this host
have the same uid, also not of two servers: a uid is leased by an abstract Unix socket, which the kernel frees when
the server dies.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

COUNT = 4_194_304
"""How far a lease is looked for. Ranges that belong to users of this host (subuid(5)) are left out, and are large."""


def reserved_ranges(subuid: str) -> list[range]:
    """The uids that /etc/subuid gives to users: their processes may become any of these."""
    ranges: list[range] = []
    for line in subuid.splitlines():
        _, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if first.isdigit() and count.isdigit():
            ranges.append(range(int(first), int(first) + int(count)))
    return ranges


class NoUidLeft(Exception):
    """Every uid is in use."""


class Uids:
    """Leases from `first` on."""

    def __init__(self, first: int, reserved: Sequence[range] = ()) -> None:
        self.range = range(first, first + COUNT)
        self._reserved = reserved
        self._leases: dict[int, socket.socket] = {}

    def lease(self) -> int:
        """The lowest uid that nobody uses. Raises NoUidLeft."""
        uid = self.range.start
        while uid in self.range:
            if (owned := next((owned for owned in self._reserved if uid in owned), None)) is not None:
                uid = owned.stop
                continue
            if uid not in self._leases and self.take(uid):
                return uid
            uid += 1
        raise NoUidLeft(f"no host uid is free from {self.range.start} to {self.range.stop - 1}")

    def take(self, uid: int) -> bool:
        """Lease this uid; False when another server has it."""
        if uid in self._leases:
            return True
        lease = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lease.bind(f"\0freehold-uid-{uid}")
        except OSError as error:
            lease.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        self._leases[uid] = lease
        return True

    def release(self, uid: int) -> None:
        """Give back: the session's processes and files have gone."""
        self._leases.pop(uid).close()

    def __contains__(self, uid: int) -> bool:
        return uid in self._leases
