"""What Freehold does with each operation and field of the runtime API, read from `coverage_fields.toml`.

Not for comparing it with the model (`tools.coverage`). Invariant: an input member acts, is refused or annotates; one
that acts names the test that sees its effect.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

FIELDS = Path(__file__).with_name("coverage_fields.toml")
CONTROL = "bedrock-agentcore-control"
DATA = "bedrock-agentcore"


class Status(StrEnum):
    ACTS = "acts"
    REFUSED = "refused"
    """A request that asks for it gets a ValidationException that names it."""
    ANNOTATES = "annotates"
    """Checked against the model, kept where that makes sense, and selects no behaviour."""
    TOLD = "told"
    """A member of an answer."""
    NEVER = "never"
    """A member of an answer that Freehold has no reason to send."""


INHERITED = (Status.REFUSED, Status.NEVER)
INPUT = (Status.ACTS, Status.REFUSED, Status.ANNOTATES)
OUTPUT = (Status.TOLD, Status.NEVER)


@dataclass(frozen=True, slots=True)
class Entry:
    status: Status
    note: str = ""
    test: str = ""
    """Of a member that acts: the test that sees its effect."""


@dataclass(frozen=True, slots=True)
class Operation:
    service: str
    input: dict[str, Entry] = field(default_factory=dict[str, Entry])
    output: dict[str, Entry] = field(default_factory=dict[str, Entry])


class FieldsWrong(Exception):
    """The file says something that has no meaning. The message says where."""


def read(data: dict[str, Any]) -> tuple[dict[str, Operation], dict[str, str]]:
    """Operations that are there, and the services of those that are not. Raises FieldsWrong."""
    operations: dict[str, Operation] = {}
    for name, said in data["operations"].items():
        sides: dict[str, dict[str, Entry]] = {}
        for side, allowed in (("input", INPUT), ("output", OUTPUT)):
            table: dict[str, Any] = {}
            for group in said.get(f"{side}_groups", ()):
                table |= data["groups"][group]
            table |= said[side]
            sides[side] = {path: _entry(f"{name} {side} {path}", row, allowed) for path, row in table.items()}
        operations[name] = Operation(said["service"], **sides)
    return operations, data["absent"]


def _entry(where: str, row: dict[str, Any], allowed: tuple[Status, ...]) -> Entry:
    given = [status for status in allowed if row.get(status.value)]
    if len(given) != 1 or set(row) - {given[0].value, "note"}:
        raise FieldsWrong(f"{where} is not exactly one of {', '.join(allowed)}")
    test = row[Status.ACTS.value] if given[0] is Status.ACTS else ""
    return Entry(given[0], row.get("note", ""), test)


OPERATIONS, ABSENT = read(tomllib.loads(FIELDS.read_text()))
