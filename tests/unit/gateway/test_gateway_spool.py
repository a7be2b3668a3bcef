"""Bodies that are held: where they are, what is counted, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from freehold.domain.errors import PayloadTooLarge, Throttled, Unavailable
from freehold.gateway.spool import Budget, Spool


def spool(budget: Budget, key: str = "k", *, keep: bool = True) -> Spool:
    return Spool(budget, key, max_bytes=1000, memory_bytes=100, keep=keep)


@pytest.fixture
def budget() -> Budget:
    return Budget(per_key_bytes=600, total_bytes=1000)


def test_a_small_body_stays_in_memory_and_a_larger_one_goes_to_a_file_without_a_name(
    budget: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = spool(budget)
    body.write(b"a" * 100)
    assert body.in_memory() == b"a" * 100
    body.write(b"b")
    body.write(b"c" * 99)
    assert body.in_memory() is None
    assert os.listdir(tmp_path) == []
    body.rewind()
    assert b"".join(iter(body.read, b"")) == b"a" * 100 + b"b" + b"c" * 99
    assert body.sha256() == hashlib.sha256(b"a" * 100 + b"b" + b"c" * 99).hexdigest()
    body.close()
    body.close()
    assert budget.held_bytes == 0


def test_what_is_held_is_bounded_by_key_and_in_all(budget: Budget) -> None:
    one, two, three = spool(budget, "a"), spool(budget, "a"), spool(budget, "b")
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
    assert budget.held_bytes == 0


def test_a_body_that_is_too_large_is_refused_at_its_first_byte_too_many(budget: Budget) -> None:
    body = spool(Budget(per_key_bytes=5000, total_bytes=5000))
    body.write(b"x" * 1000)
    with pytest.raises(PayloadTooLarge):
        body.write(b"x")
    body.close()
    assert budget.held_bytes == 0


def test_a_body_for_nothing_is_hashed_and_not_held(budget: Budget) -> None:
    body = spool(budget, keep=False)
    body.write(b"x" * 900)
    assert budget.held_bytes == 0
    assert body.sha256() == hashlib.sha256(b"x" * 900).hexdigest()
    body.close()


def test_a_disk_that_takes_nothing_is_told_and_nothing_stays_counted(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self")
    body = spool(budget)
    with pytest.raises(Unavailable):
        body.write(b"x" * 200)
    body.close()
    assert budget.held_bytes == 0
