"""Transactions of several threads, made durable by one commit: a commit waits for the disk, most of it for nothing.

For: a database with one writer at a time (`store.sqlite`). Threads take turns on one connection; who ends while others
wait for their turn leaves the commit to the last of them, and waits for it. Not a queue of work: each thread runs its
own. Invariant: a transaction's block is left, whatever it found, only after everything that it has read or written is
committed; a block that fails undoes what it did and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from freehold.domain.errors import FreeholdError, Unavailable

MAX_TOGETHER: Final = 64
"""Transactions in one commit: who came first waits no longer than that."""


class NotCommitted(Exception):
    """What this transaction did was undone, because the commit that it shared with others failed."""


class _Group:
    """The transactions that one commit makes durable."""

    __slots__ = ("connection", "failure", "is_suspect", "members", "waiting")

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.members = 1
        self.is_suspect = False
        """Whether something failed that was not one of our own refusals: the connection is not used again."""
        self.waiting: list[threading.Lock] = []
        """A lock for each member that has ended its own part; released when the group is over."""
        self.failure: BaseException | None = None


class GroupCommit:
    """Writes on one connection, which `connect` makes; its begin must begin a transaction that may write."""

    def __init__(self, connect: Callable[[], sa.Connection], *, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._state = threading.Lock()
        self._busy = False
        """Whether a thread has the turn. It is handed on, never left lying while somebody waits."""
        self._queue: deque[threading.Lock] = deque()
        """A lock for each thread that waits for its turn; released when it has it."""
        self._group: _Group | None = None
        self._idle: sa.Connection | None = None

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        return len(self._queue)

    def close(self) -> None:
        """Close the connection. No transaction is under way."""
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()

    @contextmanager
    def transaction(self) -> Generator[sa.Connection]:
        """One transaction. Raises Unavailable when its turn does not come in time, NotCommitted."""
        self._take_turn()
        try:
            group = self._group = self._joined()
        except BaseException:
            self._hand_on()
            raise
        alone = group.members == 1
        try:
            if not alone:
                run(group.connection, "SAVEPOINT member")
            yield group.connection
            if not alone:
                run(group.connection, "RELEASE member")
        except BaseException as error:
            self._undo(group, alone=alone, error=error)
            try:
                # What it was refused for may be another's change, which must not be told of before it is kept.
                self._end(group)
            except Exception:
                if isinstance(error, FreeholdError):
                    raise
            raise
        self._end(group)

    # -- turns ----------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        with self._state:
            if not self._busy:
                self._busy = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        if mine.acquire(timeout=self._timeout_s):
            return
        with self._state:
            if mine in self._queue:
                self._queue.remove(mine)
                raise Unavailable("The server's database is busy")
        # It was handed over in this very moment.

    def _hand_on(self) -> None:
        """Give the turn to who waits longest; without anybody it is free."""
        with self._state:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._busy = False

    # -- groups ---------------------------------------------------------------------------------------------------

    def _joined(self) -> _Group:
        group = self._group
        if group is not None:
            group.members += 1
            return group
        connection, self._idle = self._idle, None
        if connection is None:
            connection = self._connect()
        try:
            connection.begin()
        except BaseException:
            _discard(connection)
            raise
        return _Group(connection)

    def _undo(self, group: _Group, *, alone: bool, error: BaseException) -> None:
        """Take back what a member did. If that can't be done alone, the whole group is undone."""
        is_refusal = isinstance(error, FreeholdError)
        try:
            if not alone:
                group.is_suspect = group.is_suspect or not is_refusal
                run(group.connection, "ROLLBACK TO member")
                run(group.connection, "RELEASE member")
                return
            group.connection.rollback()
            if not is_refusal:
                _discard(group.connection)
                group.connection = self._connect()
            group.connection.begin()
        except Exception as failure:
            # The database has undone all of it by itself (a full disk), or can't be spoken to.
            group.failure = failure

    def _end(self, group: _Group) -> None:
        """A member's part is over: commit, or leave that to who has waited for a turn, and wait until it is done."""
        if group.failure is None and group.members < MAX_TOGETHER:
            done = threading.Lock()
            done.acquire()
            with self._state:
                is_last = not self._queue
                if not is_last:
                    group.waiting.append(done)
                    self._queue.popleft().release()
            if not is_last:
                done.acquire()
                if group.failure is not None:
                    raise NotCommitted("a commit that was shared with others failed") from group.failure
                return
        self._commit(group)

    def _commit(self, group: _Group) -> None:
        self._group = None
        keeps = False
        try:
            if group.failure is not None:
                raise NotCommitted("what was to be committed together had to be undone") from group.failure
            group.connection.commit()
            keeps = not group.is_suspect
        except BaseException as failure:
            group.failure = group.failure or failure
            raise
        finally:
            try:
                if keeps:
                    self._idle = group.connection
                else:
                    _discard(group.connection)
            finally:
                self._hand_on()
                for done in group.waiting:
                    done.release()


def run(connection: sa.Connection, text: str) -> None:
    """Run a statement on the driver's own cursor."""
    connection.connection.cursor().execute(text)


def _discard(connection: sa.Connection) -> None:
    """Close it for good: given back to a pool, it might still be within a transaction."""
    connection.invalidate()
    connection.close()
