"""The tools: what the agent can find out about a CSV. Plain functions over an immutable table.

Invariant: a column is numeric when every one of its non-empty cells is a finite number, and only then is it summed.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CSV_CHARACTERS = 10_000_000


class TableError(Exception):
    """The CSV, or what is asked of it, makes no sense. The message is for the person who asked."""


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "average": statistics.fmean,
    "median": statistics.median,
    "total": math.fsum,
    "minimum": min,
    "maximum": max,
}


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` are as wide as `columns`; cells are text as it stood in the file."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def index(self, column: str) -> int:
        if column not in self.columns:
            raise TableError(f"there is no column {column!r}; the columns are {', '.join(self.columns)}")
        return self.columns.index(column)

    def is_numeric(self, column: str) -> bool:
        cells = [row[self.index(column)] for row in self.rows]
        return any(cells) and all(_number(cell) is not None for cell in cells if cell)


def load_csv(name: str, text: str) -> Table:
    """A table from CSV text with a header line. Raises TableError."""
    if len(text) > MAX_CSV_CHARACTERS:
        raise TableError(f"the CSV has more than {MAX_CSV_CHARACTERS} characters")
    try:
        lines = [line for line in csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), strict=True) if line]
    except csv.Error as error:
        raise TableError(f"this is not CSV: {error}") from error
    if not lines:
        raise TableError("the CSV is empty")
    columns = tuple(cell.strip() for cell in lines[0])
    if not all(columns) or len(set(columns)) != len(columns):
        raise TableError("the CSV's first line must name every column, each differently")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            raise TableError(f"row {number} has {len(line)} cells instead of {len(columns)}")
    return Table(name, columns, tuple(tuple(cell.strip() for cell in line) for line in lines[1:]))


def overview(table: Table) -> dict[str, Any]:
    """Name, number of rows, and each column's kind."""
    kinds = {column: "number" if table.is_numeric(column) else "text" for column in table.columns}
    return {"name": table.name, "rows": len(table.rows), "columns": kinds}


def describe(table: Table, column: str) -> dict[str, Any]:
    """Statistics of a numeric column; the commonest values of any other."""
    cells = [row[table.index(column)] for row in table.rows]
    told: dict[str, Any] = {"column": column, "rows": len(cells), "empty": sum(not cell for cell in cells)}
    if table.is_numeric(column):
        numbers = _numbers(table, table.rows, column)
        return told | {name: round(compute(numbers), 2) for name, compute in AGGREGATES.items()}
    counts: dict[str, int] = {}
    for cell in filter(None, cells):
        counts[cell] = counts.get(cell, 0) + 1
    commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    return told | {"distinct": len(counts), "commonest": dict(commonest)}


def count_rows(table: Table, by: str | None = None, where: tuple[str, str] | None = None) -> dict[str, Any]:
    """How many rows there are, in each group of `by` if that is given."""
    rows = _filtered(table, where)
    if by is None:
        return {"rows": len(rows)}
    return {"rows": {group: len(members) for group, members in _grouped(table, rows, by).items()}}


def aggregate(
    table: Table, how: str, column: str, by: str | None = None, where: tuple[str, str] | None = None
) -> dict[str, Any]:
    """One of AGGREGATES over a numeric column, in each group of `by` if that is given. Raises TableError."""
    if not table.is_numeric(column):
        raise TableError(f"column {column!r} holds no numbers, so it has no {how}")
    rows = _filtered(table, where)
    if by is None:
        return {how: _aggregated(table, rows, how, column)}
    groups = _grouped(table, rows, by)
    return {how: {group: _aggregated(table, members, how, column) for group, members in groups.items()}}


def _aggregated(table: Table, rows: Sequence[tuple[str, ...]], how: str, column: str) -> float | None:
    numbers = _numbers(table, rows, column)
    return round(AGGREGATES[how](numbers), 2) if numbers else None


def _filtered(table: Table, where: tuple[str, str] | None) -> list[tuple[str, ...]]:
    if where is None:
        return list(table.rows)
    column, value = where
    at = table.index(column)
    rows = [row for row in table.rows if row[at].casefold() == value.casefold()]
    if not rows:
        raise TableError(f"no row has {value!r} in column {column!r}")
    return rows


def _grouped(table: Table, rows: Sequence[tuple[str, ...]], by: str) -> dict[str, list[tuple[str, ...]]]:
    at = table.index(by)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        groups.setdefault(row[at], []).append(row)
    return dict(sorted(groups.items()))


def _numbers(table: Table, rows: Sequence[tuple[str, ...]], column: str) -> list[float]:
    at = table.index(column)
    return [number for row in rows if (number := _number(row[at])) is not None]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
