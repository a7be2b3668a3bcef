"""CreateAgentRuntime, GetAgentRuntime, UpdateAgentRuntime, DeleteAgentRuntime, ListAgentRuntimes.

One function per operation: synchronous, run in a worker thread, from validated parameters to an Outcome, which says
what the event loop has to do before the answer goes out. Not for the wire (`control.app`), nor for what a
configuration may say (`control.configuration`). Invariant: an operation returns only what the store has kept.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from freehold.artifacts.base import ArtifactRejected
from freehold.control import configuration
from freehold.control.paging import Pages
from freehold.control.reconciler import Preparer
from freehold.domain import arns, limits
from freehold.domain.errors import FieldProblem, FreeholdError, ValidationFailed
from freehold.domain.runtimes import RuntimeStatus
from freehold.store.base import (
    NewRuntime,
    NewVersion,
    Once,
    Position,
    Receipt,
    RuntimeKey,
    RuntimeSummary,
    Scope,
    Store,
)

DEFAULT_PAGE: Final = 100
"""Lines of a page when maxResults is not given (spec section 3.6)."""
_SUFFIX_LENGTH: Final = 10
_SUFFIX_ALPHABET: Final = string.ascii_letters + string.digits
_FAILED: Final = (RuntimeStatus.CREATE_FAILED, RuntimeStatus.UPDATE_FAILED, RuntimeStatus.DELETE_FAILED)
_canonical = msgspec.json.Encoder(order="sorted")

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What operations work with."""

    store: Store
    preparer: Preparer
    pages: Pages
    now: Callable[[], datetime]
    max_runtimes: int = limits.MAX_RUNTIMES
    max_versions: int = limits.MAX_VERSIONS_PER_RUNTIME


@dataclass(frozen=True, slots=True)
class Outcome:
    """The operation's output, and what comes before it is sent."""

    output: dict[str, Any]
    rerouted: str | None = None
    """A runtime whose routes changed: gateways must have forgotten them."""
    shown: tuple[str, ...] = ()
    """Runtimes whose status is in the output: what it claims must be true at the gateways."""
    work: RuntimeKey | None = None
    """A runtime for the reconciler."""


Operation = Callable[[Context, Scope, Params], Outcome]


# -- the operations -----------------------------------------------------------------------------------------------


def create(context: Context, scope: Scope, params: Params) -> Outcome:
    """A new agent runtime in CREATING; the reconciler goes on."""
    normal = configuration.normalise(params)
    once = _once("CreateAgentRuntime", params)
    name: str = params["agentRuntimeName"]
    suffix = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(_SUFFIX_LENGTH))
    runtime_id = f"{name}-{suffix}"
    new = NewRuntime(
        runtime_id=runtime_id,
        name=name,
        arn=str(arns.AgentRuntimeArn(scope.region, scope.account, runtime_id)),
        workload_identity=runtime_id,
        version=_new_version(params, normal),
        tags=dict(params.get("tags") or {}),
    )
    receipt = _check_artifact(context, scope, normal, once)
    if receipt is None:
        receipt = context.store.create_runtime(
            scope, new, once=once, max_runtimes=context.max_runtimes, now=context.now()
        )
    output = _changed_output(scope, receipt)
    del output["lastUpdatedAt"]
    return Outcome(output, work=RuntimeKey(scope, receipt.runtime_id))


def update(context: Context, scope: Scope, params: Params) -> Outcome:
    """The next version in UPDATING; DEFAULT keeps serving the one before until the new one is READY."""
    normal = configuration.normalise(params)
    once = _once("UpdateAgentRuntime", params)
    key = RuntimeKey(scope, params["agentRuntimeId"])
    receipt = _check_artifact(context, scope, normal, once)
    if receipt is None:
        receipt = context.store.update_runtime(
            key, _new_version(params, normal), once=once, max_versions=context.max_versions, now=context.now()
        )
    return Outcome(_changed_output(scope, receipt), work=key)


def get(context: Context, scope: Scope, params: Params) -> Outcome:
    """The runtime with its latest version, or with the one asked for."""
    asked = params.get("agentRuntimeVersion")
    key = RuntimeKey(scope, params["agentRuntimeId"])
    runtime, version = context.store.get_runtime(key, None if asked is None else int(asked))
    # An older version has a status of its own, until the whole runtime goes.
    whole = version.version == runtime.latest_version or runtime.status in (
        RuntimeStatus.DELETING,
        RuntimeStatus.DELETE_FAILED,
    )
    status = runtime.status if whole else version.status
    reason = runtime.failure_reason if whole else version.failure_reason
    output: dict[str, Any] = {
        **version.configuration,
        **_identity(scope, key.runtime_id, runtime.workload_identity),
        "agentRuntimeName": runtime.name,
        "agentRuntimeVersion": str(version.version),
        "status": status.value,
        "createdAt": runtime.created_at,
        "lastUpdatedAt": runtime.updated_at if whole else version.updated_at,
    }
    if status in _FAILED and reason:
        output["failureReason"] = reason
    return Outcome(output, shown=(key.runtime_id,))


