"""Which settings changed, and which of them a running server takes over. Pure: no file, no process.

Not for telling the processes (`processes`). Invariant: the result differs from the running settings in nothing but
what may be taken over, so a process that is restarted later gets what the others run with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from freehold.settings import Settings


@dataclass(frozen=True, slots=True)
class Reloaded:
    """`settings` are those to go on with. Names are dotted, as `log.level`."""

    settings: Settings
    taken_over: tuple[str, ...]
    need_restart: tuple[str, ...]


def reload(running: Settings, wanted: Settings, may_change: Callable[[str], bool]) -> Reloaded:
    """What becomes of `running` when the settings now say `wanted`."""
    before, after = _flat(running), _flat(wanted)
    changed = sorted(name for name in before if before[name] != after[name])
    settings = running
    for name in changed:
        if may_change(name):
            section, _, key = name.partition(".")
            part: BaseModel = getattr(settings, section)
            settings = settings.model_copy(update={section: part.model_copy(update={key: after[name]})})
    return Reloaded(
        settings,
        taken_over=tuple(name for name in changed if may_change(name)),
        need_restart=tuple(name for name in changed if not may_change(name)),
    )


def _flat(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": getattr(value, key) for key in type(value).model_fields}
        else:
            found[name] = value
    return found
