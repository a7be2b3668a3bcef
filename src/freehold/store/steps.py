"""Pieces of the store's transactions: conditions on keys, and steps that several verbs share.

Not for verbs (`store.sql`). Invariant: a function that takes a connection runs within its caller's transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from freehold.domain.errors import Conflict, NotFound, ValidationFailed
from freehold.domain.runtimes import RuntimeStatus, check_transition
from freehold.store import schema, statements
from freehold.store.base import (
    CLIENT_TOKEN_LIFETIME,
    NO_RESOURCE,
    AccessKeyRow,
    EndpointReceipt,
    NewVersion,
    Once,
    Receipt,
    Resource,
    RuntimeKey,
    RuntimeRow,
    Scope,
    VersionRow,
)

_R, _V, _E = schema.agent_runtimes.c, schema.versions.c, schema.endpoints.c
_I, _T, _P = schema.workload_identities.c, schema.tags.c, schema.resource_policies.c

Connecting = Callable[[], AbstractContextManager[sa.Connection]]
AnyReceipt = TypeVar("AnyReceipt", Receipt, EndpointReceipt)


class Verbs:
    """What every group of verbs is made with: how to begin a transaction that reads, and one that writes."""

    def __init__(self, read: Connecting, write: Connecting) -> None:
        self._read = read
        self._write = write


# -- pieces of statements ---------------------------------------------------------------------------------------------

_Columns = sa.ColumnCollection[str, sa.Column[Any]]
_Condition = sa.ColumnElement[bool]


def in_scope(c: _Columns, scope: Scope) -> tuple[_Condition, _Condition]:
    return c.account == scope.account, c.region == scope.region


def of_runtime(c: _Columns, key: RuntimeKey) -> tuple[_Condition, _Condition, _Condition]:
    return (*in_scope(c, key.scope), c.runtime_id == key.runtime_id)


def of_ready(key: RuntimeKey, version: int) -> tuple[_Condition, ...]:
    """Of a version that can be started, or could be but for a fault."""
    return (
        *of_runtime(_V, key),
        _V.version == version,
        _V.status == RuntimeStatus.READY,
        _V.deleted_at.is_(None),
    )


def key_columns(key: RuntimeKey) -> dict[str, str]:
    return {"account": key.scope.account, "region": key.scope.region, "runtime_id": key.runtime_id}


# -- steps within a transaction ---------------------------------------------------------------------------------------


def no_runtime(key: RuntimeKey) -> str:
    return f"No agent runtime found with id {key.runtime_id}"


def get_runtime(db: sa.Connection, key: RuntimeKey) -> RuntimeRow:
    row = statements.RUNTIME.first(db, statements.key_parameters(key))
    if row is None:
        raise NotFound(no_runtime(key))
    return RuntimeRow(key, row[0], RuntimeStatus(row[1]), row[2], row[3], row[4], row[5], row[6])


def get_version(db: sa.Connection, key: RuntimeKey, version: int) -> VersionRow:
    row = statements.VERSION.first(db, {**statements.key_parameters(key), "of_version": version})
    if row is None:
        raise NotFound(f"No version {version} found for agent runtime {key.runtime_id}")
    return VersionRow(row[0], RuntimeStatus(row[1]), row[2], row[3], row[4], row[5], row[6], row[7])


def check_current(db: sa.Connection, key: RuntimeKey, version: int, target: RuntimeStatus) -> None:
    runtime = get_runtime(db, key)
    check_transition(runtime.status, target)
    if runtime.latest_version != version:
        raise Conflict(f"Version {version} has been overtaken by version {runtime.latest_version}")


def set_runtime(
    db: sa.Connection, key: RuntimeKey, status: RuntimeStatus, *, now: datetime, reason: str | None = None
) -> None:
    values = {"to_status": status, "to_failure_reason": reason, "to_updated_at": now}
    statements.SET_RUNTIME.run(db, {**statements.key_parameters(key), **values})


def set_fault(db: sa.Connection, key: RuntimeKey, version: int, reason: str | None) -> None:
    """Say why a READY version can't be started; on the runtime too, while it is READY with that version."""
    db.execute(schema.versions.update().where(*of_ready(key, version)).values(failure_reason=reason))
    db.execute(
        schema.agent_runtimes.update()
        .where(*of_runtime(_R, key), _R.status == RuntimeStatus.READY, _R.latest_version == version)
        .values(failure_reason=reason)
    )


