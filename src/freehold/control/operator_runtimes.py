"""Agent runtimes as an operator sees them: the list, and one with what AWS would do otherwise.

Not for changing them, which is the AWS API's. Blocking: for worker threads.
"""

from __future__ import annotations

from typing import Any, Final

from freehold.control import configuration, parity, runtimes
from freehold.control.operator_queries import RUNTIME_ID, Query, refusal
from freehold.domain import arns
from freehold.store.base import RuntimeKey, Scope
from freehold.warden import log_files

MAX_PAGE: Final = 100


def page(context: runtimes.Context, scope: Scope, query: Query) -> dict[str, Any]:
    """`runtimes`, and `nextToken` when there are more."""
    rows, token = runtimes.page(
        context, scope, query.number("maxResults", at_least=1, at_most=MAX_PAGE), query.text("nextToken")
    )
    live = context.store.live_versions(scope, [row.runtime_id for row in rows])
    lines = [
        {
            "runtimeId": row.runtime_id,
            "name": row.name,
            "arn": str(arns.AgentRuntimeArn(scope.region, scope.account, row.runtime_id)),
            "status": row.status.value,
            "latestVersion": row.latest_version,
            "liveVersion": live.get(row.runtime_id),
            "createdAt": row.created_at,
            "updatedAt": row.updated_at,
        }
        for row in rows
    ]
    return {"runtimes": lines} if token is None else {"runtimes": lines, "nextToken": token}


def show(
    context: runtimes.Context, scope: Scope, runtime_id: str, here: parity.Here, holds_bucket: parity.HoldsBucket
) -> dict[str, Any]:
    """One runtime, its latest version and its warnings. Environment variables are named, their values never shown."""
    if not RUNTIME_ID.fullmatch(runtime_id):
        raise refusal("runtimeId", "must be the id of an agent runtime: <name>-<10 letters or digits>")
    key = RuntimeKey(scope, runtime_id)
    runtime, version = context.store.get_runtime(key)
    endpoint = context.store.resolve_endpoint(key, "DEFAULT")
    artifact = configuration.artifact_of(version.configuration)
    protocol, port = configuration.protocol_of(version.configuration)
    idle_timeout_s, max_lifetime_s = configuration.lifecycle_of(version.configuration)
    warnings = parity.warnings(version.configuration, here, bucket_is_local=holds_bucket(artifact.source.bucket))
    return {
        "runtimeId": runtime_id,
        "name": runtime.name,
        "arn": str(arns.AgentRuntimeArn(scope.region, scope.account, runtime_id)),
        "status": runtime.status.value,
        "failureReason": runtime.failure_reason,
        "latestVersion": runtime.latest_version,
        "liveVersion": None if endpoint is None else endpoint.live_version,
        "createdAt": runtime.created_at,
        "updatedAt": runtime.updated_at,
        "version": {
            "version": version.version,
            "status": version.status.value,
            "failureReason": version.failure_reason,
            "sha256": version.digest,
            "bucket": artifact.source.bucket,
            "key": artifact.source.key,
            "versionId": artifact.source.version_id,
            "runtime": artifact.runtime,
            "entryPoint": list(artifact.entry_point),
            "protocol": protocol.value,
            "port": port,
            "idleTimeoutSeconds": idle_timeout_s,
            "maxLifetimeSeconds": max_lifetime_s,
            "roleArn": version.configuration["roleArn"],
            "environmentVariables": sorted(version.configuration.get("environmentVariables") or {}),
        },
        "logGroups": [log_files.log_group_of(runtime_id, "DEFAULT")],
        "parityWarnings": [warning.document() for warning in warnings],
    }
