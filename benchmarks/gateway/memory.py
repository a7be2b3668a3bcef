"""Memory of processes, as Linux tells of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_RESET_PEAK = "5"
"""proc(5), clear_refs: the peak is what there is now."""


def pss_kb(pids: Sequence[int]) -> float:
    """Resident, shared pages by their share."""
    return sum(_field(pid, "smaps_rollup", "Pss") for pid in pids)


def watch_peak(pids: Sequence[int]) -> float:
    """What is resident now; `peak_kb` is from now on."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    return sum(_field(pid, "status", "VmRSS") for pid in pids)


def peak_kb(pids: Sequence[int]) -> float:
    return sum(_field(pid, "status", "VmHWM") for pid in pids)


def _field(pid: int, file: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/{file} has no {name}")
    return float(found[1])
