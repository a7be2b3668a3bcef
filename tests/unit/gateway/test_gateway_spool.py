"""Bodies that are held: where they are, what is counted for whom, who gives way, and what is left of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from freehold.domain.errors import PayloadTooLarge, Throttled, Unavailable
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.spool import TURN_BYTES, TURN_S, TURNS, UNCROWDED, Spool, Spools

LIMITS = GatewayLimits(
    memory_spool_bytes=100,
    memory_spool_bytes_total=250,
    spool_bytes_per_key=600,
    spool_bytes_total=1000,
    spool_unknown_bytes_per_source=600,
    spool_unknown_bytes_total=1000,
)


class House:
    """Spools whose time passes when told."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.spools = Spools(LIMITS, lambda: self.now, directory=str(directory))

    def stranger(self, source: str = "1.1.1.1", key: str = "k", *, expected: int | None = None) -> Spool:
        return self.spools.of_stranger(source, key, max_bytes=1000, expected=expected)

    def caller(self, owner: str = "k") -> Spool:
        return self.spools.of_caller(owner, max_bytes=1000)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_small_body_stays_in_memory_and_a_larger_one_goes_to_a_file_without_a_name(house: House, tmp_path: Path):
    body = house.caller()
    body.write(b"a" * 100)
    assert body.in_memory() == b"a" * 100
    assert house.spools.memory_bytes == 100
    body.write(b"b")
    body.write(b"c" * 99)
    assert body.in_memory() is None
    assert house.spools.memory_bytes == 0
    assert os.listdir(tmp_path) == []
    body.rewind()
    assert b"".join(iter(body.read, b"")) == b"a" * 100 + b"b" + b"c" * 99
    assert body.sha256() == hashlib.sha256(b"a" * 100 + b"b" + b"c" * 99).hexdigest()
    assert body.ends(2, 2) == (b"aa", b"cc")
    body.close()
    body.close()
    assert house.spools.held_bytes == 0


def test_what_is_in_memory_of_all_bodies_is_bounded_and_the_next_goes_to_disk(house: House):
    bodies = [house.stranger(), house.caller(), house.stranger("2.2.2.2"), house.caller("other")]
    for body in bodies:
        body.write(b"x" * 80)
    assert [body.in_memory() is None for body in bodies] == [False, False, False, True]
    assert house.spools.memory_bytes == 240
    for body in bodies:
        body.close()
    assert (house.spools.memory_bytes, house.spools.held_bytes) == (0, 0)


def test_what_callers_hold_is_bounded_by_key_and_in_all(house: House):
    one, two, three = house.caller("a"), house.caller("a"), house.caller("b")
    one.write(b"x" * 400)
    with pytest.raises(Throttled):
        two.write(b"x" * 201)
    two.write(b"x" * 200)
    with pytest.raises(Throttled):
        three.write(b"x" * 401)
    one.close()
    three.write(b"x" * 600)
    two.close()
    three.close()
    assert house.spools.held_bytes == 0


def test_strangers_who_name_a_key_take_nothing_of_its_owner(house: House):
    strangers = [house.stranger(f"{number}.1.1.1", "k") for number in range(2)]
    for stranger in strangers:
        stranger.write(b"x" * 500)
    owner = house.caller("k")
    owner.write(b"x" * 600)
    assert house.spools.held_bytes == 1600
    for body in (*strangers, owner):
        body.close()


def test_a_stranger_who_turns_out_to_be_a_caller_is_counted_as_one(house: House):
    body, other = house.stranger("1.1.1.1", "k"), house.stranger("1.1.1.1", "k")
    body.write(b"x" * 500)
    body.admit()
    other.write(b"x" * 600)  # all that its source may hold
    with pytest.raises(Throttled):
        other.admit()  # but not its key
    other.close()
    body.close()
    again = house.stranger()
    again.write(b"x" * 600)
    again.admit()
    again.admit()
    again.close()
    assert house.spools.held_bytes == 0


