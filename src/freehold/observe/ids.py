"""Random ids for requests and traces, cheaply: the kernel is asked for many at once.

Not for anything that must not be guessed (`secrets` is). Invariant: what has been drawn is not given out again. A
process that forks would give its child the same: none that uses this does.
"""

from __future__ import annotations

import os
import uuid
from typing import Final

_BATCH: Final = 512
DIGITS: Final = 40


class _Ids:
    def __init__(self) -> None:
        self._drawn: list[str] = []
        self._pop = self._drawn.pop
        self._first = ""
        """Of the request ids until the next draw: all but their last twelve digits."""

    def _draw(self) -> str:
        digits = os.urandom(DIGITS // 2 * _BATCH).hex()
        self._drawn.extend([digits[at : at + DIGITS] for at in range(0, len(digits), DIGITS)])
        self._first = str(uuid.uuid4())[:24]
        return self._pop()

    def request_id(self) -> str:
        """A UUID (version 4). Consecutive ones differ in their last part, mostly."""
        digits = self._pop() if self._drawn else self._draw()
        return self._first + digits[:12]

    def span_id(self) -> str:
        """16 hexadecimal digits."""
        digits = self._pop() if self._drawn else self._draw()
        return digits[:16]

    def place(self, second: int) -> tuple[str, str]:
        """A trace id, of which the first digits are the second since the epoch as X-Ray wants it, and a span id."""
        digits = self._pop() if self._drawn else self._draw()
        return f"{second:08x}{digits[:24]}", digits[24:]


_ids: Final = _Ids()
span_id: Final = _ids.span_id
request_id: Final = _ids.request_id
place: Final = _ids.place
