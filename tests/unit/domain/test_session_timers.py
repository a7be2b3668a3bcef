"""Idle time, lifetime and health as pure rules (spec sections 1.2, 2 and 2.1)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.sessions import (
    BUSY_PING_INTERVAL_S,
    AskHealth,
    End,
    EndReason,
    Health,
    Timers,
    Wait,
    after_health,
    is_session_id,
    next_action,
)

IDLE = Timers(ready_at=100, last_activity_at=100, in_flight=False, idle_timeout_s=60, max_lifetime_s=1000)


def test_an_idle_session_waits_for_its_idle_deadline():
    assert next_action(IDLE, 100) == Wait(160)
    assert next_action(IDLE, 159.9) == Wait(160)


def test_at_the_idle_deadline_the_agent_is_asked_before_it_is_ended():
    assert next_action(IDLE, 160) == AskHealth()
    asked = after_health(IDLE, Health.HEALTHY, None, 160)
    assert next_action(asked, 160) == End(EndReason.IDLE_TIMEOUT)


def test_an_agent_that_does_not_answer_is_ended_as_idle():
    assert next_action(after_health(IDLE, Health.UNHEALTHY, None, 165), 165) == End(EndReason.IDLE_TIMEOUT)


def test_a_busy_agent_outlives_its_idle_deadline_and_is_asked_again():
    busy = after_health(IDLE, Health.BUSY, None, 160)
    assert next_action(busy, 160) == Wait(160 + BUSY_PING_INTERVAL_S)
    assert next_action(busy, 160 + BUSY_PING_INTERVAL_S) == AskHealth()


def test_an_agent_that_was_busy_is_idle_from_the_instant_it_says_its_status_changed():
    busy = after_health(IDLE, Health.BUSY, None, 160)
    healthy = after_health(busy, Health.HEALTHY, 170, 190)
    assert next_action(healthy, 190) == Wait(230)
    assert next_action(healthy, 230) == AskHealth()


def test_a_timestamp_that_advances_with_every_ping_keeps_a_session_for_its_whole_lifetime():
    timers, now = IDLE, 160.0
    while not isinstance(action := next_action(timers, now), End):
        if isinstance(action, Wait):
            now = action.until
        else:
            timers = after_health(timers, Health.HEALTHY, now, now)
    assert action == End(EndReason.MAX_LIFETIME)
    assert now == 1100


def test_a_timestamp_from_the_future_or_the_past_moves_nothing():
    for told in (50.0, 10_000.0):
        assert next_action(after_health(IDLE, Health.HEALTHY, told, 160), 160) == End(EndReason.IDLE_TIMEOUT)


def test_a_session_in_flight_is_never_idle():
    flying = replace(IDLE, in_flight=True)
    for now in (160.0, 500.0, 1099.0):
        assert isinstance(next_action(flying, now), Wait)


def test_the_lifetime_ends_even_a_session_in_flight():
    assert next_action(replace(IDLE, in_flight=True), 1100) == End(EndReason.MAX_LIFETIME)


def test_a_new_request_after_a_ping_starts_a_new_idle_spell():
    asked = after_health(IDLE, Health.HEALTHY, None, 160)
    assert next_action(replace(asked, last_activity_at=161), 161) == Wait(221)


@given(
    last=st.floats(0, 1e6),
    now=st.floats(0, 1e6),
    in_flight=st.booleans(),
    idle=st.integers(60, 28_800),
    life=st.integers(60, 28_800),
)
def test_whatever_the_clock_says_a_wait_ends_in_the_future_and_not_after_the_lifetime(last, now, in_flight, idle, life):
    timers = Timers(ready_at=0, last_activity_at=last, in_flight=in_flight, idle_timeout_s=idle, max_lifetime_s=life)
    match next_action(timers, now):
        case Wait(until):
            assert now < until <= life
        case End(reason):
            assert reason is EndReason.MAX_LIFETIME
            assert now >= life
        case AskHealth():
            assert now - last >= idle * (1 - 1e-9)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a" * 33, True),
        ("a" * 256, True),
        ("0" + "-_" * 16, True),
        ("a" * 32, False),
        ("a" * 257, False),
        ("-" + "a" * 33, False),
        ("a" * 32 + "é", False),
        ("a" * 33 + "\n", False),
    ],
)
def test_a_session_id_has_33_to_256_characters_of_the_models_set(text, good):
    assert is_session_id(text) is good