def test_of_one_source_the_body_that_would_take_the_longest_gives_way(house: House):
    slow, quick, young = house.stranger(expected=900), house.stranger(expected=900), house.stranger(expected=400)
    slow.write(b"x" * 100)
    quick.write(b"x" * 300)
    house.now += 5
    young.write(b"x" * 150)
    new = house.stranger(expected=200)
    new.write(b"x" * 100)  # 50 too many: the one of 100 in five seconds goes
    assert house.spools.held_bytes == 550
    for _ in range(2):
        with pytest.raises(Throttled):
            slow.write(b"x")
    with pytest.raises(Throttled):
        slow.admit()
    new.write(b"x" * 100)  # and then the one of 300
    with pytest.raises(Throttled):
        quick.write(b"x")
    young.write(b"x" * 250)
    for body in (slow, quick, young, new):
        body.close()
    assert house.spools.held_bytes == 0


def test_a_body_does_not_make_others_give_way_when_it_is_its_own_turn(house: House):
    large, small = house.stranger(), house.stranger(expected=300)
    large.write(b"x" * 400)
    small.write(b"x" * 200)
    house.now += 5
    with pytest.raises(Throttled):
        large.write(b"x")
    large.close()
    small.write(b"x" * 100)
    small.close()
    assert house.spools.held_bytes == 0


def test_a_crowd_at_one_address_gives_way_to_one_body_from_elsewhere(house: House):
    crowd = [house.stranger("6.6.6.6", "k") for _ in range(6)]
    for body in crowd:
        body.write(b"x" * 100)
    others = [house.stranger(f"7.7.7.{number}", "k") for number in range(4)]
    for other in others:
        other.write(b"x" * 100)
    one = house.stranger("1.1.1.1", "k", expected=200)
    one.write(b"x" * 190)
    one.admit()
    gone = 0
    for body in crowd:
        try:
            body.write(b"x")
        except Throttled:
            gone += 1
    assert gone >= 1
    for body in others:
        body.write(b"x")
    for body in (*crowd, *others, one):
        body.close()
    assert house.spools.held_bytes == 0


def test_many_strangers_take_turns_and_few_do_not(house: House):
    async def main() -> None:
        paused: list[Spool] = []
        resumed: list[Spool] = []

        def stranger(source: str) -> Spool:
            made = house.spools.of_stranger(source, "k", max_bytes=10 * TURN_BYTES)
            made.keep = False
            return made

        def grow(body: Spool, size: int = TURN_BYTES) -> None:
            body.write(b"x" * size)
            house.spools.queue(body, lambda: paused.append(body), lambda: resumed.append(body))

        few = [stranger(f"1.1.1.{number}") for number in range(UNCROWDED)]
        caller = house.spools.of_caller("k", max_bytes=10 * TURN_BYTES)
        caller.keep = False
        for body in (*few, caller):
            grow(body)
        assert paused == []
        many = [stranger(f"2.2.2.{number}") for number in range(TURNS + 5)]
        small = stranger("3.3.3.3")
        grow(small, TURN_BYTES - 1)
        for body in (*many, caller):
            grow(body)
        assert paused == many
        many[1].close()
        many[2].admit()
        await asyncio.sleep(TURN_S * 1.5)
        assert len(resumed) == TURNS
        await asyncio.sleep(TURN_S)
        assert set(resumed) == {many[0], *many[3:]}
        assert len(resumed) == len(many) - 2
        grow(many[0], 1)
        assert len(paused) == len(many), "its next turn is not over"
        grow(many[0])
        assert len(paused) == len(many) + 1
        for body in (*few, *many, small, caller):
            body.close()
            body.close()
        again = stranger("4.4.4.4")
        grow(again)
        assert len(paused) == len(many) + 1
        again.close()

    asyncio.run(main())
    assert house.spools.held_bytes == 0


def test_a_body_that_is_too_large_is_refused_at_its_first_byte_too_many(house: House):
    body = house.spools.of_caller("k", max_bytes=500)
    body.write(b"x" * 500)
    with pytest.raises(PayloadTooLarge):
        body.write(b"x")
    body.close()
    assert house.spools.held_bytes == 0


def test_a_body_for_nothing_is_hashed_and_not_held(house: House):
    body = house.stranger()
    body.keep = False
    body.write(b"x" * 900)
    assert house.spools.held_bytes == 0
    assert body.sha256() == hashlib.sha256(b"x" * 900).hexdigest()
    body.admit()
    body.close()


def test_a_disk_that_takes_nothing_is_told_and_nothing_stays_counted():
    house = House(Path("/proc/self"))
    body = house.stranger()
    with pytest.raises(Unavailable):
        body.write(b"x" * 200)
    body.close()
    assert (house.spools.held_bytes, house.spools.memory_bytes) == (0, 0)
