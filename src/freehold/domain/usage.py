"""What a session has used of its host.

Not for: how it is found out (`backends`). Plain data that crosses process borders.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of one session. None where the host does not tell."""

    cpu_s: float | None = None
    """CPU seconds, user and system, since the start; without processes that ended unseen where no cgroup counts."""
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    processes: int | None = None
