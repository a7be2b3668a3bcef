"""The compiled form of the short way (`passages`), where it has been built.

Not for the way itself, which is `fastpath.pyx`. Invariant: a worker without it answers the same.
"""

from __future__ import annotations

from collections.abc import Callable

from freehold.gateway import connection
from freehold.gateway.passages import Passages

FastPath = Callable[[Passages], connection.Passages]


def load() -> FastPath | None:
    """None when it has not been built for this interpreter."""
    try:
        from freehold.gateway.fastpath import FastPassages
    except ModuleNotFoundError:
        return None
    return FastPassages
