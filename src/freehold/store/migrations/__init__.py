"""The schema's history, and how a database is brought to its head.

Not for describing the present schema (`store.schema`). Invariant: a database that this program does not know is
never touched.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from freehold.store.base import StoreRefused


def configuration(connection: sa.Connection) -> Config:
    """Alembic's configuration for `connection`; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to the newest schema, within the caller's transaction.

    Raises StoreRefused for a database of a newer Freehold, or one that holds tables and isn't Freehold's.
    """
    config = configuration(connection)
    known = ScriptDirectory.from_config(config)
    at = MigrationContext.configure(connection).get_current_heads()
    if not at and sa.inspect(connection).get_table_names():
        raise StoreRefused("the database holds tables that are not Freehold's; name another data directory")
    revisions = {script.revision for script in known.walk_revisions()}
    unknown = sorted(set(at) - revisions)
    if unknown:
        raise StoreRefused(
            f"the database is at schema revision {', '.join(unknown)}, which this Freehold does not know: it was "
            "written by a newer release; start that release, or restore a backup made before the upgrade"
        )
    if set(at) != set(known.get_heads()):
        command.upgrade(config, "head")
