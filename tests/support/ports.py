"""Ports for programs that must be told one: for all others port 0 is better.

Not out of the range from which the kernel takes ports for connections: one of those may be in use again before the
program listens on it. Invariant: no port is given out twice, in whatever test process of this host.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

FIRST, LAST = 20_000, 29_999
"""Below those that Linux takes for connections (ip_local_port_range)."""
_leases: list[socket.socket] = []


def lease(*, last: int = LAST, offsets: Sequence[int] = (0,)) -> int:
    """A free port, whose counterparts at `offsets` are free as well. It is this process's until that ends."""
    candidates = range(FIRST, last)
    for port in random.sample(candidates, len(candidates)):
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0freehold-test-port-{port}")
            for offset in offsets:
                with socket.socket() as listener:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(("127.0.0.1", port + offset))
        except OSError:
            mark.close()
            continue
        _leases.append(mark)
        return port
    raise AssertionError("no free ports")
