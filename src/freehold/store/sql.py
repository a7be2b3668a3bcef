"""The store's verbs in SQL, the same for every database.

Not for connecting, locking or pragmas: the concrete store (`store.sqlite`) gives `_read` and `_write`. Invariant:
`_write` runs one transaction at a time, so that what a verb reads in it still holds when it writes.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec
import sqlalchemy as sa

from freehold.domain import arns, limits
from freehold.domain.errors import Conflict, NotFound, QuotaExceeded
from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import DEFAULT_ENDPOINT, RuntimeStatus, check_transition
from freehold.store import schema, statements, steps
from freehold.store.base import (
    NAME_TAKEN,
    EndpointRow,
    Json,
    NewRuntime,
    NewVersion,
    Once,
    Position,
    Receipt,
    RuntimeKey,
    RuntimeRow,
    RuntimeSummary,
    Scope,
    VersionRow,
    VersionSummary,
)
from freehold.store.listing import STATUSES, Listing
from freehold.store.sql_endpoints import EndpointVerbs
from freehold.store.sql_keys import KeyVerbs
from freehold.store.sql_resources import ResourceVerbs
from freehold.store.steps import Connecting

_S = RuntimeStatus
_R, _V, _E = schema.agent_runtimes.c, schema.versions.c, schema.endpoints.c
_I = schema.workload_identities.c
_UNFINISHED = (_S.CREATING, _S.UPDATING, _S.DELETING)
_SEAL = "vault seal"


class SqlStore(EndpointVerbs, KeyVerbs, ResourceVerbs):
    """Implements `store.base.Store`; see there for what each verb promises."""

    def __init__(self, read: Connecting, write: Connecting) -> None:
        super().__init__(read, write)
        self._listing = Listing()
        self._at_most: dict[Scope, int] = {}
        """How many runtimes a scope has, or more: nobody but `create_runtime` adds any, and counting takes as long as
        there are many. It is too high after deletions and after creations that were undone: then they are counted."""

    # -- changes of agent runtimes --------------------------------------------------------------------------------

    def create_runtime(
        self, scope: Scope, new: NewRuntime, *, once: Once | None, max_runtimes: int, now: datetime
    ) -> Receipt:
        with self._write() as db:
            if (first := steps.replay(db, scope, once, now)) is not None:
                return first
            within = statements.scope_parameters(scope)
            if statements.RUNTIME_NAMED.first(db, {**within, "of_name": new.name}) is not None:
                raise Conflict(NAME_TAKEN)
            at_most = self._at_most.get(scope, max_runtimes)
            if at_most >= max_runtimes:
                at_most = statements.COUNT_RUNTIMES.scalar(db, within)
            if at_most >= max_runtimes:
                raise QuotaExceeded(f"You have reached the maximum of {max_runtimes} agent runtimes")
            self._at_most[scope] = at_most + 1
            _insert_runtime(db, RuntimeKey(scope, new.runtime_id), new, now)
            receipt = Receipt(new.runtime_id, 1, _S.CREATING, new.workload_identity, now, now)
            steps.remember(db, scope, once, receipt, now)
            return receipt

    def update_runtime(
        self, key: RuntimeKey, version: NewVersion, *, once: Once | None, max_versions: int, now: datetime
    ) -> Receipt:
        with self._write() as db:
            if (first := steps.replay(db, key.scope, once, now)) is not None:
                return first
            runtime = steps.get_runtime(db, key)
            check_transition(runtime.status, _S.UPDATING)
            highest, kept = statements.COUNT_VERSIONS.first(db, statements.key_parameters(key)) or (None, 0)
            number = 1 + (highest or 0)
            if kept >= max_versions:
                raise QuotaExceeded(f"The agent runtime has reached the maximum of {max_versions} versions")
            if number > limits.MAX_VERSION_NUMBER:
                raise QuotaExceeded(f"The agent runtime has had all of its {limits.MAX_VERSION_NUMBER} versions")
            status = _S.UPDATING if version.ready is None else _S.READY
            steps.insert_version(db, key, number, status, version, now)
            steps.set_runtime(db, key, status, now=now)
            statements.SET_LATEST.run(db, {**statements.key_parameters(key), "to_latest_version": number})
            target = {**statements.key_parameters(key), "to_target_version": number, "to_updated_at": now}
            statements.SET_TARGET.run(db, target)
            if version.ready is not None:
                _serve(db, key, number, now)
            receipt = Receipt(key.runtime_id, number, _S.UPDATING, runtime.workload_identity, runtime.created_at, now)
            steps.remember(db, key.scope, once, receipt, now)
            return receipt

    def begin_delete(self, key: RuntimeKey, *, once: Once | None, now: datetime) -> Receipt:
        with self._write() as db:
            if (first := steps.replay(db, key.scope, once, now)) is not None:
                return first
            runtime = steps.get_runtime(db, key)
            check_transition(runtime.status, _S.DELETING)
            named = sa.select(_E.runtime_id).where(*steps.of_runtime(_E, key), _E.name != DEFAULT_ENDPOINT)
            if db.execute(named.limit(1)).first() is not None:
                raise Conflict("This agent has endpoints that must be deleted first")
            steps.set_runtime(db, key, _S.DELETING, now=now)
            receipt = Receipt(
                key.runtime_id,
                runtime.latest_version,
                _S.DELETING,
                runtime.workload_identity,
                runtime.created_at,
                now,
            )
            steps.remember(db, key.scope, once, receipt, now)
            return receipt

    def delete_version(
        self, key: RuntimeKey, version: int, *, keep: frozenset[str], once: Once | None, now: datetime
    ) -> Receipt:
        with self._write() as db:
            if (first := steps.replay(db, key.scope, once, now)) is not None:
                return first
            runtime = steps.get_runtime(db, key)
            row = steps.get_version(db, key, version)
            check_transition(runtime.status, _S.UPDATING)
            serving = db.execute(
                sa.select(_E.name).where(
                    *steps.of_runtime(_E, key), sa.or_(_E.live_version == version, _E.target_version == version)
                )
            ).first()
            if serving is not None:
                which = "endpoint DEFAULT" if serving[0] == DEFAULT_ENDPOINT else "an endpoint"
                raise Conflict(f"Version {version} can't be deleted: {which} uses it")
            if version == runtime.latest_version:
                raise Conflict(f"Version {version} can't be deleted: it is the agent runtime's latest version")
            db.execute(
                schema.versions.update()
                .where(*steps.of_runtime(_V, key), _V.version == version)
                .values(
                    received={},
                    configuration={k: v for k, v in row.configuration.items() if k in keep},
                    description=None,
                    launch=None,
                    deleted_at=now,
                    updated_at=now,
                )
            )
            receipt = Receipt(key.runtime_id, version, _S.DELETING, runtime.workload_identity, runtime.created_at, now)
            steps.remember(db, key.scope, once, receipt, now)
            return receipt

    # -- reading --------------------------------------------------------------------------------------------------

    def replayed(self, scope: Scope, once: Once, *, now: datetime) -> Receipt | None:
        with self._read() as db:
            return steps.replay(db, scope, once, now)

    def get_runtime(self, key: RuntimeKey, version: int | None = None) -> tuple[RuntimeRow, VersionRow]:
        with self._read() as db:
            runtime = steps.get_runtime(db, key)
            return runtime, steps.get_version(db, key, runtime.latest_version if version is None else version)

    def list_runtimes(self, scope: Scope, *, after: Position | None, limit: int) -> list[RuntimeSummary]:
        with self._read() as db:
            return self._listing.page(db, scope, after=after, limit=limit)

    def live_versions(self, scope: Scope, runtime_ids: Collection[str]) -> dict[str, int | None]:
        query = sa.select(_E.runtime_id, _E.live_version).where(
            *steps.in_scope(_E, scope), _E.runtime_id.in_(list(runtime_ids)), _E.name == DEFAULT_ENDPOINT
        )
        with self._read() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def list_versions(
        self, key: RuntimeKey, *, after: int | None, limit: int
    ) -> tuple[RuntimeRow, list[VersionSummary]]:
        asked = {**statements.key_parameters(key), "of_after": after or 0, "of_limit": limit}
        with self._read() as db:
            runtime = steps.get_runtime(db, key)
            rows = statements.VERSIONS.rows(db, asked)
        return runtime, [VersionSummary(r[0], STATUSES[r[1]], r[2], r[3]) for r in rows]

    def list_tags(self, scope: Scope, arn: str) -> dict[str, str]:
        t = schema.tags.c
        with self._read() as db:
            rows = db.execute(sa.select(t.key, t.value).where(*steps.in_scope(t, scope), t.resource_arn == arn))
            return {row[0]: row[1] for row in rows}

    def resolve_endpoint(self, key: RuntimeKey, name: str) -> EndpointRow | None:
        with self._read() as db:
            row = statements.ENDPOINT.first(db, {**statements.key_parameters(key), "of_name": name})
        return None if row is None else EndpointRow(row[0], row[1], row[2])

    def get_contract(self, key: RuntimeKey, version: int) -> Json | None:
        with self._read() as db:
            return db.scalar(
                sa.select(_V.configuration).where(
                    *steps.of_runtime(_V, key), _V.version == version, _V.status == _S.READY
                )
            )

    def get_launch(self, key: RuntimeKey, version: int) -> LaunchSpec | None:
        query = (
            sa.select(_V.launch)
            .join(schema.agent_runtimes, sa.and_(*statements.same_runtime(_V)))
            .where(
                *steps.of_runtime(_V, key),
                _V.version == version,
                _V.status == _S.READY,
                _V.deleted_at.is_(None),
                _R.status.not_in((_S.DELETING, _S.DELETE_FAILED)),
            )
        )
        with self._read() as db:
            kept = db.scalar(query)
        return None if kept is None else msgspec.convert(kept, LaunchSpec)

    def get_digest(self, key: RuntimeKey, version: int) -> str | None:
        with self._read() as db:
            return db.scalar(sa.select(_V.digest).where(*steps.of_runtime(_V, key), _V.version == version))

    def digests(self) -> frozenset[str]:
        query = sa.select(_V.digest).where(_V.digest.is_not(None), _V.deleted_at.is_(None)).distinct()
        with self._read() as db:
            return frozenset(db.scalars(query))

    # -- progress -------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[RuntimeKey]:
        query = (
            sa.select(_R.account, _R.region, _R.runtime_id).where(_R.status.in_(_UNFINISHED)).order_by(_R.updated_at)
        )
        with self._read() as db:
            return [RuntimeKey(Scope(r[0], r[1]), r[2]) for r in db.execute(query)]

    def version_ready(self, key: RuntimeKey, version: int, *, digest: str, launch: LaunchSpec, now: datetime) -> None:
        with self._write() as db:
            steps.check_current(db, key, version, _S.READY)
            values = {"to_digest": digest, "to_launch": msgspec.to_builtins(launch), "to_updated_at": now}
            statements.SET_VERSION_READY.run(db, {**statements.key_parameters(key), "of_version": version, **values})
            steps.set_runtime(db, key, _S.READY, now=now)
            _serve(db, key, version, now)

    def version_failed(self, key: RuntimeKey, version: int, *, reason: str, now: datetime) -> None:
        with self._write() as db:
            current = steps.get_runtime(db, key).status
            failed = _S.CREATE_FAILED if current is _S.CREATING else _S.UPDATE_FAILED
            steps.check_current(db, key, version, failed)
            db.execute(
                schema.versions.update()
                .where(*steps.of_runtime(_V, key), _V.version == version)
                .values(status=failed, failure_reason=reason, updated_at=now)
            )
            steps.set_runtime(db, key, failed, now=now, reason=reason)
            db.execute(
                schema.endpoints.update()
                .where(*steps.of_runtime(_E, key), _E.name == DEFAULT_ENDPOINT, _E.live_version.is_not(None))
                .values(target_version=_E.live_version, updated_at=now)
            )

    def delete_failed(self, key: RuntimeKey, *, reason: str, now: datetime) -> None:
        with self._write() as db:
            check_transition(steps.get_runtime(db, key).status, _S.DELETE_FAILED)
            steps.set_runtime(db, key, _S.DELETE_FAILED, now=now, reason=reason)

    def serving(self) -> list[tuple[RuntimeKey, int]]:
        query = (
            sa.select(_E.account, _E.region, _E.runtime_id, _E.live_version)
            .where(_E.live_version.is_not(None))
            .order_by(_E.updated_at.desc())
            .distinct()
        )
        with self._read() as db:
            return [(RuntimeKey(Scope(r[0], r[1]), r[2]), r[3]) for r in db.execute(query)]

    def replace_launch(self, key: RuntimeKey, version: int, launch: LaunchSpec) -> None:
        with self._write() as db:
            changed = db.execute(
                schema.versions.update().where(*steps.of_ready(key, version)).values(launch=msgspec.to_builtins(launch))
            )
            if changed.rowcount == 0:
                raise NotFound(f"No version {version} found for agent runtime {key.runtime_id}")
            steps.set_fault(db, key, version, None)

    def note_fault(self, key: RuntimeKey, version: int, reason: str | None) -> None:
        with self._write() as db:
            steps.set_fault(db, key, version, reason)

    def forget(self, *, deleted_before: datetime, now: datetime) -> int:
        with self._write() as db:
            versions = db.execute(schema.versions.delete().where(_V.deleted_at < deleted_before))
            return versions.rowcount + statements.FORGET_TOKENS.run(db, {"of_now": now})

    def remove_runtime(self, key: RuntimeKey) -> None:
        with self._write() as db:
            runtime = db.execute(sa.select(_R.status, _R.arn).where(*steps.of_runtime(_R, key))).first()
            if runtime is None:
                raise NotFound(steps.no_runtime(key))
            if runtime[0] != _S.DELETING:
                raise Conflict(f"Agent runtime is in status {runtime[0]}, not being deleted")
            steps.forget_resource(db, key.scope, runtime[1])
            _forget_identity(db, key)
            # Versions, endpoints and the workload identity go with it, by their foreign keys.
            db.execute(schema.agent_runtimes.delete().where(*steps.of_runtime(_R, key)))

    # -- itself ---------------------------------------------------------------------------------------------------

    def get_seal(self) -> bytes | None:
        with self._read() as db:
            return db.scalar(sa.select(schema.marks.c.value).where(schema.marks.c.name == _SEAL))

    def set_seal(self, seal: bytes) -> None:
        with self._write() as db:
            if db.scalar(sa.select(schema.marks.c.name).where(schema.marks.c.name == _SEAL)) is not None:
                raise Conflict("the store is sealed already")
            db.execute(schema.marks.insert().values(name=_SEAL, value=seal))


def _serve(db: sa.Connection, key: RuntimeKey, version: int, now: datetime) -> None:
    """Let every endpoint that waits for the version serve it."""
    values = {"to_live_version": version, "to_updated_at": now}
    statements.SERVE_VERSION.run(db, {**statements.key_parameters(key), "of_version": version, **values})


def _insert_runtime(db: sa.Connection, key: RuntimeKey, new: NewRuntime, now: datetime) -> None:
    common = {**steps.key_columns(key), "created_at": now, "updated_at": now}
    status, live = (_S.CREATING, None) if new.version.ready is None else (_S.READY, 1)
    runtime = {
        "name": new.name,
        "arn": new.arn,
        "status": status,
        "latest_version": 1,
        "workload_identity": new.workload_identity,
    }
    statements.INSERT_RUNTIME.run(db, common | runtime)
    steps.insert_version(db, key, 1, status, new.version, now)
    endpoint = {"name": DEFAULT_ENDPOINT, "target_version": 1, "live_version": live}
    statements.INSERT_ENDPOINT.run(db, common | endpoint)
    statements.INSERT_IDENTITY.run(db, common | {"name": new.workload_identity})
    steps.insert_tags(db, key.scope, new.arn, new.tags)


def _forget_identity(db: sa.Connection, key: RuntimeKey) -> None:
    """Remove the tags of the workload identity that goes with the runtime."""
    for (name,) in db.execute(sa.select(_I.name).where(*steps.of_runtime(_I, key))):
        steps.forget_resource(db, key.scope, arns.workload_identity(key.scope.region, key.scope.account, name))
