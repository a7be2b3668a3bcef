"""The store's verbs for tags, resource policies and workload identities, in SQL.

Not for whether a policy makes sense (`control.policies`). Invariant: tags and policies are only of resources that
exist; they go with them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from freehold.domain.errors import Conflict, NotFound, QuotaExceeded, ValidationFailed
from freehold.store import schema, steps
from freehold.store.base import Resource, Scope, WorkloadIdentity

_I, _T, _P = schema.workload_identities.c, schema.tags.c, schema.resource_policies.c


class ResourceVerbs(steps.Verbs):
    """A part of `store.base.Store`; see there for what each verb promises."""

    # -- tags -----------------------------------------------------------------------------------------------------

    def tag(self, resource: Resource, tags: dict[str, str], *, max_tags: int) -> None:
        of = _of(_T, resource)
        with self._write() as db:
            steps.check_exists(db, resource)
            kept = set(db.scalars(sa.select(_T.key).where(*of)))
            if len(kept | set(tags)) > max_tags:
                raise QuotaExceeded(f"A resource can't have more than {max_tags} tags")
            db.execute(schema.tags.delete().where(*of, _T.key.in_(list(tags))))
            steps.insert_tags(db, resource.scope, resource.arn, tags)

    def untag(self, resource: Resource, keys: list[str]) -> None:
        with self._write() as db:
            steps.check_exists(db, resource)
            db.execute(schema.tags.delete().where(*_of(_T, resource), _T.key.in_(keys)))

    def get_tags(self, resource: Resource) -> dict[str, str]:
        with self._read() as db:
            steps.check_exists(db, resource)
            rows = db.execute(sa.select(_T.key, _T.value).where(*_of(_T, resource)).order_by(_T.key))
            return {row[0]: row[1] for row in rows}

    # -- policies -------------------------------------------------------------------------------------------------

    def put_policy(self, resource: Resource, policy: str, *, now: datetime) -> None:
        with self._write() as db:
            steps.check_exists(db, resource)
            db.execute(schema.resource_policies.delete().where(*_of(_P, resource)))
            row = {
                "account": resource.scope.account,
                "region": resource.scope.region,
                "resource_arn": resource.arn,
                "policy": policy,
                "updated_at": now,
            }
            db.execute(schema.resource_policies.insert(), row)

    def get_policy(self, resource: Resource) -> str | None:
        with self._read() as db:
            steps.check_exists(db, resource)
            return db.scalar(sa.select(_P.policy).where(*_of(_P, resource)))

    def delete_policy(self, resource: Resource) -> None:
        with self._write() as db:
            steps.check_exists(db, resource)
            db.execute(schema.resource_policies.delete().where(*_of(_P, resource)))

    # -- workload identities --------------------------------------------------------------------------------------

    def create_identity(
        self, resource: Resource, *, return_urls: list[str] | None, tags: dict[str, str], now: datetime
    ) -> WorkloadIdentity:
        scope, name = resource.scope, resource.identity
        assert name is not None
        with self._write() as db:
            if db.execute(sa.select(_I.name).where(*steps.in_scope(_I, scope), _I.name == name)).first() is not None:
                raise Conflict("A workload identity with the specified name already exists")
            row = {
                "account": scope.account,
                "region": scope.region,
                "name": name,
                "return_urls": return_urls,
                "created_at": now,
                "updated_at": now,
            }
            db.execute(schema.workload_identities.insert(), row)
            steps.insert_tags(db, scope, resource.arn, tags)
            return WorkloadIdentity(name, return_urls, None, now, now)

    def update_identity(
        self, scope: Scope, name: str, *, return_urls: list[str] | None, now: datetime
    ) -> WorkloadIdentity:
        with self._write() as db:
            _identity(db, scope, name)
            changed = schema.workload_identities.update().where(*steps.in_scope(_I, scope), _I.name == name)
            db.execute(changed.values(return_urls=return_urls, updated_at=now))
            return _identity(db, scope, name)

    def get_identity(self, scope: Scope, name: str) -> WorkloadIdentity:
        with self._read() as db:
            return _identity(db, scope, name)

    def list_identities(self, scope: Scope, *, after: str | None, limit: int) -> list[WorkloadIdentity]:
        query = sa.select(*_COLUMNS).where(*steps.in_scope(_I, scope)).order_by(_I.name).limit(limit)
        if after is not None:
            query = query.where(_I.name > after)
        with self._read() as db:
            return [WorkloadIdentity(*row) for row in db.execute(query)]

    def delete_identity(self, resource: Resource) -> None:
        scope, name = resource.scope, resource.identity
        assert name is not None
        with self._write() as db:
            if _identity(db, scope, name).runtime_id is not None:
                raise ValidationFailed(
                    "The workload identity belongs to an agent runtime and is removed with it",
                    reason="ResourceConflict",
                )
            steps.forget_resource(db, scope, resource.arn)
            db.execute(schema.workload_identities.delete().where(*steps.in_scope(_I, scope), _I.name == name))


_COLUMNS = (_I.name, _I.return_urls, _I.runtime_id, _I.created_at, _I.updated_at)


def _identity(db: sa.Connection, scope: Scope, name: str) -> WorkloadIdentity:
    row = db.execute(sa.select(*_COLUMNS).where(*steps.in_scope(_I, scope), _I.name == name)).first()
    if row is None:
        raise NotFound("No workload identity found with the specified name")
    return WorkloadIdentity(*row)


def _of(c: sa.ColumnCollection[str, sa.Column[Any]], resource: Resource) -> tuple[sa.ColumnElement[bool], ...]:
    return (*steps.in_scope(c, resource.scope), c.resource_arn == resource.arn)
