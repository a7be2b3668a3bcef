"""Lines of ListAgentRuntimes, kept as they were written: a page has a hundred, and few of them have changed.

Not for which lines a page has (`control.runtimes`). Invariant: a line is what its row says, and a row that is another
object gets another line.
"""

from __future__ import annotations

from typing import Final

from freehold.aws.serialize import Kept
from freehold.domain import arns
from freehold.store.base import RuntimeSummary, Scope

MAX_KNOWN: Final = 4096


class Lines:
    """From any thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[RuntimeSummary, Kept]] = {}

    def of(self, scope: Scope, row: RuntimeSummary) -> Kept:
        """The line of a row, which is the same object as long as the row is."""
        known = self._known.get((scope.account, row.runtime_id))
        if known is not None and known[0] is row:
            return known[1]
        if len(self._known) >= MAX_KNOWN:
            self._known = {}
        line = Kept(
            {
                "agentRuntimeArn": arns.runtimes(scope.region, scope.account) + row.runtime_id,
                "agentRuntimeId": row.runtime_id,
                "agentRuntimeVersion": str(row.latest_version),
                "agentRuntimeName": row.name,
                # Required in the output's model, optional in the input's (spec section 3.3).
                "description": row.description or "",
                "lastUpdatedAt": row.updated_at,
                "status": row.status,
            }
        )
        self._known[scope.account, row.runtime_id] = row, line
        return line
