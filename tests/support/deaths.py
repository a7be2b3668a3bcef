"""How long processes take to end, told by the kernel: looking for them takes longer than that on a busy machine."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable


class Watched:
    """Processes that ran when this was made; one that ended meanwhile is not waited for."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._running: dict[int, int] = {}
        for pid in pids:
            try:
                self._running[os.pidfd_open(pid)] = pid
            except ProcessLookupError:
                continue

    def assert_ended(self, *, limit_s: float) -> None:
        """Wait until the last of them has ended, which must be within `limit_s` from now."""
        deadline = time.monotonic() + limit_s
        ends = select.poll()
        for process in self._running:
            ends.register(process, select.POLLIN)
        while self._running and (left_s := deadline - time.monotonic()) > 0:
            for process, _ in ends.poll(left_s * 1000):
                ends.unregister(process)
                os.close(process)
                del self._running[process]
        left = list(self._running.values())
        for process in self._running:
            os.close(process)
        assert not left, f"not ended within {limit_s} s: {left}"
