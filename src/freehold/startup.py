"""Makes a process of the server start quickly: what it imports is nearly all that its start costs.

Not for what is imported or done then. Invariant: importing this module imports nothing large.
"""

from __future__ import annotations

import gc
import sys

_GC_THRESHOLDS = (10_000, 20, 20)
"""Hardly anything is garbage that only a collection finds, and what is alive would be looked through each time that
some hundred sessions or tokens more are known."""


def import_lightly() -> None:
    """Make the imports of this process cheaper, until `started`; call it before them.

    structlog takes rich wherever it is installed, for tracebacks that a server must not write since they show local
    variables. And nearly nothing of what imports make is garbage.
    """
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType] - how Python is told that there is none
    gc.disable()


def started() -> None:
    """What has been imported stays; only what comes from now on may become garbage."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()
