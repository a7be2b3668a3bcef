"""The store in one SQLite file: the default.

Not for the verbs (`store.sql`). Invariant: a change that was answered survives a crash of the machine (WAL with
synchronous=FULL), and there is one writer at a time, which waits a bounded while for its turn (`group_commit`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from freehold.domain.errors import FreeholdError
from freehold.store import migrations
from freehold.store.base import StoreRefused
from freehold.store.group_commit import GroupCommit, run
from freehold.store.sql import SqlStore

BUSY_TIMEOUT_S: Final = 5.0
"""How long a transaction waits for another one's lock."""
MAX_IDLE_READERS: Final = 8
_WRITES = "freehold_writes"


class SqliteStore(SqlStore):
    """Use `open_store`. Thread-safe; `close` when no verb is under way."""

    def __init__(self, engine: sa.Engine) -> None:
        for_writes = engine.execution_options(**{_WRITES: True})
        self._writer = GroupCommit(for_writes.connect, timeout_s=BUSY_TIMEOUT_S)
        super().__init__(self._one_reader, self._writer.transaction)
        self._engine = engine
        # Taking a connection out of the engine's pool takes longer than what most verbs do with it.
        self._idle_readers: list[sa.Connection] = []

    @property
    def reads_wait(self) -> bool:
        """A reader sees the last commit, whoever writes meanwhile: that is what the WAL is for."""
        return False

    def close(self) -> None:
        """Close every connection."""
        self._writer.close()
        for connection in self._idle_readers:
            connection.close()
        self._idle_readers.clear()
        self._engine.dispose()

    @contextmanager
    def _one_reader(self) -> Generator[sa.Connection]:
        try:
            connection = self._idle_readers.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            # Past SQLAlchemy, which takes longer for that than SQLite does for what most verbs read.
            run(connection, "BEGIN")
            try:
                yield connection
            finally:
                _end_reading(connection)
        except FreeholdError:
            self._keep_reader(connection)
            raise
        except BaseException:
            # A connection on which something failed is not used again, whatever it was.
            connection.close()
            raise
        self._keep_reader(connection)

    def _keep_reader(self, connection: sa.Connection) -> None:
        if len(self._idle_readers) < MAX_IDLE_READERS:
            self._idle_readers.append(connection)
        else:
            connection.close()


def _end_reading(connection: sa.Connection) -> None:
    if connection.in_transaction():
        connection.commit()  # a statement was run by SQLAlchemy, which takes the transaction for its own
    else:
        run(connection, "COMMIT")


def open_store(path: Path) -> SqliteStore:
    """Open the database at `path`, making it or upgrading its schema as needed.

    Raises StoreRefused when it can't be used: made by a newer Freehold, not a database, not Freehold's.
    """
    # Made here, so that nobody else can ever read it; SQLite gives the WAL the same mode.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise StoreRefused(f"the database {path} can't be opened: {error.strerror}") from error
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        pool_size=8,
        max_overflow=56,
        pool_timeout=BUSY_TIMEOUT_S,
        json_serializer=_to_json,
        json_deserializer=msgspec.json.decode,
        hide_parameters=True,  # they hold environment variables, and would show in error messages
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    store = SqliteStore(engine)
    try:
        with store._write() as connection:  # pyright: ignore[reportPrivateUsage]
            migrations.upgrade(connection)
    except StoreRefused:
        store.close()
        raise
    except exc.DatabaseError as error:
        store.close()
        raise StoreRefused(f"the database {path} can't be opened: {error.orig}") from error
    return store


@dataclass(frozen=True, slots=True)
class Migrated:
    """From which schema revision to which; `before` is None for a new database."""

    before: str | None
    after: str


def migrate(path: Path) -> Migrated:
    """Bring the existing database at `path` to the schema of this Freehold. Raises StoreRefused."""
    before = revision(path)
    open_store(path).close()
    return Migrated(before, revision(path))


def revision(path: Path) -> str:
    """The schema revision of an existing database, known to this Freehold or not. Raises StoreRefused."""
    try:
        with contextlib.closing(_connect(path)) as connection:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        raise StoreRefused(f"{path} can't be read as a database of Freehold: {error}") from error
    if len(rows) != 1 or not isinstance(rows[0][0], str):
        raise StoreRefused(f"{path} does not say which schema it has")
    return rows[0][0]


def check(path: Path) -> None:
    """Raise StoreRefused unless the database at `path` is whole, and one that this Freehold can open."""
    try:
        with contextlib.closing(_connect(path)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        raise StoreRefused(f"{path} can't be read as a database of Freehold: {error}") from error
    if found != [("ok",)]:
        raise StoreRefused(f"the database {path} is damaged: {found[0][0]}")
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=sa.NullPool)
    with engine.connect() as connection:
        migrations.check(connection)


def snapshot(path: Path, target: Path) -> None:
    """Copy the database at `path`, as it is at one committed moment, into the new file `target`; writers go on.

    Nothing of what was deleted is in the copy. Raises StoreRefused, OSError.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        with contextlib.closing(_connect(path)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise StoreRefused(f"the database {path} can't be copied: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """A connection without SQLAlchemy to an existing database, whatever its schema."""
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    connection.execute("PRAGMA trusted_schema = OFF").close()
    return connection


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # Transactions are begun by `_begin`: the driver's own way begins them late, and not at all for DDL.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
        "secure_delete = ON",  # what a customer deleted is not to be found in free pages
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: sa.Connection) -> None:
    if connection.get_execution_options().get(_WRITES, False):
        run(connection, "BEGIN IMMEDIATE")
    elif not connection.connection.driver_connection.in_transaction:  # pyright: ignore[reportOptionalMemberAccess]
        run(connection, "BEGIN")
