"""Sessions that have ended, and why: the newest ones, in memory.

Not for keeping them over a restart: their records lie beside their logs, and fill this again (`output`). Invariant:
bounded by `kept`, in order of generation.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from freehold.domain.sessions import SessionKey
from freehold.warden import protocol

KEPT: Final = 2000
LAPSED_KEPT: Final = 20_000


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


class Lapsed:
    """Keys whose last session was bound (see protocol.Bind) and has ended: the newest `kept` of them."""

    def __init__(self, earlier: Iterable[protocol.SessionRecord] = (), *, kept: int = LAPSED_KEPT) -> None:
        self._kept = kept
        self._keys: OrderedDict[SessionKey, None] = OrderedDict()
        for record in earlier:
            self.add(record)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._keys

    def add(self, record: protocol.SessionRecord) -> None:
        """A session has ended."""
        self._keys.pop(record.key, None)
        if record.bound:
            self._keys[record.key] = None
            if len(self._keys) > self._kept:
                self._keys.popitem(last=False)

    def discard(self, key: SessionKey) -> None:
        """Another session of this key begins."""
        self._keys.pop(key, None)


def _generation(record: protocol.SessionRecord) -> int:
    return record.generation
