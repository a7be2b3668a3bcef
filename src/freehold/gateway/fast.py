# pyright: reportMissingModuleSource=false
"""The compiled form of the short way (`passages`), where it has been built.

Not for the way itself, which is `fastpath.pyx`, nor for building it (tools/extensions.py). Invariant: a worker without
it answers the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from freehold.gateway import connection
    from freehold.gateway.passages import Passages

Choice = Literal["auto", "never", "always"]
FastPath: TypeAlias = "Callable[[Passages], connection.Passages]"

HOW_TO_BUILD: Final = (
    "install a C compiler and Python's headers (on Debian and Ubuntu: apt install gcc python3-dev), then "
    "Freehold anew: pip install --force-reinstall --no-deps --no-cache-dir --no-binary freehold freehold; "
    "in a source tree: ./dev setup"
)
_MODULE: Final = "freehold.gateway.fastpath"


class NotBuilt(Exception):
    """There is no compiled form that could be used. The message says why, in a few words."""


def load(choice: Choice = "auto") -> FastPath | None:
    """What the setting `gateway.compiled` chooses; None: pure Python. Raises NotBuilt if it must be there and isn't."""
    if choice == "never":
        return None
    try:
        return find()
    except NotBuilt:
        if choice == "always":
            raise
        return None


def find() -> FastPath:
    """Raises NotBuilt."""
    found = importlib.util.find_spec(_MODULE)
    if found is None or found.origin is None:
        raise NotBuilt("not compiled for this Python")
    built = Path(found.origin)
    source = built.with_name("fastpath.pyx")
    # In a source tree somebody may start a server without `./dev`, after a change.
    if source.is_file() and source.stat().st_mtime_ns > built.stat().st_mtime_ns:
        raise NotBuilt("compiled from a source that has changed since")
    from freehold.gateway.fastpath import FastPassages

    return FastPassages
