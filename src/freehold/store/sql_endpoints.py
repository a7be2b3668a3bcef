"""The store's verbs for endpoints, in SQL.

Not for DEFAULT's moves, which are part of its runtime's (`store.sql`). Invariant: an endpoint serves a version only if
that is READY; its status is derived, never kept, but for that it is being deleted.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from freehold.domain.errors import Conflict, NotFound, QuotaExceeded
from freehold.domain.runtimes import DEFAULT_ENDPOINT, RuntimeStatus, check_transition, endpoint_status
from freehold.store import schema, statements, steps
from freehold.store.base import (
    Endpoint,
    EndpointKey,
    EndpointPosition,
    EndpointReceipt,
    NewEndpoint,
    Once,
    RuntimeKey,
    Scope,
)

NAME_TAKEN: Final = "An endpoint with the specified name already exists"
DEFAULT_STAYS: Final = "Default endpoints are removed when you delete the agent"
"""The service's words (spec section 3.5)."""
DEFAULT_FOLLOWS: Final = "The DEFAULT endpoint follows the agent runtime's latest version and can't be updated"

_S = RuntimeStatus
_FAILED: Final = (_S.CREATE_FAILED, _S.UPDATE_FAILED, _S.DELETE_FAILED)
_E = schema.endpoints.c


class EndpointVerbs(steps.Verbs):
    """A part of `store.base.Store`; see there for what each verb promises."""

    def create_endpoint(
        self, key: RuntimeKey, new: NewEndpoint, *, once: Once | None, max_endpoints: int, now: datetime
    ) -> EndpointReceipt:
        with self._write() as db:
            if (first := steps.replay(db, key.scope, once, now, EndpointReceipt)) is not None:
                return first
            runtime = steps.get_runtime(db, key)
            if runtime.status in (_S.DELETING, _S.DELETE_FAILED):
                raise Conflict(f"Agent runtime is in status {runtime.status} and can't get endpoints")
            names = set(db.scalars(sa.select(_E.name).where(*steps.of_runtime(_E, key))))
            if new.name in names:
                raise Conflict(NAME_TAKEN)
            if len(names - {DEFAULT_ENDPOINT}) >= max_endpoints:
                raise QuotaExceeded(f"The agent runtime has reached the maximum of {max_endpoints} endpoints")
            version = runtime.latest_version if new.version is None else new.version
            live = _live(db, key, version, before=None)
            row: dict[str, Any] = {
                **steps.key_columns(key),
                "name": new.name,
                "live_version": live,
                "target_version": version,
                "description": new.description,
                "created_at": now,
                "updated_at": now,
            }
            statements.INSERT_ENDPOINT.run(db, row)
            steps.insert_tags(db, key.scope, new.arn, new.tags)
            receipt = EndpointReceipt(key.runtime_id, new.name, None, version, _S.CREATING, now, now)
            steps.remember(db, key.scope, once, receipt, now)
            return receipt

    def update_endpoint(
        self, key: EndpointKey, *, version: int | None, description: str | None, once: Once | None, now: datetime
    ) -> EndpointReceipt:
        scope = key.runtime.scope
        with self._write() as db:
            if (first := steps.replay(db, scope, once, now, EndpointReceipt)) is not None:
                return first
            found = _get(db, key)
            if key.name == DEFAULT_ENDPOINT:
                raise Conflict(DEFAULT_FOLLOWS)
            check_transition(found.status, _S.UPDATING, what="The endpoint")
            target = found.target_version if version is None else version
            values: dict[str, Any] = {
                "live_version": _live(db, key.runtime, target, before=found.live_version),
                "target_version": target,
                "updated_at": now,
            }
            if description is not None:
                values["description"] = description
            _set(db, key, **values)
            receipt = EndpointReceipt(
                key.runtime.runtime_id, key.name, found.live_version, target, _S.UPDATING, found.created_at, now
            )
            steps.remember(db, scope, once, receipt, now)
            return receipt

    def begin_delete_endpoint(self, key: EndpointKey, *, once: Once | None, now: datetime) -> EndpointReceipt:
        scope = key.runtime.scope
        with self._write() as db:
            if (first := steps.replay(db, scope, once, now, EndpointReceipt)) is not None:
                return first
            found = _get(db, key)
            if key.name == DEFAULT_ENDPOINT:
                raise Conflict(DEFAULT_STAYS)
            check_transition(found.status, _S.DELETING, what="The endpoint")
            _set(db, key, deleting_at=now, failure_reason=None, updated_at=now)
            receipt = EndpointReceipt(
                key.runtime.runtime_id,
                key.name,
                found.live_version,
                found.target_version,
                _S.DELETING,
                found.created_at,
                now,
            )
            steps.remember(db, scope, once, receipt, now)
            return receipt

    def get_endpoint(self, key: EndpointKey) -> Endpoint:
        with self._read() as db:
            return _get(db, key)

    def list_endpoints(self, key: RuntimeKey, *, after: EndpointPosition | None, limit: int) -> list[Endpoint]:
        query, asked = statements.ENDPOINTS, {**statements.key_parameters(key), "of_limit": limit}
        if after is not None:
            query = statements.ENDPOINTS_AFTER
            asked |= {"of_after": after.created_at, "of_name": after.name}
        with self._read() as db:
            steps.get_runtime(db, key)
            return [_endpoint(row) for row in query.rows(db, asked)]

    def deleting_endpoints(self) -> list[EndpointKey]:
        query = (
            sa.select(_E.account, _E.region, _E.runtime_id, _E.name)
            .where(_E.deleting_at.is_not(None), _E.failure_reason.is_(None))
            .order_by(_E.deleting_at)
        )
        with self._read() as db:
            return [EndpointKey(RuntimeKey(Scope(r[0], r[1]), r[2]), r[3]) for r in db.execute(query)]

    def endpoint_delete_failed(self, key: EndpointKey, *, reason: str, now: datetime) -> None:
        with self._write() as db:
            check_transition(_get(db, key).status, _S.DELETE_FAILED, what="The endpoint")
            _set(db, key, failure_reason=reason, updated_at=now)

    def remove_endpoint(self, key: EndpointKey) -> None:
        scope = key.runtime.scope
        with self._write() as db:
            found = _get(db, key)
            if found.status is not _S.DELETING or key.name == DEFAULT_ENDPOINT:
                raise Conflict(f"The endpoint is in status {found.status}, not being deleted")
            runtime_arn = db.scalar(
                sa.select(schema.agent_runtimes.c.arn).where(*steps.of_runtime(schema.agent_runtimes.c, key.runtime))
            )
            steps.forget_resource(db, scope, f"{runtime_arn}/runtime-endpoint/{key.name}")
            db.execute(schema.endpoints.delete().where(*_of(key)))


