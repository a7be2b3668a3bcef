"""Named endpoints, resource policies, return URLs of workload identities.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from freehold.store import migrations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what programs of earlier revisions never look at, and may leave empty."""
    op.add_column("agent_runtime_endpoints", sa.Column("description", sa.Text))
    op.add_column("agent_runtime_endpoints", sa.Column("deleting_at", sa.DateTime(timezone=True)))
    op.add_column("agent_runtime_endpoints", sa.Column("failure_reason", sa.Text))
    op.add_column("workload_identities", sa.Column("return_urls", sa.JSON))
    op.create_table(
        "resource_policies",
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("region", sa.String(32), nullable=False),
        sa.Column("resource_arn", sa.String(1011), nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account", "region", "resource_arn"),
    )
    migrations.mark_usable_from(op.get_bind(), revision, "0001")