def insert_version(
    db: sa.Connection,
    key: RuntimeKey,
    number: int,
    status: RuntimeStatus,
    new: NewVersion,
    now: datetime,
) -> None:
    ready: dict[str, Any] = {}
    if new.ready is not None:
        launch = dataclasses.replace(new.ready.launch, version=number)
        ready = {"digest": new.ready.digest, "launch": msgspec.to_builtins(launch)}
    row = {
        **key_columns(key),
        **ready,
        "version": number,
        "status": status,
        "description": new.description,
        "received": new.received,
        "configuration": new.configuration,
        "created_at": now,
        "updated_at": now,
    }
    statements.INSERT_VERSION.run(db, row)


def check_exists(db: sa.Connection, resource: Resource) -> None:
    """Raise NotFound unless the resource is there."""
    if resource.identity is not None:
        query = sa.select(_I.name).where(*in_scope(_I, resource.scope), _I.name == resource.identity)
    elif resource.endpoint is not None:
        query = sa.select(_E.name).where(
            *in_scope(_E, resource.scope), _E.runtime_id == resource.runtime_id, _E.name == resource.endpoint
        )
    else:
        query = sa.select(_R.name).where(*in_scope(_R, resource.scope), _R.runtime_id == resource.runtime_id)
    if db.execute(query).first() is None:
        raise NotFound(NO_RESOURCE)


def insert_tags(db: sa.Connection, scope: Scope, arn: str, tags: Mapping[str, str]) -> None:
    of = {"account": scope.account, "region": scope.region, "resource_arn": arn}
    for key, value in tags.items():
        statements.INSERT_TAG.run(db, {**of, "key": key, "value": value})


def forget_resource(db: sa.Connection, scope: Scope, arn: str) -> None:
    """Remove the tags and policies of a resource and of everything below it."""
    for table, c in ((schema.tags, _T), (schema.resource_policies, _P)):
        below = c.resource_arn.startswith(f"{arn}/", autoescape=True)
        db.execute(table.delete().where(*in_scope(c, scope), sa.or_(c.resource_arn == arn, below)))


def replay(
    db: sa.Connection, scope: Scope, once: Once | None, now: datetime, kind: type[AnyReceipt] = Receipt
) -> AnyReceipt | None:
    if once is None:
        return None
    asked = {"of_operation": once.operation, "of_token": once.token, "of_now": now}
    row = statements.TOKEN.first(db, {**statements.scope_parameters(scope), **asked})
    if row is None:
        return None
    if row[0] != once.parameters_digest:
        raise ValidationFailed(
            "The client token was used before with other parameters",
            reason="IdempotentParameterMismatchException",
        )
    return msgspec.convert(row[1], kind)


def remember(
    db: sa.Connection, scope: Scope, once: Once | None, receipt: Receipt | EndpointReceipt, now: datetime
) -> None:
    if once is None:
        return
    # Expired ones go as new ones come, the present token's own predecessor among them.
    statements.FORGET_TOKENS.run(db, {"of_now": now})
    row = {
        "account": scope.account,
        "region": scope.region,
        "operation": once.operation,
        "token": once.token,
        "parameters_digest": once.parameters_digest,
        "receipt": msgspec.to_builtins(receipt),
        "expires_at": now + CLIENT_TOKEN_LIFETIME,
    }
    statements.INSERT_TOKEN.run(db, row)


def access_key(row: Mapping[Any, Any]) -> AccessKeyRow:
    return AccessKeyRow(
        row["access_key_id"],
        Scope(row["account"], row["region"]),
        row["sealed_secret"],
        row["created_at"],
        row["disabled_at"],
    )
