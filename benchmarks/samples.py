"""What a list of durations says: the numbers that every benchmark reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def summary(durations_s: Sequence[float]) -> dict[str, float | int]:
    """Samples and milliseconds: least, median, 90th and 99th percentile (nearest rank), most."""
    ordered = sorted(durations_s)

    def at(share: float) -> float:
        rank = max(1, math.ceil(share * len(ordered)))
        return round(ordered[rank - 1] * 1000, 3)

    return {
        "samples": len(ordered),
        "min_ms": at(0.0),
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "max_ms": at(1.0),
    }


def compared(ours_s: Sequence[float], bare_s: Sequence[float]) -> dict[str, Any]:
    """Both, and how many times the bare one's median ours is."""
    ours, bare = summary(ours_s), summary(bare_s)
    return {"ours": ours, "bare": bare, "ratio_of_medians": round(ours["p50_ms"] / bare["p50_ms"], 2)}
