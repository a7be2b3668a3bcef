"""Random ids for requests and traces, cheaply: the kernel is asked for many at once.

Not for anything that must not be guessed (`secrets` is). Invariant: what has been drawn is not given out again. A
process that forks would give its child the same: none that uses this does.
"""

from __future__ import annotations

import os
import uuid
from typing import Final

_BATCH: Final = 512


class _Ids:
    def __init__(self) -> None:
        self._drawn: list[str] = []
        """16 digits each."""
        self._pop = self._drawn.pop
        self._first = ""
        """Of the request ids until the next draw: all but their last twelve digits."""

    def _draw(self) -> str:
        digits = os.urandom(8 * _BATCH).hex()
        self._drawn.extend([digits[at : at + 16] for at in range(0, len(digits), 16)])
        self._first = str(uuid.uuid4())[:24]
        return self._pop()

    def span_id(self) -> str:
        """16 hexadecimal digits."""
        try:
            return self._pop()
        except IndexError:
            return self._draw()

    def request_id(self) -> str:
        """A UUID (version 4). Consecutive ones differ in their last part, mostly."""
        try:
            digits = self._pop()
        except IndexError:
            digits = self._draw()
        return self._first + digits[4:]

    def trace_id(self, second: int) -> str:
        """32 hexadecimal digits, of which the first are the second since the epoch, as X-Ray wants it."""
        return f"{second:08x}{self.span_id()[8:]}{self.span_id()}"


_ids: Final = _Ids()
span_id: Final = _ids.span_id
request_id: Final = _ids.request_id
trace_id: Final = _ids.trace_id
