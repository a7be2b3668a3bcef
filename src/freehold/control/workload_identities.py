"""CreateWorkloadIdentity, GetWorkloadIdentity, UpdateWorkloadIdentity, DeleteWorkloadIdentity, ListWorkloadIdentities.

Not for tokens of identities. Invariant: an identity that came with a runtime goes with it, and not before.
"""

from __future__ import annotations

from typing import Any, Final

from freehold.control import resources
from freehold.control.context import Context, Operation, Outcome, Params
from freehold.store.base import Scope, WorkloadIdentity

DEFAULT_PAGE: Final = 20
"""The most that the model allows."""
_URLS: Final = "allowedResourceOauth2ReturnUrls"


def create(context: Context, scope: Scope, params: Params) -> Outcome:
    """A new identity in the default directory."""
    made = context.store.create_identity(
        resources.identity(scope, params["name"]),
        return_urls=params.get(_URLS),
        tags=dict(params.get("tags") or {}),
        now=context.now(),
    )
    return Outcome(_named(scope, made) | _urls(made))


def get(context: Context, scope: Scope, params: Params) -> Outcome:
    """One identity."""
    return Outcome(_shown(scope, context.store.get_identity(scope, params["name"])))


def update(context: Context, scope: Scope, params: Params) -> Outcome:
    """Its return URLs are replaced by those given, or removed when none are."""
    changed = context.store.update_identity(scope, params["name"], return_urls=params.get(_URLS), now=context.now())
    return Outcome(_shown(scope, changed))


def delete(context: Context, scope: Scope, params: Params) -> Outcome:
    """Remove an identity that is not a runtime's."""
    context.store.delete_identity(resources.identity(scope, params["name"]))
    return Outcome({})


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """One page, in order of names."""
    pages = context.pages.of("workload identities")
    token = params.get("nextToken")
    after = None if token is None else pages.open(scope, token, str)
    limit = params.get("maxResults") or DEFAULT_PAGE
    rows = context.store.list_identities(scope, after=after, limit=limit + 1)
    output: dict[str, Any] = {"workloadIdentities": [_named(scope, row) for row in rows[:limit]]}
    if len(rows) > limit:
        output["nextToken"] = pages.seal(scope, rows[limit - 1].name)
    return Outcome(output)


OPERATIONS: Final[dict[str, Operation]] = {
    "CreateWorkloadIdentity": create,
    "GetWorkloadIdentity": get,
    "UpdateWorkloadIdentity": update,
    "DeleteWorkloadIdentity": delete,
    "ListWorkloadIdentities": list_,
}


def _named(scope: Scope, row: WorkloadIdentity) -> dict[str, Any]:
    return {"name": row.name, "workloadIdentityArn": resources.identity(scope, row.name).arn}


def _urls(row: WorkloadIdentity) -> dict[str, Any]:
    return {} if row.return_urls is None else {_URLS: row.return_urls}


def _shown(scope: Scope, row: WorkloadIdentity) -> dict[str, Any]:
    return _named(scope, row) | _urls(row) | {"createdTime": row.created_at, "lastUpdatedTime": row.updated_at}
