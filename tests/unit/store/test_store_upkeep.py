"""What keeps a store usable over years: launches that are replaced, faults, what is forgotten, schemas that change."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import first_release
import pytest
import sqlalchemy as sa

from freehold.domain.errors import NotFound
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.store import migrations
from freehold.store.base import NewRuntime, NewVersion, Once, RuntimeKey, Scope, StoreRefused
from freehold.store.sqlite import SqliteStore, migrate, open_store, revision

NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEY = RuntimeKey(Scope("111122223333", "eu-central-1"), "agent-0123456789")
LAUNCH = LaunchSpec(
    account="111122223333",
    region="eu-central-1",
    runtime_id=KEY.runtime_id,
    runtime_name="agent",
    version=1,
    protocol=ServerProtocol.HTTP,
    port=8080,
    code_dir="/before/code",
    program=Program(Interpreter("/usr/bin/python3"), ("main.py",)),
    idle_timeout_s=900,
    max_lifetime_s=28800,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_store(tmp_path / "freehold.sqlite")
    made = NewRuntime(KEY.runtime_id, "agent", "arn:of:it", KEY.runtime_id, NewVersion({}, {"first": True}))
    opened.create_runtime(KEY.scope, made, once=Once("Create", "token", "digest"), max_runtimes=9, now=NOW)
    opened.version_ready(KEY, 1, digest="d1", launch=LAUNCH, now=NOW)
    yield opened
    opened.close()


def add_version(store: SqliteStore) -> None:
    store.update_runtime(KEY, NewVersion({}, {"second": True}), once=None, max_versions=9, now=NOW)
    store.version_ready(KEY, 2, digest="d2", launch=dataclasses.replace(LAUNCH, version=2), now=NOW)


def test_what_endpoints_serve_is_what_must_be_startable(store: SqliteStore):
    assert store.serving() == [(KEY, 1)]
    add_version(store)
    assert store.serving() == [(KEY, 2)]


def test_a_fault_is_shown_until_the_bundle_is_made_again_and_changes_nothing_else(store: SqliteStore):
    before = store.get_runtime(KEY)
    store.note_fault(KEY, 1, "it is gone")
    runtime, version = store.get_runtime(KEY)
    assert (runtime.failure_reason, version.failure_reason) == ("it is gone", "it is gone")
    again = dataclasses.replace(LAUNCH, code_dir="/after/code")
    store.replace_launch(KEY, 1, again)
    assert store.get_launch(KEY, 1) == again
    assert store.get_runtime(KEY) == before


def test_a_fault_of_an_older_version_is_not_the_runtimes(store: SqliteStore):
    add_version(store)
    store.note_fault(KEY, 1, "it is gone")
    assert store.get_runtime(KEY)[0].failure_reason is None
    assert store.get_runtime(KEY, 1)[1].failure_reason == "it is gone"


def test_a_version_that_was_deleted_meanwhile_gets_no_launch(store: SqliteStore):
    add_version(store)
    store.delete_version(KEY, 1, keep=frozenset(), once=None, now=NOW)
    with pytest.raises(NotFound):
        store.replace_launch(KEY, 1, LAUNCH)
    store.note_fault(KEY, 1, "it is gone")
    assert store.get_launch(KEY, 1) is None


def test_deleted_versions_and_expired_tokens_are_forgotten_in_time(store: SqliteStore):
    add_version(store)
    store.delete_version(KEY, 1, keep=frozenset({"first"}), once=None, now=NOW)
    assert store.forget(deleted_before=NOW, now=NOW) == 0
    assert store.get_contract(KEY, 1) == {"first": True}
    later = NOW + timedelta(days=2)
    assert store.forget(deleted_before=later, now=later) == 2
    assert store.get_contract(KEY, 1) is None
    assert store.get_runtime(KEY)[0].latest_version == 2
    assert store.forget(deleted_before=later, now=later) == 0


# -- schemas -------------------------------------------------------------------------------------------------------


def test_the_first_releases_database_is_brought_to_the_newest_schema(tmp_path: Path):
    path = tmp_path / "freehold.db"
    first_release.make_database(path)
    done = migrate(path)
    assert done.before == "0001"
    assert done.after == revision(path) > "0001"
    store = open_store(path)
    assert len(store.serving()) == 1
    store.close()


def test_a_newer_schema_is_used_if_it_says_that_this_release_can(tmp_path: Path):
    path = tmp_path / "freehold.db"
    open_store(path).close()
    ours = revision(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as newer:
        newer.exec_driver_sql("CREATE TABLE of_the_next_release (x)")
        newer.exec_driver_sql("UPDATE alembic_version SET version_num = '9998'")
        migrations.mark_usable_from(newer, "9998", ours)
    store = open_store(path)
    assert store.serving() == []
    store.close()
    assert revision(path) == "9998", "and is left as it is"
    with engine.begin() as newer:
        migrations.mark_usable_from(newer, "9998", "9997")
    with pytest.raises(StoreRefused, match="newer release"):
        open_store(path)
    with engine.begin() as newer:
        migrations.mark_usable_from(newer, "9998", ours)
        newer.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreRefused, match="newer release"):
        open_store(path)
    engine.dispose()


def test_the_first_releases_statements_work_on_the_newest_schema(tmp_path: Path):
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    first_release.make_database(old)
    first_release.make_database(new)
    migrate(new)
    with contextlib.closing(sqlite3.connect(old)) as before, contextlib.closing(sqlite3.connect(new)) as after:
        tables = [row[0] for row in before.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = {row[1]: row[2:] for row in before.execute(f"PRAGMA table_info({table})")}
            found = {row[1]: row[2:] for row in after.execute(f"PRAGMA table_info({table})")}
            assert columns.items() <= found.items(), f"{table}: what the first release knows is as it was"
            for name, (_, not_null, default, _) in found.items():
                assert name in columns or not not_null or default is not None, f"{table}.{name}: it writes no such"
