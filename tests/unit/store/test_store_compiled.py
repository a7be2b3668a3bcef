"""Statements that run on the driver's own cursor give what SQLAlchemy gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.store import schema, statements
from freehold.store.base import NewRuntime, NewVersion, Once, Ready, RuntimeKey, Scope
from freehold.store.compiled import Compiled
from freehold.store.sqlite import SqliteStore, open_store

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
HERE = Scope("111122223333", "eu-central-1")
READING = {
    name: statement
    for name, statement in vars(statements).items()
    if isinstance(statement, Compiled) and isinstance(statement.statement, sa.Select)
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    opened = open_store(tmp_path_factory.mktemp("db") / "freehold.sqlite")
    for number, name in enumerate(("a", "b", "c")):
        key = RuntimeKey(HERE, f"{name}-0123456789")
        version = NewVersion({"x": name}, {"y": [name]}, f"what {name} does", ready(key) if number else None)
        new = NewRuntime(key.runtime_id, name, f"arn:{name}", key.runtime_id, version, {"k": name})
        at = NOW + timedelta(seconds=number)
        once = Once("CreateAgentRuntime", name, "d")
        opened.create_runtime(HERE, new, once=once, max_runtimes=9, now=at)
    yield opened
    opened.close()


def ready(key: RuntimeKey) -> Ready:
    program = Program(Interpreter("/usr/bin/python3"), ("main.py",))
    launch = LaunchSpec(
        key.scope.account, key.scope.region, key.runtime_id, "n", 0, ServerProtocol.HTTP, 8080, "/c", program, 60, 600
    )
    return Ready("d" * 64, launch)


@pytest.mark.parametrize("name", sorted(READING))
def test_a_compiled_statement_gives_the_rows_that_sqlalchemy_gives(store: SqliteStore, name: str):
    statement = READING[name]
    asked: dict[str, Any] = {
        "of_account": HERE.account,
        "of_region": HERE.region,
        "of_runtime": "b-0123456789",
        "of_limit": 10,
        "of_version": 1,
        "of_name": "b" if name == "RUNTIME_NAMED" else "DEFAULT",
        "of_now": NOW,
        "of_operation": "CreateAgentRuntime",
        "of_token": "b",
        "of_after": 0 if name == "VERSIONS" else NOW,
    }
    if name == "ENDPOINTS_AFTER":
        asked["of_name"] = "A"
    with store._read() as db:
        wanted = [tuple(row) for row in db.execute(statement.statement, asked)]
        assert wanted, "the question has an answer"
        assert statement.rows(db, asked) == wanted
        assert statement.first(db, asked) == wanted[0]
        assert statement.scalar(db, asked) == wanted[0][0]


def test_instants_are_kept_as_sqlalchemy_keeps_them(store: SqliteStore):
    plain = sa.DateTime().dialect_impl(store._engine.dialect)
    kept = schema.UtcDateTime().dialect_impl(store._engine.dialect)
    for at in (NOW, NOW.replace(microsecond=0), NOW.astimezone().replace(year=1970)):
        text = kept.bind_processor(store._engine.dialect)(at)
        assert text == plain.bind_processor(store._engine.dialect)(at.astimezone(UTC))
        assert kept.result_processor(store._engine.dialect, None)(text) == at


def test_a_list_of_values_is_not_compiled(store: SqliteStore):
    several = Compiled(sa.select(schema.tags.c.key).where(schema.tags.c.key.in_(["a", "b"])))
    with store._read() as db, pytest.raises(NotImplementedError):
        several.rows(db, {})


def test_what_fails_leaves_nothing_and_the_store_goes_on(tmp_path: Path):
    store = open_store(tmp_path / "freehold.sqlite")
    row = {"account": HERE.account, "region": HERE.region, "resource_arn": "arn", "key": "k", "value": "v"}
    with pytest.raises(ZeroDivisionError), store._write() as db:
        statements.INSERT_TAG.run(db, row)
        raise ZeroDivisionError
    assert store.list_tags(HERE, "arn") == {}
    with store._write() as db:
        assert statements.INSERT_TAG.run(db, row) == 1
    assert store.list_tags(HERE, "arn") == {"k": "v"}
    store.close()
