"""Limits that the warden holds for all workers: requests of one session at once, rates of a runtime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_warden import Worker, house

from freehold.domain import errors
from freehold.domain.rates import Rates
from freehold.warden import protocol


@given(st.floats(0.1, 50), st.lists(st.floats(0, 2), max_size=200))
def test_no_more_is_taken_than_comes_and_a_second_s_worth(per_s: float, pauses: list[float]) -> None:
    rates, now, taken = Rates(per_s), 0.0, 0
    for pause in pauses:
        now += pause
        taken += rates.take("a", now)
        assert taken <= per_s * (now + 1) + 1
    assert rates.take("another", now)


def test_a_steady_caller_within_the_rate_is_never_refused() -> None:
    rates = Rates(4)
    assert all(rates.take("a", number / 4) for number in range(1000))


def test_buckets_that_are_full_again_are_forgotten() -> None:
    rates = Rates(10)
    for number in range(1000):
        rates.take(number, number)
    assert len(rates._buckets) < 5


def test_a_session_takes_no_more_requests_at_once_than_it_may_of_all_workers_together(tmp_path):
    async def test(h):
        other = Worker()
        generation = (await h.claim()).generation
        await h.claim(worker=other)
        enter = protocol.Enter(generation)
        await h.tell(enter)
        await h.tell(enter, worker=other)
        for worker in (h.worker, other):
            with pytest.raises(errors.RetryableConflict):
                await h.tell(enter, worker=worker)
        await h.tell(protocol.Leave(generation), worker=other)
        await h.tell(enter)
        h.warden.peer_gone(h.worker)
        await h.tell(enter, worker=other)
        await h.tell(enter, worker=other)

    house(test, tmp_path, max_concurrent_requests=2)


def test_a_runtime_takes_no_more_requests_than_its_rate(tmp_path):
    async def test(h):
        enters = [protocol.Enter((await h.claim(session=f"{n}" * 33)).generation) for n in range(2)]
        for number in range(3):
            await h.tell(enters[number % 2])
        with pytest.raises(errors.Throttled):
            await h.tell(enters[0])

    house(test, tmp_path, max_requests_per_s=3)


def test_a_runtime_starts_no_more_sessions_than_its_rate_and_running_ones_are_joined(tmp_path):
    async def test(h):
        for n in range(2):
            await h.claim(session=f"{n}" * 33)
        with pytest.raises(errors.Throttled):
            await h.claim(session="2" * 33)
        assert not (await h.claim(session="0" * 33)).started

    house(test, tmp_path, max_starts_per_s=2)


def test_only_who_holds_a_session_enters_it(tmp_path):
    async def test(h):
        generation = (await h.claim()).generation
        with pytest.raises(errors.NotFound):
            await h.tell(protocol.Enter(generation), worker=Worker())
        with pytest.raises(errors.NotFound):
            await h.tell(protocol.Enter(generation + 1))

    house(test, tmp_path, max_concurrent_requests=1)
