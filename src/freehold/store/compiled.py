"""Statements that are compiled once and run on the driver's own cursor: a tenth of what SQLAlchemy's execution takes.

For: the statements that every request runs (`statements`). Not for SQL by hand: what a statement says, and how values
are bound and read, is SQLAlchemy's, for whatever database the connection is of. Invariant: a compiled statement
gives the rows that SQLAlchemy's `execute` would, within the transaction of the connection it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

Row = tuple[Any, ...]
_Process = Callable[[Any], Any]


class _Form(NamedTuple):
    """A statement in one dialect."""

    text: str
    parameters: list[tuple[str, Any, _Process | None]]
    """In order: name, the value that it has unless another is given, how the driver wants it."""
    columns: list[tuple[int, _Process]]
    """The columns whose values the driver does not give as they are meant."""


class Compiled:
    """One statement. Parameters are given by name; those of an INSERT or UPDATE are its columns."""

    def __init__(self, statement: sa.ClauseElement) -> None:
        self.statement: Final = statement
        self._forms: dict[str, _Form] = {}

    def rows(self, db: sa.Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a SELECT."""
        found, columns = self.raw_rows(db, parameters), self._form(db).columns
        return [_read(row, columns) for row in found] if columns else found

    def raw_rows(self, db: sa.Connection, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a SELECT as the driver gives them: for who may know them already, and `read`s what is new."""
        found: list[Row] = _execute(db, self._form(db), parameters).fetchall()
        return found

    def read(self, db: sa.Connection, row: Row) -> Row:
        """A row of `raw_rows` with its values as they are meant."""
        return _read(row, self._form(db).columns)

    def first(self, db: sa.Connection, parameters: Mapping[str, Any]) -> Row | None:
        """The first row of a SELECT."""
        form = self._form(db)
        cursor = _execute(db, form, parameters)
        row: Row | None = cursor.fetchone()
        cursor.close()
        return None if row is None else _read(row, form.columns)

    def scalar(self, db: sa.Connection, parameters: Mapping[str, Any]) -> Any:
        """The first column of the first row of a SELECT; None when there is no row."""
        row = self.first(db, parameters)
        return None if row is None else row[0]

    def run(self, db: sa.Connection, parameters: Mapping[str, Any]) -> int:
        """Run what is no SELECT; how many rows it changed."""
        form = self._form(db)
        cursor = _execute(db, form, parameters)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def _form(self, db: sa.Connection) -> _Form:
        return self._forms.get(db.dialect.name) or self._compile(db.dialect)

    def _compile(self, dialect: Dialect) -> _Form:
        compiled = cast("SQLCompiler", self.statement.compile(dialect=dialect))
        if compiled.positiontup is None or compiled.post_compile_params:
            raise NotImplementedError("parameters by name, and lists of values, are not compiled here")
        given = compiled.params
        parameters: list[tuple[str, Any, _Process | None]] = []
        for name in compiled.positiontup:
            kind = compiled.binds[name].type.dialect_impl(dialect)
            parameters.append((name, given[name], kind.bind_processor(dialect)))
        selected = self.statement.selected_columns if isinstance(self.statement, sa.SelectBase) else ()
        processors = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in selected]
        columns = [(at, process) for at, process in enumerate(processors) if process is not None]
        form = self._forms[dialect.name] = _Form(str(compiled), parameters, columns)
        return form


def _execute(db: sa.Connection, form: _Form, parameters: Mapping[str, Any]) -> Any:
    values: list[Any] = []
    for name, default, process in form.parameters:
        value = parameters.get(name, default)
        values.append(value if process is None else process(value))
    cursor = db.connection.cursor()
    cursor.execute(form.text, values)
    return cursor


def _read(row: Row, columns: list[tuple[int, _Process]]) -> Row:
    if not columns:
        return row
    made = list(row)
    for at, process in columns:
        made[at] = process(made[at])
    return tuple(made)
