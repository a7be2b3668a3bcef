"""Pages of runtimes by a store that has read them before, beside one that has just been opened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import RuntimeStatus, ServerProtocol
from freehold.store import listing
from freehold.store.base import NewRuntime, NewVersion, Position, Ready, RuntimeKey, RuntimeSummary, Scope
from freehold.store.sqlite import SqliteStore, open_store

HERE = Scope("111122223333", "eu-central-1")
OTHERS = Scope("444455556666", "eu-central-1")
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
MANY = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "freehold.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = open_store(path)
    yield opened
    opened.close()


def launch(key: RuntimeKey) -> LaunchSpec:
    program = Program(Interpreter("/usr/bin/python3"), ("main.py",))
    scope = key.scope
    return LaunchSpec(
        scope.account, scope.region, key.runtime_id, "a", 1, ServerProtocol.HTTP, 8080, "/code", program, 900, 28800
    )


def create(store: SqliteStore, number: int, *, scope: Scope = HERE, at: datetime = NOW) -> RuntimeKey:
    key = RuntimeKey(scope, f"a{number}-0123456789")
    version = NewVersion({}, {"kept": 1}, f"first of {number} in {scope.account}", Ready("sha256:1", launch(key)))
    new = NewRuntime(key.runtime_id, f"a{number}", f"arn:{key.runtime_id}", key.runtime_id, version)
    store.create_runtime(scope, new, once=None, max_runtimes=100, now=at)
    return key


def update(store: SqliteStore, key: RuntimeKey, description: str | None, *, now: datetime = NOW) -> None:
    store.update_runtime(key, NewVersion({}, {}, description), once=None, max_versions=100, now=now)


def every_page(store: SqliteStore, limit: int, scope: Scope = HERE) -> list[RuntimeSummary]:
    rows: list[RuntimeSummary] = []
    after = None
    while page := store.list_runtimes(scope, after=after, limit=limit):
        rows += page
        after = Position(page[-1].created_at, page[-1].runtime_id)
    return rows


def as_opened_now(path: Path, limit: int, scope: Scope = HERE) -> list[RuntimeSummary]:
    fresh = open_store(path)
    try:
        return every_page(fresh, limit, scope)
    finally:
        fresh.close()


def test_whatever_is_done_a_page_that_was_read_before_is_what_a_new_reader_finds(store: SqliteStore, path: Path):
    order = random.Random(4)
    keys = [create(store, number, at=NOW + timedelta(seconds=number // 3)) for number in range(12)]

    def fail(key: RuntimeKey, now: datetime) -> None:
        runtime, version = store.get_runtime(key)
        if runtime.status is RuntimeStatus.UPDATING:
            store.version_failed(key, version.version, reason="x", now=now)

    def renew(key: RuntimeKey, now: datetime) -> None:
        if store.get_runtime(key)[0].status is not RuntimeStatus.UPDATING:
            update(store, key, order.choice([None, "", "ünlike before", f"at {now}"]), now=now)

    def remove(key: RuntimeKey, now: datetime) -> None:
        if store.get_runtime(key)[0].status is not RuntimeStatus.UPDATING and len(keys) > 4:
            store.begin_delete(key, once=None, now=now)
            assert every_page(store, 5) == as_opened_now(path, 7)
            store.remove_runtime(key)
            keys.remove(key)

    for step in range(60):
        action: Any = order.choice([fail, renew, renew, remove])
        action(order.choice(keys), NOW + timedelta(seconds=step % 7))
        assert every_page(store, 5) == as_opened_now(path, 7)


@pytest.mark.parametrize("changed", [1, MANY])
def test_a_page_reads_again_only_what_has_changed(store: SqliteStore, changed: int):
    """Few and many changes are read in different ways."""
    keys = [create(store, number) for number in range(MANY)]
    before = {row.runtime_id: row for row in every_page(store, 100)}
    for key in keys[:changed]:
        update(store, key, "second")
    after = {row.runtime_id: row for row in every_page(store, 100)}
    assert [after[key.runtime_id].description for key in keys[:changed]] == ["second"] * changed
    assert all(after[key.runtime_id] is before[key.runtime_id] for key in keys[changed:])


def test_accounts_whose_runtimes_have_the_same_ids_see_their_own(store: SqliteStore):
    for scope in (HERE, OTHERS):
        create(store, 1, scope=scope)
    for _ in range(2):
        for scope in (HERE, OTHERS):
            assert [row.description for row in every_page(store, 10, scope)] == [f"first of 1 in {scope.account}"]


def test_more_runtimes_than_are_kept_in_memory_are_listed_as_well(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listing, "MAX_KNOWN", 7)
    for number in range(MANY):
        create(store, number)
    for _ in range(2):
        assert every_page(store, 4) == as_opened_now(path, 100)
        assert len(store._listing._known) <= 7  # pyright: ignore[reportPrivateUsage]
