"""The keys of identity providers that this worker uses, as control has told of them.

Not for fetching them, which control does for all workers, or for checking tokens (`bearers`). Invariant: a set is used
no longer than control said when it handed it out, and not after control has told of a newer one. It outlives a
connection to control: whoever was let in by it is let in while control is away, until its time is up.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from freehold.auth.jwt_refusals import TokenRefused
from freehold.control import protocol
from freehold.domain.errors import FreeholdError, Unavailable
from freehold.gateway import eager

if TYPE_CHECKING:
    # What it imports takes time and memory that only token callers are worth.
    from freehold.auth.jwt_keys import Keys

MAX_SETS: Final = 1000
RETRY_S: Final = 1.0
"""Between two questions for the same set, when the first has brought nothing new."""
MISSING_S: Final = 10.0
"""How long a key that could not be had is not asked for again."""
MAX_MISSING: Final = 4096

Ask = Callable[[protocol.GetKeySet], Awaitable[Any]]
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Entry:
    """What is known of one set; instants are those of the clock."""

    keys: Keys
    usable_until: float
    ask_again_at: float
    renewal_at: float
    """Before it, asking for a newer set is of no use."""


class KeySets:
    """Key sets by `Authorizer.key_set`. `ask` puts a question to control; it runs in a Task."""

    def __init__(self, ask: Ask, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self.entries: Final[OrderedDict[str, Entry]] = OrderedDict()
        """By name."""
        self._asking: dict[tuple[str, str | None], asyncio.Task[Keys | None]] = {}
        self._missing: dict[tuple[str, bytes], float] = {}
        """Until when a generation is known not to have a key."""

    def current(self, name: str) -> Keys | None:
        """The keys to use at once, without asking."""
        entry = self.entries.get(name)
        return entry.keys if entry is not None and self._clock() < entry.ask_again_at else None

    async def get(self, name: str, question: protocol.GetKeySet) -> Keys:
        """The keys to use. Raises TokenRefused when there are none, Unavailable when control is away, too."""
        entry = self.entries.get(name)
        if entry is not None and self._clock() < entry.usable_until:
            if self._clock() >= entry.ask_again_at:
                # What is known is good for now: nobody waits.
                self._begin(name, question)
            return entry.keys
        await eager.in_task()
        keys = await asyncio.shield(self._begin(name, question))
        if keys is None:
            raise TokenRefused("the keys of the identity provider can't be had")
        return keys

    async def newer(self, name: str, question: protocol.GetKeySet, than: Keys, wanted: bytes) -> Keys | None:
        """A newer set than one that lacks the key `wanted`; None when there is none, or it is not worth asking.

        Raises Unavailable.
        """
        entry = self.entries.get(name)
        if entry is not None and entry.keys.generation != than.generation:
            return entry.keys
        now = self._clock()
        missing = (than.generation, wanted)
        if now < self._missing.get(missing, 0.0) or (entry is not None and now < entry.renewal_at):
            return None
        await eager.in_task()
        keys = await asyncio.shield(self._begin(name, question, lacking=than.generation))
        if keys is not None and keys.generation != than.generation:
            return keys
        if len(self._missing) >= MAX_MISSING:
            self._missing.clear()
        self._missing[missing] = self._clock() + MISSING_S
        return None

    # -- what control tells ---------------------------------------------------------------------------------------

    def forget(self, names: Iterable[str]) -> None:
        """There is a newer generation of these."""
        for name in names:
            self.entries.pop(name, None)

    def doubt(self) -> None:
        """There may be newer ones of all: what a control that has just come says is asked for."""
        for entry in self.entries.values():
            entry.ask_again_at = entry.renewal_at = 0.0

    def _begin(
        self, name: str, question: protocol.GetKeySet, *, lacking: str | None = None
    ) -> asyncio.Task[Keys | None]:
        """Ask, unless that has been asked: whoever needs the answer waits for the same one."""
        asked = (name, lacking)
        task = self._asking.get(asked)
        if task is None:
            task = asyncio.create_task(self._learn(name, question, lacking))
            self._asking[asked] = task
            task.add_done_callback(lambda done: self._asked(asked, done))
        return task

    def _asked(self, asked: tuple[str, str | None], task: asyncio.Task[Keys | None]) -> None:
        del self._asking[asked]
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, FreeholdError):
            log.error("gateway.key_set_failed", exc_info=error)

    async def _learn(self, name: str, question: protocol.GetKeySet, lacking: str | None) -> Keys | None:
        """Ask control; None when it has no keys either. Raises FreeholdError."""
        entry = self.entries.get(name)
        if entry is not None:
            entry.ask_again_at = self._clock() + RETRY_S
        make = await asyncio.to_thread(_import)
        asked = protocol.GetKeySet(question.account, question.runtime_id, question.version, lacking=lacking)
        try:
            told = await self._ask(asked)
        except TimeoutError:
            raise Unavailable("control does not answer") from None
        if not isinstance(told, protocol.KeySet):
            return None
        now = self._clock()
        entry = self.entries.get(name)
        if entry is None or entry.keys.generation != told.generation:
            keys = make(told.issuer, told.generation, told.keys)
        else:
            keys = entry.keys
        self.entries[name] = Entry(
            keys=keys,
            usable_until=now + told.usable_for_s,
            ask_again_at=now + min(max(told.refresh_in_s, RETRY_S), told.usable_for_s),
            renewal_at=now + told.renewal_in_s,
        )
        if len(self.entries) > MAX_SETS:
            self.entries.popitem(last=False)
        return keys


def _import() -> type[Keys]:
    from freehold.auth.jwt_keys import Keys

    return Keys
