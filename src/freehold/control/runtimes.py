"""CreateAgentRuntime, GetAgentRuntime, UpdateAgentRuntime, DeleteAgentRuntime, ListAgentRuntimes.

Not for the wire (`control.app`), nor for what a configuration may say (`control.configuration`), nor for the other
resources, each of which has a module of its own (`control.operations` lists them). Invariant: an operation returns only
what the store has kept.
"""

from __future__ import annotations

import contextlib
import secrets
import string
from collections.abc import Generator
from typing import Any, Final

from freehold.artifacts.base import ArtifactRejected, Prepared
from freehold.control import authorizers, configuration
from freehold.control.context import DEFAULT_PAGE, Context, Operation, Outcome, Params, once
from freehold.domain import arns
from freehold.domain.errors import FieldProblem, ValidationFailed
from freehold.domain.runtimes import RuntimeStatus
from freehold.store.base import (
    NewRuntime,
    NewVersion,
    Once,
    Position,
    Ready,
    Receipt,
    RuntimeKey,
    RuntimeRow,
    RuntimeSummary,
    Scope,
)

_SUFFIX_LENGTH: Final = 10
_SUFFIX_ALPHABET: Final = string.ascii_letters + string.digits


# -- the operations -----------------------------------------------------------------------------------------------


def create(context: Context, scope: Scope, params: Params) -> Outcome:
    """A new agent runtime in CREATING; READY at once if its code is prepared already, else the reconciler goes on."""
    normal = configuration.normalise(params, context.reach)
    asked = once("CreateAgentRuntime", params)
    name: str = params["agentRuntimeName"]
    key = RuntimeKey(scope, f"{name}-{_suffix()}")
    with _artifact(context, scope, normal, asked) as found:
        if isinstance(found, Receipt):
            receipt = found
        else:
            new = NewRuntime(
                runtime_id=key.runtime_id,
                name=name,
                arn=str(arns.AgentRuntimeArn(scope.region, scope.account, key.runtime_id)),
                workload_identity=key.runtime_id,
                version=_new_version(params, normal, _ready(key, name, normal, found)),
                tags=dict(params.get("tags") or {}),
            )
            receipt = context.store.create_runtime(
                scope, new, once=asked, max_runtimes=context.max_runtimes, now=context.now()
            )
    output = _changed_output(scope, receipt)
    del output["lastUpdatedAt"]
    work = None if isinstance(found, Prepared) else RuntimeKey(scope, receipt.runtime_id)
    return Outcome(output, work=work)


def update(context: Context, scope: Scope, params: Params) -> Outcome:
    """The next version in UPDATING; DEFAULT keeps serving the one before until the new one is READY.

    That is at once if its code is prepared already; else the reconciler goes on.
    """
    normal = configuration.normalise(params, context.reach)
    asked = once("UpdateAgentRuntime", params)
    key = RuntimeKey(scope, params["agentRuntimeId"])
    with _artifact(context, scope, normal, asked) as found:
        if isinstance(found, Receipt):
            receipt = found
        else:
            name, _, _ = key.runtime_id.rpartition("-")
            version = _new_version(params, normal, _ready(key, name, normal, found))
            receipt = context.store.update_runtime(
                key, version, once=asked, max_versions=context.max_versions, now=context.now()
            )
    return Outcome(_changed_output(scope, receipt), work=None if isinstance(found, Prepared) else key)


def get(context: Context, scope: Scope, params: Params) -> Outcome:
    """The runtime with its latest version, or with the one asked for."""
    asked = params.get("agentRuntimeVersion")
    key = RuntimeKey(scope, params["agentRuntimeId"])
    runtime, version = context.store.get_runtime(key, None if asked is None else int(asked))
    status = version_status(runtime, version.version, version.status)
    whole = _is_whole(runtime, version.version)
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
    if reason:
        # Also of a READY version whose code is no longer there (`control.launches`), which AWS does not know.
        output["failureReason"] = reason
    return Outcome(output, shown=(key.runtime_id,))


