"""Transactions that share a commit: what each of them may rely on."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from freehold.domain.errors import Conflict, Unavailable
from freehold.store.group_commit import MAX_TOGETHER, GroupCommit, NotCommitted

LONG_S = 20.0


class Database:
    """A table `t` of numbers, and every commit that was made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        self.commits = 0
        self.fails_to_commit = False
        event.listen(self.engine, "connect", self._configure)
        event.listen(self.engine, "begin", lambda connection: self._driver(connection).execute("BEGIN IMMEDIATE"))
        event.listen(self.engine, "commit", self._on_commit)
        with contextmanager(self._raw)() as raw:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
        self.writer = GroupCommit(self.engine.connect, timeout_s=LONG_S)
        self.threads = ThreadPoolExecutor(MAX_TOGETHER + 8)

    def rows(self) -> list[int]:
        """What another connection sees."""
        with contextmanager(self._raw)() as raw:
            return [row[0] for row in raw.execute("SELECT n FROM t ORDER BY n")]

    def insert(self, number: int, then: Callable[[sa.Connection], None] | None = None) -> None:
        with self.writer.transaction() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (?)", (number,))
            if then is not None:
                then(connection)

    @contextmanager
    def held(self) -> Iterator[list[Future[None]]]:
        """While the first transaction, of number 0, is under way, and what is begun within waits; both end with it."""
        entered, may_end = threading.Event(), threading.Event()

        def hold(_: sa.Connection) -> None:
            entered.set()
            assert may_end.wait(LONG_S)

        futures = [self.threads.submit(self.insert, 0, hold)]
        assert entered.wait(LONG_S)
        try:
            yield futures
        finally:
            may_end.set()

    def begin(self, futures: list[Future[None]], work: Callable[..., None], *arguments: Any) -> None:
        """Have a thread wait for its turn, after those that wait already."""
        before = self.writer.waiting
        futures.append(self.threads.submit(work, *arguments))
        while self.writer.waiting == before:
            os.sched_yield()

    def close(self) -> None:
        self.threads.shutdown()
        self.writer.close()
        self.engine.dispose()

    def _raw(self) -> Iterator[sqlite3.Connection]:
        raw = sqlite3.connect(self.path)
        try:
            with raw:
                yield raw
        finally:
            raw.close()

    def _configure(self, connection: sqlite3.Connection, _entry: object) -> None:
        connection.isolation_level = None

    @staticmethod
    def _driver(connection: sa.Connection) -> Any:
        return connection.connection.cursor()

    def _on_commit(self, _connection: sa.Connection) -> None:
        if self.fails_to_commit:
            self.fails_to_commit = False
            raise OSError("the disk is gone")
        self.commits += 1


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "t.sqlite")
    yield made
    made.close()


def test_transactions_that_wait_for_each_other_are_made_durable_by_one_commit(database: Database):
    with database.held() as futures:
        for number in range(1, 9):
            database.begin(futures, database.insert, number)
    for future in futures:
        future.result(LONG_S)
    assert database.commits == 1
    assert database.rows() == list(range(9))


def test_one_that_nobody_waits_for_is_committed_at_once(database: Database):
    for number in range(3):
        database.insert(number)
        assert database.rows() == list(range(number + 1))
    assert database.commits == 3


def test_nobody_goes_on_before_what_it_did_is_committed(database: Database):
    second_is_in, may_end = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        second_is_in.set()
        assert may_end.wait(LONG_S)

    with database.held() as futures:
        database.begin(futures, database.insert, 1, hold)
    assert second_is_in.wait(LONG_S)
    try:
        # The first has ended its part, and left the commit to the second.
        assert database.rows() == []
        assert not futures[0].done()
    finally:
        may_end.set()
    for future in futures:
        future.result(LONG_S)
    assert database.rows() == [0, 1]


