"""An index over deleted versions, by which they are forgotten in time, and over the digests of all others.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

from freehold.store import migrations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index. A program of the first release never sees it."""
    op.create_index("ix_agent_runtime_versions_deleted", "agent_runtime_versions", ["deleted_at", "digest"])
    migrations.mark_usable_from(op.get_bind(), revision, "0001")
