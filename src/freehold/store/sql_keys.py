"""The store's verbs for access keys, in SQL.

Not for their secrets, which come sealed (`store.vault`). Invariant: an account that has a key has one without an end.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from freehold.domain.errors import Conflict, NotFound
from freehold.store import schema, steps
from freehold.store.base import AccessKeyRow

_K = schema.access_keys.c


class KeyVerbs(steps.Verbs):
    """A part of `store.base.Store`; see there for what each verb promises."""

    def add_access_key(self, row: AccessKeyRow) -> None:
        with self._write() as db:
            _insert_access_key(db, row)

    def get_access_key(self, access_key_id: str) -> AccessKeyRow | None:
        with self._read() as db:
            query = sa.select(schema.access_keys).where(_K.access_key_id == access_key_id)
            row = db.execute(query).mappings().first()
        return None if row is None else steps.access_key(row)

    def list_access_keys(self) -> list[AccessKeyRow]:
        with self._read() as db:
            rows = db.execute(sa.select(schema.access_keys).order_by(_K.created_at, _K.access_key_id)).mappings()
            return [steps.access_key(row) for row in rows]

    def disable_access_key(self, access_key_id: str, *, now: datetime) -> None:
        with self._write() as db:
            ends_at = _end_unless_last(db, access_key_id)
            if ends_at is None or ends_at > now:
                db.execute(schema.access_keys.update().where(_K.access_key_id == access_key_id).values(disabled_at=now))

    def replace_access_key(self, access_key_id: str, new: AccessKeyRow, *, until: datetime) -> None:
        with self._write() as db:
            row = db.execute(sa.select(_K.disabled_at).where(_K.access_key_id == access_key_id)).first()
            if row is None:
                raise NotFound(f"No access key {access_key_id}")
            if row.disabled_at is not None:
                raise Conflict("The access key is disabled, or has an end already: create another one instead")
            _insert_access_key(db, new)
            db.execute(schema.access_keys.update().where(_K.access_key_id == access_key_id).values(disabled_at=until))

    def forget_access_keys(self, prefix: str, *, disabled_before: datetime) -> None:
        with self._write() as db:
            ended = sa.and_(_K.access_key_id.startswith(prefix, autoescape=True), _K.disabled_at < disabled_before)
            db.execute(schema.access_keys.delete().where(ended))

    def delete_access_key(self, access_key_id: str) -> None:
        with self._write() as db:
            _end_unless_last(db, access_key_id)
            db.execute(schema.access_keys.delete().where(_K.access_key_id == access_key_id))


def _end_unless_last(db: sa.Connection, access_key_id: str) -> datetime | None:
    """When the key ends. Raises NotFound, and Conflict when its account would have none left without an end."""
    row = db.execute(sa.select(_K.account, _K.region, _K.disabled_at).where(_K.access_key_id == access_key_id)).first()
    if row is None:
        raise NotFound(f"No access key {access_key_id}")
    if row.disabled_at is not None:
        return row.disabled_at
    others = sa.select(_K.access_key_id).where(
        _K.account == row.account,
        _K.region == row.region,
        _K.disabled_at.is_(None),
        _K.access_key_id != access_key_id,
    )
    if db.execute(others.limit(1)).first() is None:
        raise Conflict("It is the last access key that is not disabled: create another one first")
    return None


def _insert_access_key(db: sa.Connection, row: AccessKeyRow) -> None:
    db.execute(
        schema.access_keys.insert().values(
            access_key_id=row.access_key_id,
            account=row.scope.account,
            region=row.scope.region,
            sealed_secret=row.sealed_secret,
            created_at=row.created_at,
            disabled_at=row.disabled_at,
        )
    )
