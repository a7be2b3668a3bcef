"""The schema's history, and how a database is brought to its head.

Not for describing the present schema (`store.schema`). Invariant: a database that this program does not know is
never changed by it, and is used only if the release that changed it last has recorded that this is safe.

Alembic is imported only for a database of another revision: that takes as long as half of a start. A new database is
made of the present schema; a test holds that to be what the migrations make.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from freehold.store import schema
from freehold.store.base import StoreRefused

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0003"
"""The newest revision in `versions`."""
HEAD_USABLE_FROM: Final = "0001"
"""The oldest revision whose programs can use a database at HEAD (`mark_usable_from`)."""
_USABLE_FROM: Final = "schema usable from"
_alembic_version: Final = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it makes it."""


def configuration(connection: sa.Connection) -> Config:
    """Alembic's configuration for `connection`; there is no alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def check(connection: sa.Connection) -> str | None:
    """The revision of a database that this program can use, after an upgrade or as it is; None for an empty one.

    Raises StoreRefused for a database of a Freehold that is too new, or one that holds tables and isn't Freehold's.
    """
    tables = sa.inspect(connection).get_table_names()
    at = connection.scalars(sa.select(_alembic_version)).all() if _alembic_version.name in tables else ()
    if not at:
        if tables:
            raise StoreRefused("the database holds tables that are not Freehold's; name another data directory")
        return None
    current = ", ".join(sorted(at))
    known = revisions(connection) if current != HEAD else {HEAD}
    if not set(at) <= known and _usable_from(connection, current) not in known:
        raise StoreRefused(
            f"the database is at schema revision {current}, and this Freehold knows those up to {HEAD}: it was written "
            "by a newer release; start that release, or restore a backup made before the upgrade"
        )
    return current


def revisions(connection: sa.Connection) -> set[str]:
    """All that this program has, HEAD among them."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(configuration(connection)).walk_revisions()}


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to the newest schema, within the caller's transaction; a newer one is left as it is.

    Raises StoreRefused as `check` does.
    """
    at = check(connection)
    if at is None:
        _make(connection)
    elif at != HEAD and at in revisions(connection):
        migrate(connection)


def _make(connection: sa.Connection) -> None:
    schema.metadata.create_all(connection)
    _alembic_version.create(connection)
    connection.execute(sa.insert(_alembic_version).values(version_num=HEAD))
    mark_usable_from(connection, HEAD, HEAD_USABLE_FROM)


def migrate(connection: sa.Connection) -> None:
    """Run the migrations that the database, of a revision that this program knows or empty, lacks."""
    from alembic import command

    command.upgrade(configuration(connection), "head")


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
