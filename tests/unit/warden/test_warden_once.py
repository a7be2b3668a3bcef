"""Requests that are sent again: what becomes of them, and what is kept meanwhile."""

from __future__ import annotations

import pytest
from test_warden import Worker, house

from freehold.domain.errors import Conflict, RetryableConflict, Throttled
from freehold.warden import once, protocol
from freehold.warden.once import Onces

ANSWER = protocol.Answered(200, b"content-type: text/plain\r\n", b"told")
KEY = (1, b"digest")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def onces(clock: Clock) -> Onces:
    return Onces(60.0, clock)


def passed(onces: Onces, key: tuple[int, bytes] = KEY, answer: protocol.Answered | None = ANSWER) -> None:
    assert onces.seek(key) is None
    onces.begin(key, "a worker")
    onces.end(key, "a worker", reached=True, answer=answer)


def test_what_is_under_way_is_told_to_retry_and_gets_the_answer_afterwards(onces: Onces, clock: Clock):
    assert onces.seek(KEY) is None
    onces.begin(KEY, "a worker")
    clock.now += 10_000
    with pytest.raises(RetryableConflict):
        onces.seek(KEY)
    onces.end(KEY, "another worker", reached=False, answer=None)
    with pytest.raises(RetryableConflict):
        onces.seek(KEY)
    onces.end(KEY, "a worker", reached=True, answer=ANSWER)
    assert onces.seek(KEY) == ANSWER
    assert onces.seek((2, b"digest")) is None, "of another session"


def test_what_has_ended_without_a_kept_answer_is_refused_and_a_new_one_after_the_window(onces: Onces, clock: Clock):
    passed(onces, answer=None)
    clock.now += 59.9
    with pytest.raises(Conflict):
        onces.seek(KEY)
    clock.now += 0.1
    assert onces.seek(KEY) is None
    passed(onces)


def test_what_has_not_reached_the_agent_may_come_again(onces: Onces):
    onces.begin(KEY, "a worker")
    onces.end(KEY, "a worker", reached=False, answer=None)
    assert onces.seek(KEY) is None


def test_what_a_worker_leaves_behind_may_have_reached_the_agent(onces: Onces):
    onces.begin(KEY, "a worker")
    onces.begin((1, b"another"), "another worker")
    onces.gone(1, "a worker")
    with pytest.raises(Conflict):
        onces.seek(KEY)
    with pytest.raises(RetryableConflict):
        onces.seek((1, b"another"))
    onces.session_ended(1)
    assert onces.seek((1, b"another")) is None


def test_entries_and_bytes_of_answers_are_bounded_and_the_oldest_go_first(
    monkeypatch: pytest.MonkeyPatch, onces: Onces
):
    monkeypatch.setattr(once, "MAX_ENTRIES", 10)
    monkeypatch.setattr(once, "MAX_ANSWER_BYTES", 3 * (len(ANSWER.lines) + len(ANSWER.body)))
    keys = [(1, b"%d" % number) for number in range(12)]
    for key in keys:
        passed(onces, key)
    assert [onces.seek(key) for key in (*keys[:2], *keys[-3:])] == [None, None, ANSWER, ANSWER, ANSWER]
    for key in keys[2:-3]:
        with pytest.raises(Conflict):
            onces.seek(key)


def test_without_a_window_nothing_is_kept(clock: Clock):
    passed(Onces(0.0, clock))
    passed(Onces(0.0, clock))


def test_all_workers_of_a_session_are_told_of_the_same_requests(tmp_path):
    async def test(h):
        other = Worker()
        generation = (await h.claim()).generation
        await h.claim(worker=other)
        enter = protocol.Enter(generation, b"digest")
        await h.tell(enter)
        with pytest.raises(RetryableConflict):
            await h.tell(enter, worker=other)
        await h.tell(protocol.Enter(generation, b"another"), worker=other)
        await h.tell(protocol.Leave(generation, b"digest", answer=ANSWER))
        assert await h.tell(enter, worker=other) == ANSWER
        h.warden.peer_gone(other)
        with pytest.raises(Conflict):
            await h.tell(protocol.Enter(generation, b"another"))

    house(test, tmp_path, resend_window_s=60.0)


def test_a_request_that_is_answered_from_memory_takes_no_ones_place(tmp_path):
    async def test(h):
        generation = (await h.claim()).generation
        enter = protocol.Enter(generation, b"digest")
        await h.tell(enter)
        await h.tell(protocol.Leave(generation, b"digest", answer=ANSWER))
        await h.tell(protocol.Enter(generation))
        for _ in range(3):
            assert await h.tell(enter) == ANSWER
        with pytest.raises(RetryableConflict):
            await h.tell(protocol.Enter(generation, b"another"))

    house(test, tmp_path, resend_window_s=60.0, max_concurrent_requests=1)


def test_one_that_is_throttled_has_not_been_passed_on(tmp_path):
    async def test(h):
        generation = (await h.claim()).generation
        await h.tell(protocol.Enter(generation))
        for _ in range(2):
            with pytest.raises(Throttled):
                await h.tell(protocol.Enter(generation, b"digest"))

    house(test, tmp_path, resend_window_s=60.0, max_requests_per_s=1)
