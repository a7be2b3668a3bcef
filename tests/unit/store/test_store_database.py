"""The database file: schema, migrations, modes, and what is refused."""

from __future__ import annotations

import re
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from freehold.store import migrations, schema
from freehold.store.base import StoreRefused
from freehold.store.sqlite import open_store


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[sa.Connection]:
    """An empty database after every migration."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'migrated.sqlite'}")
    with engine.begin() as connection:
        migrations.migrate(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[sa.Connection]:
    """A database as a new one is made."""
    path = tmp_path / "freehold.sqlite"
    open_store(path).close()
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize("kind", ["migrated", "made"])
def test_migrated_and_made_databases_have_the_schema_that_the_code_speaks(request: pytest.FixtureRequest, kind: str):
    connection = request.getfixturevalue(kind)
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    assert compare_metadata(context, schema.metadata) == []


def test_a_database_that_is_made_is_what_the_migrations_make(migrated: sa.Connection, made: sa.Connection):
    """Also where Alembic does not look: constraints, marks, its own table. Only the order of columns is free."""

    def described(connection: sa.Connection) -> dict[str, tuple[str, list[str]]]:
        found: dict[str, tuple[str, list[str]]] = {}
        query = "SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL"
        for name, kind, sql in connection.exec_driver_sql(query):
            found[name] = (kind, sorted(line.strip() for line in re.split(r",(?![^(]*\))|\n", sql) if line.strip()))
        return found

    assert described(made) == described(migrated)
    for table in ("alembic_version", "store_marks"):
        rows = [connection.exec_driver_sql(f"SELECT * FROM {table}").all() for connection in (made, migrated)]
        assert rows[0] == rows[1] != []
    assert migrations.check(made) == migrations.check(migrated) == migrations.HEAD
    assert migrations.revisions(made) >= {migrations.HEAD}


def test_a_database_of_a_newer_release_is_refused_untouched(tmp_path: Path):
    path = tmp_path / "freehold.sqlite"
    open_store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.execute("CREATE TABLE of_the_future (x)")
    with pytest.raises(StoreRefused, match=r"9999.*newer release"):
        open_store(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
        raw.execute("SELECT x FROM of_the_future")


def test_a_database_of_somebody_else_is_refused_untouched(tmp_path: Path):
    path = tmp_path / "freehold.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreRefused, match="not Freehold's"):
        open_store(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "freehold.sqlite"
    path.write_bytes(b"this is a text, not a database" * 100)
    with pytest.raises(StoreRefused, match="can't be opened"):
        open_store(path)


def test_nobody_else_may_read_the_database(tmp_path: Path):
    path = tmp_path / "freehold.sqlite"
    store = open_store(path)
    store.get_seal()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    store.close()


def test_writes_survive_a_crash_of_the_machine_and_keys_hold(tmp_path: Path):
    store = open_store(tmp_path / "freehold.sqlite")
    with store._read() as connection:  # the settings are the promise
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    store.close()


def test_a_link_in_place_of_the_database_is_not_followed(tmp_path: Path):
    (tmp_path / "real").touch()
    (tmp_path / "freehold.sqlite").symlink_to(tmp_path / "real")
    with pytest.raises(StoreRefused):
        open_store(tmp_path / "freehold.sqlite")
