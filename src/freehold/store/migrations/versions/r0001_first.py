"""The first schema.

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INSTANT = sa.DateTime(timezone=True)


def _account() -> sa.Column[str]:
    return sa.Column("account", sa.String(12), nullable=False)


def _region() -> sa.Column[str]:
    return sa.Column("region", sa.String(32), nullable=False)


def _of_runtime() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["account", "region", "runtime_id"],
        ["agent_runtimes.account", "agent_runtimes.region", "agent_runtimes.runtime_id"],
        ondelete="CASCADE",
    )


def upgrade() -> None:
    """Make every table of the first release."""
    _runtimes()
    _parts_of_runtimes()
    _the_rest()


def _runtimes() -> None:
    op.create_table(
        "agent_runtimes",
        _account(),
        _region(),
        sa.Column("runtime_id", sa.String(111), nullable=False),
        sa.Column("name", sa.String(48), nullable=False),
        sa.Column("arn", sa.String(256), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_reason", sa.Text),
        sa.Column("latest_version", sa.Integer, nullable=False),
        sa.Column("workload_identity", sa.String(255), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "runtime_id"),
        sa.UniqueConstraint("account", "region", "name", name="uq_agent_runtimes_name"),
    )
    op.create_index("ix_agent_runtimes_order", "agent_runtimes", ["account", "region", "created_at", "runtime_id"])
    op.create_index("ix_agent_runtimes_status", "agent_runtimes", ["status"])


def _parts_of_runtimes() -> None:
    op.create_table(
        "agent_runtime_versions",
        _account(),
        _region(),
        sa.Column("runtime_id", sa.String(111), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_reason", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("received", sa.JSON, nullable=False),
        sa.Column("configuration", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(128)),
        sa.Column("launch", sa.JSON),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.Column("deleted_at", _INSTANT),
        sa.PrimaryKeyConstraint("account", "region", "runtime_id", "version"),
        _of_runtime(),
    )
    op.create_table(
        "agent_runtime_endpoints",
        _account(),
        _region(),
        sa.Column("runtime_id", sa.String(111), nullable=False),
        sa.Column("name", sa.String(48), nullable=False),
        sa.Column("live_version", sa.Integer),
        sa.Column("target_version", sa.Integer, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "runtime_id", "name"),
        _of_runtime(),
    )
    op.create_table(
        "workload_identities",
        _account(),
        _region(),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("runtime_id", sa.String(111)),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "name"),
        _of_runtime(),
    )
    op.create_index("ix_workload_identities_runtime", "workload_identities", ["account", "region", "runtime_id"])


def _the_rest() -> None:
    op.create_table(
        "tags",
        _account(),
        _region(),
        sa.Column("resource_arn", sa.String(1011), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "resource_arn", "key"),
    )
    op.create_table(
        "client_tokens",
        _account(),
        _region(),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("token", sa.String(256), nullable=False),
        sa.Column("parameters_digest", sa.String(64), nullable=False),
        sa.Column("receipt", sa.JSON, nullable=False),
        sa.Column("expires_at", _INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "operation", "token"),
    )
    op.create_index("ix_client_tokens_expiry", "client_tokens", ["expires_at"])
    op.create_table(
        "access_keys",
        sa.Column("access_key_id", sa.String(128), primary_key=True),
        _account(),
        _region(),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("disabled_at", _INSTANT),
    )
    op.create_table(
        "store_marks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
