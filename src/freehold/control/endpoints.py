"""CreateAgentRuntimeEndpoint, GetAgentRuntimeEndpoint, UpdateAgentRuntimeEndpoint, DeleteAgentRuntimeEndpoint,
ListAgentRuntimeEndpoints.

Not for DEFAULT's moves, which are part of its runtime's. Invariant: an endpoint's name, which the model calls
sensitive, is in answers and ARNs only, never in a message or a log.
"""

from __future__ import annotations

import hashlib
import string
from datetime import UTC, datetime
from typing import Any, Final

from freehold.control.context import DEFAULT_PAGE, Context, Operation, Outcome, Params, once
from freehold.domain import arns
from freehold.store.base import Endpoint, EndpointKey, EndpointPosition, NewEndpoint, RuntimeKey, Scope

_ID_LENGTH: Final = 10
_ID_ALPHABET: Final = string.ascii_letters + string.digits


def create(context: Context, scope: Scope, params: Params) -> Outcome:
    """A new endpoint in CREATING, which serves its version as soon as that is READY: at once, as a rule."""
    key = RuntimeKey(scope, params["agentRuntimeId"])
    name: str = params["name"]
    version = params.get("agentRuntimeVersion")
    new = NewEndpoint(
        name=name,
        arn=_runtime(key).endpoint(name),
        version=None if version is None else int(version),
        description=params.get("description"),
        tags=dict(params.get("tags") or {}),
    )
    receipt = context.store.create_endpoint(
        key,
        new,
        once=once("CreateAgentRuntimeEndpoint", params),
        max_endpoints=context.max_endpoints,
        now=context.now(),
    )
    output: dict[str, Any] = {
        **_arns(key, receipt.name),
        "agentRuntimeId": key.runtime_id,
        "endpointName": receipt.name,
        "targetVersion": str(receipt.target_version),
        "status": receipt.status.value,
        "createdAt": receipt.created_at,
    }
    return Outcome(output)


def get(context: Context, scope: Scope, params: Params) -> Outcome:
    """The endpoint as it stands."""
    key = _key(scope, params)
    found = context.store.get_endpoint(key)
    output = _shown(key.runtime, found)
    if found.failure_reason:
        output["failureReason"] = found.failure_reason
    return Outcome(output, shown=(key.runtime.runtime_id,))


def update(context: Context, scope: Scope, params: Params) -> Outcome:
    """Another version, another description, or both; what is not given stays."""
    key = _key(scope, params)
    version = params.get("agentRuntimeVersion")
    receipt = context.store.update_endpoint(
        key,
        version=None if version is None else int(version),
        description=params.get("description"),
        once=once("UpdateAgentRuntimeEndpoint", params),
        now=context.now(),
    )
    output: dict[str, Any] = {
        **_arns(key.runtime, key.name),
        "targetVersion": str(receipt.target_version),
        "status": receipt.status.value,
        "createdAt": receipt.created_at,
        "lastUpdatedAt": receipt.updated_at,
    }
    if receipt.live_version is not None:
        output["liveVersion"] = str(receipt.live_version)
    return Outcome(output)


def delete(context: Context, scope: Scope, params: Params) -> Outcome:
    """The endpoint in DELETING, without a route from here on; the reconciler ends its sessions."""
    key = _key(scope, params)
    receipt = context.store.begin_delete_endpoint(
        key, once=once("DeleteAgentRuntimeEndpoint", params), now=context.now()
    )
    output = {
        "agentRuntimeId": key.runtime.runtime_id,
        "endpointName": key.name,
        "status": receipt.status.value,
    }
    return Outcome(output, work=key)


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """One page of a runtime's endpoints, oldest first, so DEFAULT before all."""
    key = RuntimeKey(scope, params["agentRuntimeId"])
    pages = context.pages.of(f"endpoints of {key.runtime_id}")
    token = params.get("nextToken")
    after = None if token is None else EndpointPosition(*pages.open(scope, token, tuple[datetime, str]))
    limit = params.get("maxResults") or DEFAULT_PAGE
    rows = context.store.list_endpoints(key, after=after, limit=limit + 1)
    output: dict[str, Any] = {"runtimeEndpoints": [_shown(key, row) for row in rows[:limit]]}
    if len(rows) > limit:
        last = rows[limit - 1]
        output["nextToken"] = pages.seal(scope, (last.created_at.astimezone(UTC), last.name))
    return Outcome(output, shown=(key.runtime_id,))


OPERATIONS: Final[dict[str, Operation]] = {
    "CreateAgentRuntimeEndpoint": create,
    "GetAgentRuntimeEndpoint": get,
    "UpdateAgentRuntimeEndpoint": update,
    "DeleteAgentRuntimeEndpoint": delete,
    "ListAgentRuntimeEndpoints": list_,
}


def _key(scope: Scope, params: Params) -> EndpointKey:
    return EndpointKey(RuntimeKey(scope, params["agentRuntimeId"]), params["endpointName"])


def _runtime(key: RuntimeKey) -> arns.AgentRuntimeArn:
    return arns.AgentRuntimeArn(key.scope.region, key.scope.account, key.runtime_id)


def _arns(key: RuntimeKey, name: str) -> dict[str, Any]:
    arn = _runtime(key)
    return {"agentRuntimeEndpointArn": arn.endpoint(name), "agentRuntimeArn": str(arn)}


def _shown(key: RuntimeKey, found: Endpoint) -> dict[str, Any]:
    output: dict[str, Any] = {
        **_arns(key, found.name),
        "name": found.name,
        "id": _id(key, found),
        "targetVersion": str(found.target_version),
        "status": found.status.value,
        "createdAt": found.created_at,
        "lastUpdatedAt": found.updated_at,
    }
    if found.live_version is not None:
        output["liveVersion"] = str(found.live_version)
    if found.description is not None:
        output["description"] = found.description
    return output


def _id(key: RuntimeKey, found: Endpoint) -> str:
    """`<name>-<10 alphanumerics>`: follows from what never changes, and another endpoint of that name has another."""
    about = f"{_runtime(key).endpoint(found.name)} {found.created_at.astimezone(UTC).isoformat()}"
    number = int.from_bytes(hashlib.sha256(about.encode()).digest())
    suffix = ""
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ID_ALPHABET))
        suffix += _ID_ALPHABET[digit]
    return f"{found.name}-{suffix}"
