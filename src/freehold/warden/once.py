"""Requests that were passed on already: so that one an SDK sends again reaches its agent once.

For the warden, which all workers ask (see protocol.Enter). Not for who asks: a request is known by its session's
generation and a digest of what makes it the same one. Invariant: what is under way is never forgotten before it ends;
of what has ended at most MAX_ENTRIES are kept, for at most the window, with MAX_ANSWER_BYTES of answers at most in all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from freehold.domain.errors import Conflict, RetryableConflict
from freehold.warden.protocol import Answered

MAX_ENTRIES: Final = 16_384
MAX_ANSWER_BYTES: Final = 32 << 20

Key = tuple[int, bytes]
"""Generation, digest."""


class _Ended:
    __slots__ = ("answer", "until")

    def __init__(self, answer: Answered | None, until: float) -> None:
        self.answer = answer
        self.until = until


class Onces:
    """All sessions' requests. `now` counts seconds."""

    def __init__(self, window_s: float, now: Callable[[], float]) -> None:
        """`window_s`: how long what has ended is kept."""
        self._window_s = window_s
        self._now = now
        self._under_way: dict[int, dict[bytes, object]] = {}
        """By generation: digests, and who has passed them on."""
        self._ended: OrderedDict[Key, _Ended] = OrderedDict()
        """In the order in which they ended."""
        self._answers: OrderedDict[Key, int] = OrderedDict()
        """How large the answers are that are kept, the oldest first."""
        self._answer_bytes = 0

    def set_window(self, window_s: float) -> None:
        """For what ends from now on."""
        self._window_s = window_s

    def seek(self, key: Key) -> Answered | None:
        """What was answered to this request; None when it is a new one.

        Raises RetryableConflict while it is under way, Conflict when it has ended and its answer is not kept.
        """
        generation, digest = key
        if digest in self._under_way.get(generation, ()):
            raise RetryableConflict("This request is under way already, please retry")
        self._forget_late()
        ended = self._ended.get(key)
        if ended is None:
            return None
        if ended.answer is None:
            raise Conflict("This request has been passed on to the agent already, and its answer is not kept")
        return ended.answer

    def begin(self, key: Key, who: object) -> None:
        """`who` passes it on now."""
        self._under_way.setdefault(key[0], {})[key[1]] = who

    def end(self, key: Key, who: object, *, reached: bool, answer: Answered | None) -> None:
        """It is over. `reached` says whether anything of it may have reached the agent: else it may come again."""
        generation, digest = key
        under_way = self._under_way.get(generation, {})
        if under_way.get(digest) is not who:
            return
        del under_way[digest]
        if not under_way:
            del self._under_way[generation]
        if reached and self._window_s:
            self._keep(key, answer)

    def gone(self, generation: int, who: object) -> None:
        """`who` has none of the session's requests under way any more; how they ended it did not say."""
        for digest in [digest for digest, by in self._under_way.get(generation, {}).items() if by is who]:
            self.end((generation, digest), who, reached=True, answer=None)

    def session_ended(self, generation: int) -> None:
        """Nothing of it is under way any more. What has ended is not asked for again, and goes in its time."""
        self._under_way.pop(generation, None)

    def _keep(self, key: Key, answer: Answered | None) -> None:
        self._ended[key] = _Ended(answer, self._now() + self._window_s)
        if answer is not None:
            self._answers[key] = len(answer.lines) + len(answer.body)
            self._answer_bytes += self._answers[key]
        while self._answer_bytes > MAX_ANSWER_BYTES:
            oldest, size = self._answers.popitem(last=False)
            self._answer_bytes -= size
            self._ended[oldest].answer = None
        while len(self._ended) > MAX_ENTRIES:
            self._forget(next(iter(self._ended)))
        self._forget_late()

    def _forget_late(self) -> None:
        now = self._now()
        while self._ended:
            oldest = next(iter(self._ended))
            if self._ended[oldest].until > now:
                return
            self._forget(oldest)

    def _forget(self, key: Key) -> None:
        del self._ended[key]
        self._answer_bytes -= self._answers.pop(key, 0)
