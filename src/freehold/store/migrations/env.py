"""Alembic's environment, run by `migrations.upgrade` alone: the open connection comes in `config.attributes`."""

from __future__ import annotations

from alembic import context

from freehold.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    # SQLite's DDL is transactional once the driver leaves transactions to us, as `store.sqlite` makes it.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