def delete(context: Context, scope: Scope, params: Params) -> Outcome:
    """The whole runtime in DELETING, without a route from here on; or one version that no endpoint uses."""
    key = RuntimeKey(scope, params["agentRuntimeId"])
    repeated = once("DeleteAgentRuntime", params)
    asked = params.get("agentRuntimeVersion")
    now = context.now()
    if asked is None:
        context.store.begin_delete(key, once=repeated, now=now)
        output = {"agentRuntimeId": key.runtime_id, "status": RuntimeStatus.DELETING.value}
        return Outcome(output, work=key)
    context.store.delete_version(key, int(asked), keep=configuration.CONTRACT_MEMBERS, once=repeated, now=now)
    output = {
        "agentRuntimeId": key.runtime_id,
        "agentRuntimeVersion": asked,
        "status": RuntimeStatus.DELETING.value,
    }
    return Outcome(output)


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """One page of runtimes, oldest first: new ones never shift a page already read."""
    rows, token = page(context, scope, params.get("maxResults"), params.get("nextToken"))
    lines = [context.lines.of(scope, row) for row in rows]
    output: dict[str, Any] = {"agentRuntimes": lines}
    if token is not None:
        output["nextToken"] = token
    return Outcome(output, shown=tuple([row.runtime_id for row in rows]))


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


def version_status(runtime: RuntimeRow, version: int, own: RuntimeStatus) -> RuntimeStatus:
    """What a version's status is called: that of the whole runtime for the latest, or once the runtime goes."""
    return runtime.status if _is_whole(runtime, version) else own


# -- parts --------------------------------------------------------------------------------------------------------


def _suffix() -> str:
    """Letters and digits that can't be guessed, each as likely as any; from one call of the system."""
    fair = len(_SUFFIX_ALPHABET) * (256 // len(_SUFFIX_ALPHABET))
    drawn = ""
    while len(drawn) < _SUFFIX_LENGTH:
        drawn += "".join(
            _SUFFIX_ALPHABET[byte % len(_SUFFIX_ALPHABET)] for byte in secrets.token_bytes(16) if byte < fair
        )
    return drawn[:_SUFFIX_LENGTH]


def _is_whole(runtime: RuntimeRow, version: int) -> bool:
    return version == runtime.latest_version or runtime.status in (RuntimeStatus.DELETING, RuntimeStatus.DELETE_FAILED)


def _new_version(params: Params, normal: dict[str, Any], ready: Ready | None) -> NewVersion:
    received = {name: value for name, value in params.items() if name not in ("clientToken", "tags")}
    return NewVersion(received, normal, params.get("description"), ready)


def _ready(key: RuntimeKey, name: str, normal: dict[str, Any], prepared: Prepared | None) -> Ready | None:
    if prepared is None:
        return None
    return Ready(prepared.digest, configuration.launch_of(key, name, normal, prepared, version=0))


@contextlib.contextmanager
def _artifact(
    context: Context, scope: Scope, normal: dict[str, Any], asked: Once | None
) -> Generator[Prepared | Receipt | None]:
    """The artifact's bundle if there is one already, held meanwhile; objects that can't be read are refused.

    But a call that is only repeated gets the receipt of its first time.
    """
    prepared: Prepared | None = None
    try:
        refusal = _unreadable_certificate(context, normal)
        if refusal is None:
            try:
                prepared = context.preparer.look(configuration.artifact_of(normal))
            except ArtifactRejected as rejected:
                refusal = _unreadable_code(normal, rejected)
        if refusal is None:
            yield prepared
        elif asked is not None and (receipt := context.store.replayed(scope, asked, now=context.now())) is not None:
            yield receipt
        else:
            raise refusal
    finally:
        if prepared is not None:
            context.preparer.release(prepared)


def _unreadable_code(normal: dict[str, Any], rejected: ArtifactRejected) -> ValidationFailed:
    source = configuration.artifact_of(normal).source
    return ValidationFailed(
        f"The code artifact s3://{source.bucket}/{source.key} can't be read: {rejected}",
        fields=(FieldProblem("agentRuntimeArtifact.codeConfiguration.code.s3", str(rejected)),),
    )


def _unreadable_certificate(context: Context, normal: dict[str, Any]) -> ValidationFailed | None:
    authorizer = authorizers.of(normal)
    certificate = None if authorizer is None else authorizers.certificate_of(authorizer)
    if certificate is None:
        return None
    try:
        if context.certificates is None:
            raise ArtifactRejected("This server reads no certificates.")
        context.certificates.load(*certificate)
    except ArtifactRejected as rejected:
        member = f"{authorizers.MEMBER}.customJWTAuthorizer.certificateConfigurations.1.member.s3.uri"
        return ValidationFailed(
            f"1 validation error detected: at '{member}': {rejected}", fields=(FieldProblem(member, str(rejected)),)
        )
    return None


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
