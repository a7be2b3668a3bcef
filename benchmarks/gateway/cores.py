"""Which processor does what: the client and the agent share one, what is measured has another.

On a machine with a single processor both are that one, and what is told of rates and latencies says little.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

_ALL = sorted(os.sched_getaffinity(0))


def load() -> int:
    """Of the client, the agent, and whoever else is not measured."""
    return _ALL[0]


def measured() -> int:
    return _ALL[-1]


def told() -> str:
    return f"client and agent on {load()}, what is measured on {measured()}"


@contextlib.contextmanager
def on(core: int) -> Generator[None]:
    """Processes started meanwhile run there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
