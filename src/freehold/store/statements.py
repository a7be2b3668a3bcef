"""The statements that every request runs, built and compiled once: either costs more than running one.

Not for the rest, which its verb writes where it is used. Invariant: parameters are named `of_…`, and `to_…` where they
are a column's new value; those of an INSERT are its columns.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from freehold.domain.runtimes import DEFAULT_ENDPOINT, RuntimeStatus
from freehold.store import schema
from freehold.store.base import RuntimeKey, Scope
from freehold.store.compiled import Compiled

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


def _to(*columns: sa.Column[Any]) -> dict[str, Any]:
    """New values of columns."""
    return {column.name: sa.bindparam(f"to_{column.name}", type_=column.type) for column in columns}


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

RUNTIME = Compiled(sa.select(*_runtime_columns).where(*_of_runtime(_R)))
VERSION = Compiled(
    sa.select(*_version_columns).where(
        *_of_runtime(_V), _V.version == sa.bindparam("of_version"), _V.deleted_at.is_(None)
    )
)
RUNTIME_NAMED = Compiled(sa.select(_R.runtime_id).where(*_in_scope(_R), _R.name == sa.bindparam("of_name")))
COUNT_RUNTIMES = Compiled(sa.select(sa.func.count()).select_from(schema.agent_runtimes).where(*_in_scope(_R)))
COUNT_VERSIONS = Compiled(
    sa.select(sa.func.max(_V.version), sa.func.count().filter(_V.deleted_at.is_(None)))
    .select_from(schema.versions)
    .where(*_of_runtime(_V))
)
"""The highest version that there ever was (None: there is none), and how many there are."""

INSERT_RUNTIME = Compiled(schema.agent_runtimes.insert())
INSERT_VERSION = Compiled(schema.versions.insert())
INSERT_ENDPOINT = Compiled(schema.endpoints.insert())
INSERT_IDENTITY = Compiled(schema.workload_identities.insert())
INSERT_TAG = Compiled(schema.tags.insert())
INSERT_TOKEN = Compiled(schema.client_tokens.insert())

SET_RUNTIME = Compiled(
    schema.agent_runtimes.update().where(*_of_runtime(_R)).values(_to(_R.status, _R.failure_reason, _R.updated_at))
)
SET_LATEST = Compiled(schema.agent_runtimes.update().where(*_of_runtime(_R)).values(_to(_R.latest_version)))
SET_TARGET = Compiled(
    schema.endpoints.update()
    .where(*_of_runtime(_E), _E.name == DEFAULT_ENDPOINT)
    .values(_to(_E.target_version, _E.updated_at))
)
SET_VERSION_READY = Compiled(
    schema.versions.update()
    .where(*_of_runtime(_V), _V.version == sa.bindparam("of_version"))
    .values(_to(_V.digest, _V.launch, _V.updated_at) | {"status": RuntimeStatus.READY, "failure_reason": sa.null()})
)
SERVE_VERSION = Compiled(
    schema.endpoints.update()
    .where(*_of_runtime(_E), _E.target_version == sa.bindparam("of_version"))
    .values(_to(_E.live_version, _E.updated_at))
)

TOKEN = Compiled(
    sa.select(_T.parameters_digest, _T.receipt).where(
        *_in_scope(_T),
        _T.operation == sa.bindparam("of_operation"),
        _T.token == sa.bindparam("of_token"),
        _T.expires_at > sa.bindparam("of_now", type_=schema.UtcDateTime()),
    )
)
FORGET_TOKENS = Compiled(
    schema.client_tokens.delete().where(_T.expires_at <= sa.bindparam("of_now", type_=schema.UtcDateTime()))
)

ENDPOINT = Compiled(
    sa.select(_E.name, _E.live_version, _E.target_version)
    .join(schema.agent_runtimes, sa.and_(*same_runtime(_E)))
    .join(schema.versions, sa.and_(*same_runtime(_V), _V.version == _E.live_version))
    .where(
        *_of_runtime(_E),
        _E.name == sa.bindparam("of_name"),
        _V.status == RuntimeStatus.READY,
        _V.deleted_at.is_(None),
        _E.deleting_at.is_(None),
        _R.status != RuntimeStatus.DELETING,
        _R.status != RuntimeStatus.DELETE_FAILED,
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
_AFTER = sa.bindparam("of_after", type_=schema.UtcDateTime())
_LIMIT = sa.bindparam("of_limit", type_=sa.Integer())
_IN_ORDER = _ENDPOINTS.order_by(_E.created_at, _E.name).limit(_LIMIT)
ENDPOINT_NAMED = Compiled(_ENDPOINTS.where(_E.name == sa.bindparam("of_name")))
ENDPOINTS = Compiled(_IN_ORDER)
ENDPOINTS_AFTER = Compiled(
    _IN_ORDER.where(
        sa.or_(
            _E.created_at > _AFTER,
            sa.and_(_E.created_at == _AFTER, _E.name > sa.bindparam("of_name")),
        )
    )
)

VERSIONS = Compiled(
    sa.select(_V.version, _V.status, _V.description, _V.updated_at)
    .where(*_of_runtime(_V), _V.deleted_at.is_(None), _V.version > sa.bindparam("of_after", type_=sa.Integer()))
    .order_by(_V.version)
    .limit(_LIMIT)
)

_RUNTIMES = (
    sa.select(_R.runtime_id, _R.name, _R.status, _R.latest_version, _R.created_at, _R.updated_at)
    .where(*_in_scope(_R))
    .order_by(_R.created_at, _R.runtime_id)
    .limit(_LIMIT)
)
_AFTER_RUNTIME = sa.or_(
    _R.created_at > _AFTER, sa.and_(_R.created_at == _AFTER, _R.runtime_id > sa.bindparam("of_runtime"))
)
RUNTIMES = Compiled(_RUNTIMES)
RUNTIMES_AFTER = Compiled(_RUNTIMES.where(_AFTER_RUNTIME))

_DESCRIPTIONS = _RUNTIMES.join_from(
    schema.agent_runtimes, schema.versions, sa.and_(*same_runtime(_V), _V.version == _R.latest_version)
).with_only_columns(_R.runtime_id, _V.description)
DESCRIPTIONS = Compiled(_DESCRIPTIONS)
DESCRIPTIONS_AFTER = Compiled(_DESCRIPTIONS.where(_AFTER_RUNTIME))
"""Of the latest versions of the runtimes that RUNTIMES, RUNTIMES_AFTER list: most of what a listing would take."""
DESCRIPTION = Compiled(
    sa.select(_V.description).where(*_of_runtime(_V), _V.version == sa.bindparam("of_version", type_=sa.Integer()))
)
