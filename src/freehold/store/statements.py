"""The statements that every request runs, built once: building one costs more than running it.

Not for the rest, which its verb writes where it is used. Invariant: parameters are named `of_…`, so that none is
taken for a column's new value.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from freehold.domain.runtimes import DEFAULT_ENDPOINT, RuntimeStatus
from freehold.store import schema
from freehold.store.base import RuntimeKey, Scope

_R, _V, _E, _T = schema.agent_runtimes.c, schema.versions.c, schema.endpoints.c, schema.client_tokens.c
_Columns = sa.ColumnCollection[str, sa.Column[Any]]
_Condition = sa.ColumnElement[bool]


def scope_parameters(scope: Scope) -> dict[str, Any]:
    return {"of_account": scope.account, "of_region": scope.region}


def key_parameters(key: RuntimeKey) -> dict[str, Any]:
    return {**scope_parameters(key.scope), "of_runtime": key.runtime_id}


def same_runtime(c: _Columns) -> tuple[_Condition, _Condition, _Condition]:
    """That a row of another table belongs to the row of `agent_runtimes`."""
    return c.account == _R.account, c.region == _R.region, c.runtime_id == _R.runtime_id


def _in_scope(c: _Columns) -> tuple[_Condition, _Condition]:
    return c.account == sa.bindparam("of_account"), c.region == sa.bindparam("of_region")


def _of_runtime(c: _Columns) -> tuple[_Condition, _Condition, _Condition]:
    return (*_in_scope(c), c.runtime_id == sa.bindparam("of_runtime"))


_runtime_columns = (
    _R.name,
    _R.status,
    _R.failure_reason,
    _R.latest_version,
    _R.workload_identity,
    _R.created_at,
    _R.updated_at,
)
_version_columns = (
    _V.version,
    _V.status,
    _V.failure_reason,
    _V.received,
    _V.configuration,
    _V.digest,
    _V.created_at,
    _V.updated_at,
)

RUNTIME = sa.select(*_runtime_columns).where(*_of_runtime(_R))
VERSION = sa.select(*_version_columns).where(
    *_of_runtime(_V), _V.version == sa.bindparam("of_version"), _V.deleted_at.is_(None)
)
RUNTIME_NAMED = sa.select(_R.runtime_id).where(*_in_scope(_R), _R.name == sa.bindparam("of_name"))
COUNT_RUNTIMES = sa.select(sa.func.count()).select_from(schema.agent_runtimes).where(*_in_scope(_R))

TOKEN = sa.select(_T.parameters_digest, _T.receipt).where(
    *_in_scope(_T),
    _T.operation == sa.bindparam("of_operation"),
    _T.token == sa.bindparam("of_token"),
    _T.expires_at > sa.bindparam("of_now", type_=schema.UtcDateTime()),
)
FORGET_TOKENS = schema.client_tokens.delete().where(_T.expires_at <= sa.bindparam("of_now", type_=schema.UtcDateTime()))

ENDPOINT = (
    sa.select(_E.name, _E.live_version, _E.target_version)
    .join(schema.agent_runtimes, sa.and_(*same_runtime(_E)))
    .join(schema.versions, sa.and_(*same_runtime(_V), _V.version == _E.live_version))
    .where(
        *_of_runtime(_E),
        _E.name == sa.bindparam("of_name"),
        _V.status == RuntimeStatus.READY,
        _V.deleted_at.is_(None),
        _E.deleting_at.is_(None),
        _R.status.not_in((RuntimeStatus.DELETING, RuntimeStatus.DELETE_FAILED)),
    )
)

_ENDPOINTS = (
    sa.select(
        _E.name,
        _E.live_version,
        _E.target_version,
        _E.description,
        _E.deleting_at,
        _E.failure_reason,
        _E.created_at,
        _E.updated_at,
        _R.status,
        _V.status,
        _V.failure_reason,
    )
    .select_from(schema.endpoints)
    .join(schema.agent_runtimes, sa.and_(*same_runtime(_E)))
    .join(schema.versions, sa.and_(*same_runtime(_V), _V.version == _E.target_version))
    .where(*_of_runtime(_E))
)
ENDPOINT_NAMED = _ENDPOINTS.where(_E.name == sa.bindparam("of_name"))
ENDPOINTS = _ENDPOINTS.order_by(_E.created_at, _E.name).limit(sa.bindparam("of_limit", type_=sa.Integer()))
ENDPOINTS_AFTER = ENDPOINTS.where(
    sa.or_(
        _E.created_at > sa.bindparam("of_after", type_=schema.UtcDateTime()),
        sa.and_(
            _E.created_at == sa.bindparam("of_after", type_=schema.UtcDateTime()),
            _E.name > sa.bindparam("of_name"),
        ),
    )
)

VERSIONS = (
    sa.select(_V.version, _V.status, _V.description, _V.updated_at)
    .where(*_of_runtime(_V), _V.deleted_at.is_(None), _V.version > sa.bindparam("of_after", type_=sa.Integer()))
    .order_by(_V.version)
    .limit(sa.bindparam("of_limit", type_=sa.Integer()))
)

RUNTIMES = (
    sa.select(
        _R.runtime_id,
        _R.name,
        _R.status,
        _R.latest_version,
        _E.live_version,
        _V.description,
        _R.created_at,
        _R.updated_at,
    )
    .select_from(schema.agent_runtimes)
    .join(schema.versions, sa.and_(*same_runtime(_V), _V.version == _R.latest_version))
    .join(schema.endpoints, sa.and_(*same_runtime(_E), _E.name == DEFAULT_ENDPOINT))
    .where(*_in_scope(_R))
    .order_by(_R.created_at, _R.runtime_id)
    .limit(sa.bindparam("of_limit", type_=sa.Integer()))
)
_AFTER = sa.bindparam("of_after", type_=schema.UtcDateTime())
RUNTIMES_AFTER = RUNTIMES.where(
    sa.or_(
        _R.created_at > _AFTER,
        sa.and_(_R.created_at == _AFTER, _R.runtime_id > sa.bindparam("of_runtime")),
    )
)
