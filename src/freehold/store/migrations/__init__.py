"""The schema's history, and how a database is brought to its head.

Not for describing the present schema (`store.schema`). Invariant: a database that this program does not know is
never changed by it, and is used only if the release that changed it last has recorded that this is safe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from freehold.store.base import StoreRefused

_USABLE_FROM: Final = "schema usable from"


def configuration(connection: sa.Connection) -> Config:
    """Alembic's configuration for `connection`; there is no alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def check(connection: sa.Connection) -> str | None:
    """The revision of a database that this program can use, after an upgrade or as it is; None for an empty one.

    Raises StoreRefused for a database of a Freehold that is too new, or one that holds tables and isn't Freehold's.
    """
    at = MigrationContext.configure(connection).get_current_heads()
    if not at:
        if sa.inspect(connection).get_table_names():
            raise StoreRefused("the database holds tables that are not Freehold's; name another data directory")
        return None
    known = ScriptDirectory.from_config(configuration(connection))
    revisions = {script.revision for script in known.walk_revisions()}
    current = ", ".join(sorted(at))
    if not set(at) <= revisions and _usable_from(connection, current) not in revisions:
        raise StoreRefused(
            f"the database is at schema revision {current}, and this Freehold knows those up to "
            f"{', '.join(known.get_heads())}: it was written by a newer release; start that release, or restore a "
            "backup made before the upgrade"
        )
    return current


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to the newest schema, within the caller's transaction; a newer one is left as it is.

    Raises StoreRefused as `check` does.
    """
    at = check(connection)
    config = configuration(connection)
    known = ScriptDirectory.from_config(config)
    if at is None or at in {script.revision for script in known.walk_revisions()} - set(known.get_heads()):
        command.upgrade(config, "head")


def mark_usable_from(connection: sa.Connection, revision: str, oldest: str) -> None:
    """Record in a database at `revision` that programs which know no newer revision than `oldest` can use it too.

    Every revision after the first ends with this; see docs/decisions/0007.
    """
    marks = sa.table("store_marks", sa.column("name", sa.String), sa.column("value", sa.LargeBinary))
    connection.execute(sa.delete(marks).where(marks.c.name == _USABLE_FROM))
    connection.execute(sa.insert(marks).values(name=_USABLE_FROM, value=f"{revision} {oldest}".encode()))


def _usable_from(connection: sa.Connection, current: str) -> str | None:
    """The oldest revision whose programs can use this database, if its present revision says so."""
    if "store_marks" not in sa.inspect(connection).get_table_names():
        return None
    marks = sa.table("store_marks", sa.column("name", sa.String), sa.column("value", sa.LargeBinary))
    value = connection.scalar(sa.select(marks.c.value).where(marks.c.name == _USABLE_FROM))
    if value is None:
        return None
    # Of another revision the mark says nothing: one that forgot to make its own promises nothing.
    revision, _, oldest = bytes(value).decode(errors="replace").partition(" ")
    return oldest if revision == current else None
