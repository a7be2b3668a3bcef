"""Sessions that have ended, and why: the newest ones, in memory.

Not for keeping them over a restart: their records lie beside their logs, and fill this again (`output`). Invariant:
bounded by `kept`, in order of generation.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Final

from freehold.warden import protocol

KEPT: Final = 2000


class History:
    """The newest `kept` records of ended sessions."""

    def __init__(self, earlier: Iterable[protocol.SessionRecord] = (), *, kept: int = KEPT) -> None:
        self._kept = kept
        self._records: list[protocol.SessionRecord] = []
        for record in earlier:
            self.add(record)

    def add(self, record: protocol.SessionRecord) -> None:
        bisect.insort(self._records, record, key=_generation)
        del self._records[: -self._kept]

    def find(self, account: str, generation: int) -> protocol.SessionRecord | None:
        place = bisect.bisect_left(self._records, generation, key=_generation)
        if place < len(self._records) and self._records[place].generation == generation:
            record = self._records[place]
            return record if record.key.account == account else None
        return None

    def page(self, wanted: protocol.ListEnded) -> list[protocol.SessionRecord]:
        """See `protocol.ListEnded`."""
        limit = max(1, min(wanted.limit, protocol.MAX_ENDED_PAGE))
        found: list[protocol.SessionRecord] = []
        for record in reversed(self._records):
            if len(found) >= limit:
                break
            if (
                record.key.account == wanted.account
                and wanted.runtime_id in (None, record.key.runtime_id)
                and wanted.session_id in (None, record.key.session_id)
                and (wanted.before is None or record.generation < wanted.before)
            ):
                found.append(record)
        return found


def _generation(record: protocol.SessionRecord) -> int:
    return record.generation