def delete(context: Context, scope: Scope, params: Params) -> Outcome:
    """The whole runtime in DELETING, without a route from here on; or one version that no endpoint uses."""
    key = RuntimeKey(scope, params["agentRuntimeId"])
    once = _once("DeleteAgentRuntime", params)
    asked = params.get("agentRuntimeVersion")
    now = context.now()
    if asked is None:
        context.store.begin_delete(key, once=once, now=now)
        output = {"agentRuntimeId": key.runtime_id, "status": RuntimeStatus.DELETING.value}
        return Outcome(output, rerouted=key.runtime_id, work=key)
    context.store.delete_version(key, int(asked), keep=configuration.CONTRACT_MEMBERS, once=once, now=now)
    output = {
        "agentRuntimeId": key.runtime_id,
        "agentRuntimeVersion": asked,
        "status": RuntimeStatus.DELETING.value,
    }
    return Outcome(output)


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """One page of runtimes, oldest first: new ones never shift a page already read."""
    rows, token = page(context, scope, params.get("maxResults"), params.get("nextToken"))
    output: dict[str, Any] = {"agentRuntimes": [_summary(scope, row) for row in rows]}
    if token is not None:
        output["nextToken"] = token
    return Outcome(output, shown=tuple(row.runtime_id for row in rows))


def page(
    context: Context, scope: Scope, max_results: int | None, next_token: str | None
) -> tuple[list[RuntimeSummary], str | None]:
    """One page of the account's runtimes and the token of the next. Raises ValidationFailed for a foreign token."""
    after = None if next_token is None else context.pages.position(scope, next_token)
    limit = max_results or DEFAULT_PAGE
    rows = context.store.list_runtimes(scope, after=after, limit=limit + 1)
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], context.pages.token(scope, Position(last.created_at, last.runtime_id))


OPERATIONS: Final[dict[str, Operation]] = {
    "CreateAgentRuntime": create,
    "GetAgentRuntime": get,
    "UpdateAgentRuntime": update,
    "DeleteAgentRuntime": delete,
    "ListAgentRuntimes": list_,
}
"""Operations that Freehold has, by their names in the service model."""


# -- parts --------------------------------------------------------------------------------------------------------


def _once(operation: str, params: Params) -> Once | None:
    token = params.get("clientToken")
    if token is None:
        return None
    rest = {name: value for name, value in params.items() if name != "clientToken"}
    return Once(operation, token, hashlib.sha256(_canonical.encode(rest)).hexdigest())


def _new_version(params: Params, normal: dict[str, Any]) -> NewVersion:
    received = {name: value for name, value in params.items() if name not in ("clientToken", "tags")}
    return NewVersion(received, normal, params.get("description"))


def _check_artifact(context: Context, scope: Scope, normal: dict[str, Any], once: Once | None) -> Receipt | None:
    """Refuse an artifact that can't be read; but a call that is only repeated gets its first answer (not None)."""
    source = configuration.artifact_of(normal).source
    try:
        context.preparer.check_readable(source)
    except ArtifactRejected as rejected:
        refusal: FreeholdError = ValidationFailed(
            f"The code artifact s3://{source.bucket}/{source.key} can't be read: {rejected}",
            fields=(FieldProblem("agentRuntimeArtifact.codeConfiguration.code.s3", str(rejected)),),
        )
    else:
        return None
    if once is not None and (receipt := context.store.replayed(scope, once, now=context.now())) is not None:
        return receipt
    raise refusal


def _identity(scope: Scope, runtime_id: str, workload_identity: str) -> dict[str, Any]:
    arn = arns.workload_identity(scope.region, scope.account, workload_identity)
    return {
        "agentRuntimeArn": str(arns.AgentRuntimeArn(scope.region, scope.account, runtime_id)),
        "agentRuntimeId": runtime_id,
        "workloadIdentityDetails": {"workloadIdentityArn": arn},
    }


def _changed_output(scope: Scope, receipt: Receipt) -> dict[str, Any]:
    return {
        **_identity(scope, receipt.runtime_id, receipt.workload_identity),
        "agentRuntimeVersion": str(receipt.version),
        "status": receipt.status.value,
        "createdAt": receipt.created_at,
        "lastUpdatedAt": receipt.updated_at,
    }


def _summary(scope: Scope, row: RuntimeSummary) -> dict[str, Any]:
    return {
        "agentRuntimeArn": str(arns.AgentRuntimeArn(scope.region, scope.account, row.runtime_id)),
        "agentRuntimeId": row.runtime_id,
        "agentRuntimeVersion": str(row.latest_version),
        "agentRuntimeName": row.name,
        # Required in the output's model, optional in the input's (spec section 3.3).
        "description": row.description or "",
        "lastUpdatedAt": row.updated_at,
        "status": row.status.value,
    }