def test_one_that_is_refused_takes_back_its_own_changes_and_no_others(database: Database):
    def refuse(_: sa.Connection) -> None:
        raise Conflict("no")

    with database.held() as futures:
        database.begin(futures, database.insert, 1)
        database.begin(futures, database.insert, 2, refuse)
        database.begin(futures, database.insert, 3)
    with pytest.raises(Conflict):
        futures[2].result(LONG_S)
    for at in (0, 1, 3):
        futures[at].result(LONG_S)
    assert database.rows() == [0, 1, 3]


def test_the_first_of_a_group_that_fails_does_not_fail_those_after_it(database: Database):
    entered, may_end, futures = threading.Event(), threading.Event(), []

    def fail(_: sa.Connection) -> None:
        entered.set()
        assert may_end.wait(LONG_S)
        raise ZeroDivisionError

    futures.append(database.threads.submit(database.insert, 0, fail))
    assert entered.wait(LONG_S)
    database.begin(futures, database.insert, 1)
    may_end.set()
    with pytest.raises(ZeroDivisionError):
        futures[0].result(LONG_S)
    futures[1].result(LONG_S)
    assert database.rows() == [1]


def test_a_transaction_sees_what_those_before_it_in_the_group_did(database: Database):
    seen: list[int] = []
    with database.held() as futures:
        database.begin(
            futures, database.insert, 1, lambda c: seen.extend(c.exec_driver_sql("SELECT n FROM t").scalars())
        )
    for future in futures:
        future.result(LONG_S)
    assert seen == [0, 1]


def test_when_the_commit_fails_every_transaction_of_it_fails_and_none_of_them_is_kept(database: Database):
    with database.held() as futures:
        database.begin(futures, database.insert, 1)
        database.begin(futures, database.insert, 2)
        database.fails_to_commit = True
    for future in futures[:2]:
        with pytest.raises(NotCommitted) as caught:
            future.result(LONG_S)
        assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(OSError, match="the disk is gone"):
        futures[2].result(LONG_S)
    assert database.rows() == []
    database.insert(7)
    assert database.rows() == [7]


def test_a_refusal_is_not_told_when_what_it_was_refused_for_was_not_kept(database: Database):
    def refuse(_: sa.Connection) -> None:
        raise Conflict("the name is taken by number 0")

    with database.held() as futures:
        database.begin(futures, database.insert, 1, refuse)
        database.fails_to_commit = True
    for future in futures:
        with pytest.raises((OSError, NotCommitted)):
            future.result(LONG_S)
    assert database.rows() == []


def test_when_the_database_undoes_everything_by_itself_the_whole_group_fails(database: Database):
    """As SQLite does when the disk is full."""

    def undo(connection: sa.Connection) -> None:
        connection.connection.cursor().execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with database.held() as futures:
        database.begin(futures, database.insert, 1, undo)
        database.begin(futures, database.insert, 2)
    with pytest.raises(NotCommitted):
        futures[0].result(LONG_S)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        futures[1].result(LONG_S)
    futures[2].result(LONG_S)
    assert database.rows() == [2]


def test_no_more_than_so_many_share_a_commit(database: Database):
    with database.held() as futures:
        for number in range(1, MAX_TOGETHER + 5):
            database.begin(futures, database.insert, number)
    for future in futures:
        future.result(LONG_S)
    assert database.commits == 2
    assert len(database.rows()) == MAX_TOGETHER + 5


def test_a_turn_that_does_not_come_in_time_is_told_and_harms_nobody(database: Database):
    database.writer._timeout_s = 0.01  # pyright: ignore[reportPrivateUsage]
    with database.held() as futures:
        with pytest.raises(Unavailable, match="busy"):
            database.insert(1)
        assert database.writer.waiting == 0
    futures[0].result(LONG_S)
    assert database.rows() == [0]


def test_a_connection_that_cannot_be_made_fails_its_caller_and_the_next_one_is_served(database: Database):
    broken = GroupCommit(lambda: 1 / 0, timeout_s=LONG_S)  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), broken.transaction():
            pass
