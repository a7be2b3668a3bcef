"""Pieces of the store's transactions: conditions on keys, and steps that several verbs share.

Not for verbs (`store.sql`). Invariant: a function that takes a connection runs within its caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from freehold.domain.errors import Conflict, NotFound, ValidationFailed
from freehold.domain.runtimes import RuntimeStatus, check_transition
from freehold.store import schema, statements
from freehold.store.base import (
    CLIENT_TOKEN_LIFETIME,
    AccessKeyRow,
    NewVersion,
    Once,
    Receipt,
    RuntimeKey,
    RuntimeRow,
    Scope,
    VersionRow,
)

_R = schema.agent_runtimes.c

# -- pieces of statements ---------------------------------------------------------------------------------------------

_Columns = sa.ColumnCollection[str, sa.Column[Any]]
_Condition = sa.ColumnElement[bool]


def in_scope(c: _Columns, scope: Scope) -> tuple[_Condition, _Condition]:
    return c.account == scope.account, c.region == scope.region


def of_runtime(c: _Columns, key: RuntimeKey) -> tuple[_Condition, _Condition, _Condition]:
    return (*in_scope(c, key.scope), c.runtime_id == key.runtime_id)


def key_columns(key: RuntimeKey) -> dict[str, str]:
    return {"account": key.scope.account, "region": key.scope.region, "runtime_id": key.runtime_id}


# -- steps within a transaction ---------------------------------------------------------------------------------------


def no_runtime(key: RuntimeKey) -> str:
    return f"No agent runtime found with id {key.runtime_id}"


def get_runtime(db: sa.Connection, key: RuntimeKey) -> RuntimeRow:
    row = db.execute(statements.RUNTIME, statements.key_parameters(key)).first()
    if row is None:
        raise NotFound(no_runtime(key))
    return RuntimeRow(key, row[0], RuntimeStatus(row[1]), row[2], row[3], row[4], row[5], row[6])


def get_version(db: sa.Connection, key: RuntimeKey, version: int) -> VersionRow:
    row = db.execute(statements.VERSION, {**statements.key_parameters(key), "of_version": version}).first()
    if row is None:
        raise NotFound(f"No version {version} found for agent runtime {key.runtime_id}")
    return VersionRow(row[0], RuntimeStatus(row[1]), row[2], row[3], row[4], row[5], row[6], row[7])


def check_current(db: sa.Connection, key: RuntimeKey, version: int, target: RuntimeStatus) -> None:
    runtime = get_runtime(db, key)
    check_transition(runtime.status, target)
    if runtime.latest_version != version:
        raise Conflict(f"Version {version} has been overtaken by version {runtime.latest_version}")


def set_runtime(db: sa.Connection, key: RuntimeKey, **values: Any) -> None:
    db.execute(schema.agent_runtimes.update().where(*of_runtime(_R, key)).values(**values))


def insert_version(
    db: sa.Connection,
    key: RuntimeKey,
    number: int,
    status: RuntimeStatus,
    new: NewVersion,
    now: datetime,
) -> None:
    row = {
        **key_columns(key),
        "version": number,
        "status": status,
        "description": new.description,
        "received": new.received,
        "configuration": new.configuration,
        "created_at": now,
        "updated_at": now,
    }
    db.execute(schema.versions.insert(), row)


def replay(db: sa.Connection, scope: Scope, once: Once | None, now: datetime) -> Receipt | None:
    if once is None:
        return None
    asked = {"of_operation": once.operation, "of_token": once.token, "of_now": now}
    row = db.execute(statements.TOKEN, {**statements.scope_parameters(scope), **asked}).first()
    if row is None:
        return None
    if row[0] != once.parameters_digest:
        raise ValidationFailed(
            "The client token was used before with other parameters",
            reason="IdempotentParameterMismatchException",
        )
    return msgspec.convert(row[1], Receipt)


def remember(db: sa.Connection, scope: Scope, once: Once | None, receipt: Receipt, now: datetime) -> None:
    if once is None:
        return
    # Expired ones go as new ones come, the present token's own predecessor among them.
    db.execute(statements.FORGET_TOKENS, {"of_now": now})
    row = {
        "account": scope.account,
        "region": scope.region,
        "operation": once.operation,
        "token": once.token,
        "parameters_digest": once.parameters_digest,
        "receipt": msgspec.to_builtins(receipt),
        "expires_at": now + CLIENT_TOKEN_LIFETIME,
    }
    db.execute(schema.client_tokens.insert(), row)


def access_key(row: Mapping[Any, Any]) -> AccessKeyRow:
    return AccessKeyRow(
        row["access_key_id"],
        Scope(row["account"], row["region"]),
        row["sealed_secret"],
        row["created_at"],
        row["disabled_at"],
    )
