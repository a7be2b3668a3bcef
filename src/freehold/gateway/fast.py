# pyright: reportMissingModuleSource=false
"""The compiled forms of the short ways, where they have been built, and whether this process uses them.

Not for the ways themselves, which are `fastpath.pyx` (requests: see `passages`) and `fastpipe.pyx` (events of streams,
messages of WebSockets), above `fastseats.pyx`, `lane.pyx`, `outlet.pyx` and `octets.pxd`; nor for building them
(tools/extensions.py). Invariant: a worker without them answers the same.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from freehold.gateway.fastpath import Agent, FastPassages
    from freehold.gateway.fastpipe import Chunks, Messages

Choice = Literal["auto", "never", "always"]

HOW_TO_BUILD: Final = (
    "install a C compiler and Python's headers (on Debian and Ubuntu: apt install gcc python3-dev), then "
    "Freehold anew: pip install --force-reinstall --no-deps --no-cache-dir --no-binary freehold freehold; "
    "in a source tree: ./dev setup"
)
_MODULES: Final = ("fastpath", "fastpipe", "fastseats", "lane", "outlet")


class NotBuilt(Exception):
    """There is no compiled form that could be used. The message says why, in a few words."""


@dataclass(frozen=True)
class Compiled:
    passages: type[FastPassages]
    agent: type[Agent]
    chunks: type[Chunks]
    messages: type[Messages]


def load(choice: Choice = "auto") -> Compiled | None:
    """What the setting `gateway.compiled` chooses; None: pure Python. Raises NotBuilt if it must be there and isn't."""
    if choice == "never":
        return None
    try:
        return find()
    except NotBuilt:
        if choice == "always":
            raise
        return None


def find() -> Compiled:
    """Raises NotBuilt."""
    built: list[Path] = []
    for name in _MODULES:
        found = importlib.util.find_spec(f"freehold.gateway.{name}")
        if found is None or found.origin is None:
            raise NotBuilt("not compiled for this Python")
        built.append(Path(found.origin))
    oldest = min(path.stat().st_mtime_ns for path in built)
    sources = [source for end in ("pyx", "pxd") for source in built[0].parent.glob(f"*.{end}")]
    # In a source tree somebody may start a server without `./dev`, after a change.
    if any(source.stat().st_mtime_ns > oldest for source in sources):
        raise NotBuilt("compiled from a source that has changed since")
    from freehold.gateway.fastpath import Agent, FastPassages
    from freehold.gateway.fastpipe import Chunks, Messages

    return Compiled(FastPassages, Agent, Chunks, Messages)


class _Use:
    def __init__(self) -> None:
        self.is_chosen = False
        self.compiled: Compiled | None = None


_use: Final = _Use()


def choose(compiled: Compiled | None) -> None:
    """What this process uses from now on; unless it is said, what `load` finds."""
    _use.is_chosen, _use.compiled = True, compiled


def compiled() -> Compiled | None:
    """What this process uses."""
    if not _use.is_chosen:
        choose(load())
    return _use.compiled
