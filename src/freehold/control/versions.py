"""ListAgentRuntimeVersions.

Not for making or deleting versions, which are operations on their runtime (`control.runtimes`). Invariant: as there, an
answer tells only what the store has kept.
"""

from __future__ import annotations

from typing import Final

from freehold.control.context import DEFAULT_PAGE, Context, Operation, Outcome, Params
from freehold.control.runtimes import version_status
from freehold.domain import arns
from freehold.store.base import RuntimeKey, Scope


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """One page of a runtime's versions, oldest first: new ones never shift a page already read."""
    key = RuntimeKey(scope, params["agentRuntimeId"])
    pages = context.pages.of(f"versions of {key.runtime_id}")
    token = params.get("nextToken")
    after = None if token is None else pages.open(scope, token, int)
    limit = params.get("maxResults") or DEFAULT_PAGE
    runtime, rows = context.store.list_versions(key, after=after, limit=limit + 1)
    lines = [
        {
            "agentRuntimeArn": str(arns.AgentRuntimeArn(scope.region, scope.account, key.runtime_id)),
            "agentRuntimeId": key.runtime_id,
            "agentRuntimeVersion": str(row.version),
            "agentRuntimeName": runtime.name,
            # Required in the output's model, optional in the input's (spec section 3.3).
            "description": row.description or "",
            "lastUpdatedAt": row.updated_at,
            "status": version_status(runtime, row.version, row.status).value,
        }
        for row in rows[:limit]
    ]
    if len(rows) <= limit:
        return Outcome({"agentRuntimes": lines}, shown=(key.runtime_id,))
    following = pages.seal(scope, rows[limit - 1].version)
    return Outcome({"agentRuntimes": lines, "nextToken": following}, shown=(key.runtime_id,))


OPERATIONS: Final[dict[str, Operation]] = {"ListAgentRuntimeVersions": list_}
