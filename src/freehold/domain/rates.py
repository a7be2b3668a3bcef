"""How often something may happen: a bucket of tokens that fills at a steady rate. Pure: `now` is passed in.

Invariant: within any time t at most `per_s` * (t + 1) tokens are taken.
"""

from __future__ import annotations

from collections.abc import Hashable


class Rates:
    """One bucket for each key. Each holds what comes in a second, one token at least."""

    def __init__(self, per_s: float) -> None:
        """`per_s` 0: any rate."""
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._buckets: dict[Hashable, tuple[float, float]] = {}
        """Tokens, and when there were as many."""

    def set_rate(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        if not per_s:
            self._buckets.clear()

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token; whether there was one."""
        if not self._per_s:
            return True
        tokens = self._tokens(key, now)
        if tokens < 1.0:
            return False
        self._buckets.pop(key, None)
        self._buckets[key] = (tokens - 1.0, now)
        self._forget_full(now)
        return True

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(key, (self._most, now))
        return min(self._most, tokens + (now - at) * self._per_s)

    def _forget_full(self, now: float) -> None:
        """A full bucket is as one that there never was. The dict is in order of use."""
        for key in list(self._buckets)[:2]:
            if self._tokens(key, now) >= self._most:
                del self._buckets[key]