def _of(key: EndpointKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (*steps.of_runtime(_E, key.runtime), _E.name == key.name)


def _get(db: sa.Connection, key: EndpointKey) -> Endpoint:
    row = statements.ENDPOINT_NAMED.first(db, {**statements.key_parameters(key.runtime), "of_name": key.name})
    if row is None:
        steps.get_runtime(db, key.runtime)
        raise NotFound(f"No endpoint found with the specified name for agent runtime {key.runtime.runtime_id}")
    return _endpoint(row)


def _set(db: sa.Connection, key: EndpointKey, **values: Any) -> None:
    db.execute(schema.endpoints.update().where(*_of(key)).values(**values))


def _endpoint(row: Any) -> Endpoint:
    """From a row of `statements.ENDPOINTS`."""
    name, live, target, description, deleting_at, delete_failure, created_at, updated_at, runtime, version, why = row
    reason: str | None
    if deleting_at is not None:
        status, reason = (_S.DELETING, None) if delete_failure is None else (_S.DELETE_FAILED, delete_failure)
    else:
        status = endpoint_status(
            live_version=live,
            target_version=target,
            target=RuntimeStatus(version),
            runtime=RuntimeStatus(runtime),
        )
        reason = why if status in _FAILED else None
    return Endpoint(name, live, target, description, status, reason, created_at, updated_at)


def _live(db: sa.Connection, key: RuntimeKey, version: int, *, before: int | None) -> int | None:
    """What an endpoint serves that is to serve `version`: that, or while it is prepared what it served before.

    Raises NotFound, and Conflict for a version that failed.
    """
    status = steps.get_version(db, key, version).status
    if status in _FAILED:
        raise Conflict(f"Version {version} is in status {status} and can't be served")
    return version if status is _S.READY else before
