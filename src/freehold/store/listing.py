"""Pages of agent runtimes, of which most lines were read before.

For: `store.sql`. Reading a line anew costs more than looking whether it is as it was. Invariant: a line is given again
only when its row is as it was, byte for byte; what it has from another table, the description of the row's latest
version, never changes (`delete_version` takes back no latest version).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from freehold.domain.runtimes import RuntimeStatus
from freehold.store import statements
from freehold.store.base import Position, RuntimeSummary, Scope
from freehold.store.compiled import Compiled, Row

MAX_KNOWN: Final = 4096
"""Lines in memory, of about a kilobyte each."""
_FEW: Final = 10
"""Up to so many descriptions are read one by one."""
STATUSES: Final = {status.value: status for status in RuntimeStatus}
"""By the value that is stored: a look-up here costs less than making one."""


class Listing:
    """Reads pages. From any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], tuple[Row, RuntimeSummary]] = {}

    def page(self, db: sa.Connection, scope: Scope, *, after: Position | None, limit: int) -> list[RuntimeSummary]:
        """One page, in the transaction of `db`. Lines that did not change are the same objects as before."""
        rows_of, descriptions_of = statements.RUNTIMES, statements.DESCRIPTIONS
        parameters: dict[str, Any] = {**statements.scope_parameters(scope), "of_limit": limit}
        if after is not None:
            rows_of, descriptions_of = statements.RUNTIMES_AFTER, statements.DESCRIPTIONS_AFTER
            parameters |= {"of_after": after.created_at, "of_runtime": after.runtime_id}
        rows = rows_of.raw_rows(db, parameters)
        account, region, known = scope.account, scope.region, self._known
        lines: list[RuntimeSummary] = []
        new: list[int] = []
        for row in rows:
            kept = known.get((account, region, row[0]))
            if kept is None or kept[0] != row:
                new.append(len(lines))
                lines.append(_NO_LINE)
            else:
                lines.append(kept[1])
        if not new:
            return lines
        if len(new) > _FEW:
            described: Mapping[str, str | None] = dict(descriptions_of.rows(db, parameters))  # pyright: ignore[reportAssignmentType]
        else:
            described = {rows[at][0]: _description(db, parameters, rows[at]) for at in new}
        if len(known) + len(new) > MAX_KNOWN:
            self._known = known = {}
        for at in new:
            row = rows[at]
            line = lines[at] = _line(rows_of, db, row, described[row[0]])
            known[account, region, row[0]] = row, line
        return lines


_NO_LINE: Final[Any] = None


def _description(db: sa.Connection, parameters: Mapping[str, Any], row: Row) -> str | None:
    asked = {"of_account": parameters["of_account"], "of_region": parameters["of_region"], "of_runtime": row[0]}
    return statements.DESCRIPTION.scalar(db, {**asked, "of_version": row[3]})


def _line(statement: Compiled, db: sa.Connection, row: Row, description: str | None) -> RuntimeSummary:
    runtime_id, name, status, version, created_at, updated_at = statement.read(db, row)
    return RuntimeSummary(runtime_id, name, STATUSES[status], version, description, created_at, updated_at)
