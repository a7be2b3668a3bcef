"""From a question in words to the tool call that answers it: fixed rules, so the same question has the same answer.

Not for: computing (`tables`). Understood: "rows", "columns", "describe price", "average price by region",
"total units where channel is web", and a follow-up "by product" that keeps what the question before it asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tables import Table


class NotUnderstood(Exception):
    """The question fits no rule. The message says what would."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`tool` is count_rows, overview, describe or aggregate; the rest are its arguments."""

    tool: str
    how: str | None = None
    column: str | None = None
    by: str | None = None
    where: tuple[str, str] | None = None


WORDS = {
    "average": "average",
    "mean": "average",
    "avg": "average",
    "median": "median",
    "total": "total",
    "sum": "total",
    "minimum": "minimum",
    "lowest": "minimum",
    "min": "minimum",
    "maximum": "maximum",
    "highest": "maximum",
    "max": "maximum",
}
HELP = 'ask for "rows", "columns", "describe COLUMN", or "average|median|total|minimum|maximum COLUMN [by COLUMN]"'


def understand(question: str, earlier: list[str], table: Table) -> Plan:
    """The plan for `question`; `earlier` are the questions before it, oldest first. Raises NotUnderstood."""
    plan = _plan(question, table)
    if plan is not None:
        return plan
    by, where = _grouping(question, table)
    if by or where:
        for before in reversed(earlier):
            previous = _plan(before, table)
            if previous is not None and previous.tool in ("count_rows", "aggregate"):
                return replace(previous, by=by or previous.by, where=where or previous.where)
    raise NotUnderstood(f"I can't answer {question!r}: {HELP}. The columns are {', '.join(table.columns)}.")


def _plan(question: str, table: Table) -> Plan | None:
    words = _words(question)
    by, where = _grouping(question, table)
    how = next((WORDS[word] for word in words if word in WORDS), None)
    if how is not None:
        column = _first_column(_before_grouping(question), table)
        return Plan("aggregate", how, column, by, where) if column else None
    if "describe" in words or "summarize" in words or "summarise" in words:
        column = _first_column(question, table)
        return Plan("describe", column=column) if column else Plan("overview")
    if "columns" in words:
        return Plan("overview")
    if "rows" in words or "count" in words or ("how" in words and "many" in words):
        return Plan("count_rows", by=by, where=where)
    return None


def _grouping(question: str, table: Table) -> tuple[str | None, tuple[str, str] | None]:
    by = next((found for part in _after(question, r"\b(?:by|per)\b") if (found := _leading_column(part, table))), None)
    for part in _after(question, r"\bwhere\b"):
        if column := _leading_column(part, table):
            rest = part.strip()[len(column) :]
            if match := re.match(r"\s*(?:is|=|==|equals)\s*(.+)", rest, re.IGNORECASE):
                value = re.split(r"\s+\b(?:by|per)\b\s", match[1])[0]
                return by, (column, value.strip(" \"'?.!"))
    return by, None


def _after(question: str, marker: str) -> list[str]:
    return re.split(marker, question, flags=re.IGNORECASE)[1:]


def _before_grouping(question: str) -> str:
    return re.split(r"\b(?:by|per|where)\b", question, flags=re.IGNORECASE)[0]


def _leading_column(text: str, table: Table) -> str | None:
    text = text.strip().casefold()
    fitting = [c for c in table.columns if re.match(rf"{re.escape(_spoken(c))}(?!\w)", text.replace("_", " "))]
    return max(fitting, key=len, default=None)


def _first_column(text: str, table: Table) -> str | None:
    """The column that is named first, singular or plural; the longest of those that begin at the same word."""
    text = text.casefold().replace("_", " ")
    found = [
        (match.start(), -len(column), column)
        for column in table.columns
        if (match := re.search(rf"(?<!\w){re.escape(_spoken(column))}s?(?!\w)", text))
    ]
    return min(found)[2] if found else None


def _spoken(column: str) -> str:
    return column.casefold().replace("_", " ")


def _words(question: str) -> list[str]:
    return re.findall(r"[a-z]+", question.casefold())
