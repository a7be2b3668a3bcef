"""The tables. Not for changing them: that is a new revision in `migrations/versions`.

Invariant: equal to what the migrations make (a test compares them), and every row but the store's own marks has
account and region.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = sa.MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware instant, kept as UTC with microseconds. A naive one is a bug, and refused."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant without a timezone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _to_text(value: datetime | None) -> str | None:
    """As SQLAlchemy's DateTime writes it in SQLite, which has no type for it."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("an instant without a timezone")
    return value.astimezone(UTC).isoformat(" ", "microseconds")[: -len("+00:00")]


def _from_text(value: str | None) -> datetime | None:
    """A listing has hundreds of them: this takes an eighth of what SQLAlchemy's reading takes."""
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


def _scope(*, primary: bool = True) -> tuple[sa.Column[str], sa.Column[str]]:
    return (
        sa.Column("account", sa.String(12), primary_key=primary, nullable=False),
        sa.Column("region", sa.String(32), primary_key=primary, nullable=False),
    )


def _of_runtime() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["account", "region", "runtime_id"],
        ["agent_runtimes.account", "agent_runtimes.region", "agent_runtimes.runtime_id"],
        ondelete="CASCADE",
    )


agent_runtimes = sa.Table(
    "agent_runtimes",
    metadata,
    *_scope(),
    sa.Column("runtime_id", sa.String(111), primary_key=True),
    sa.Column("name", sa.String(48), nullable=False),
    sa.Column("arn", sa.String(256), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("failure_reason", sa.Text),
    sa.Column("latest_version", sa.Integer, nullable=False),
    sa.Column("workload_identity", sa.String(255), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("account", "region", "name", name="uq_agent_runtimes_name"),
    sa.Index("ix_agent_runtimes_order", "account", "region", "created_at", "runtime_id"),
    sa.Index("ix_agent_runtimes_status", "status"),
)

versions = sa.Table(
    "agent_runtime_versions",
    metadata,
    *_scope(),
    sa.Column("runtime_id", sa.String(111), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("failure_reason", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("received", sa.JSON, nullable=False),
    sa.Column("configuration", sa.JSON, nullable=False),
    sa.Column("digest", sa.String(128)),
    sa.Column("launch", sa.JSON(none_as_null=True)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("deleted_at", UtcDateTime),
    _of_runtime(),
    sa.Index("ix_agent_runtime_versions_deleted", "deleted_at", "digest"),
)

endpoints = sa.Table(
    "agent_runtime_endpoints",
    metadata,
    *_scope(),
    sa.Column("runtime_id", sa.String(111), primary_key=True),
    sa.Column("name", sa.String(48), primary_key=True),
    sa.Column("live_version", sa.Integer),
    sa.Column("target_version", sa.Integer, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("deleting_at", UtcDateTime),
    sa.Column("failure_reason", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    _of_runtime(),
)
"""`deleting_at`: it has no route from then on; `failure_reason`: why deleting it failed. Other states are derived."""

workload_identities = sa.Table(
    "workload_identities",
    metadata,
    *_scope(),
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("runtime_id", sa.String(111), nullable=True),
    sa.Column("return_urls", sa.JSON(none_as_null=True)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    _of_runtime(),
    sa.Index("ix_workload_identities_runtime", "account", "region", "runtime_id"),
)

tags = sa.Table(
    "tags",
    metadata,
    *_scope(),
    sa.Column("resource_arn", sa.String(1011), primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("value", sa.String(256), nullable=False),
)

resource_policies = sa.Table(
    "resource_policies",
    metadata,
    *_scope(),
    sa.Column("resource_arn", sa.String(1011), primary_key=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

client_tokens = sa.Table(
    "client_tokens",
    metadata,
    *_scope(),
    sa.Column("operation", sa.String(64), primary_key=True),
    sa.Column("token", sa.String(256), primary_key=True),
    sa.Column("parameters_digest", sa.String(64), nullable=False),
    sa.Column("receipt", sa.JSON, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_client_tokens_expiry", "expires_at"),
)

access_keys = sa.Table(
    "access_keys",
    metadata,
    sa.Column("access_key_id", sa.String(128), primary_key=True),
    *_scope(primary=False),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("disabled_at", UtcDateTime),
)

marks = sa.Table(
    "store_marks",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
"""What the store knows of itself: the seal of the vault's key."""
