"""The commands on a data directory itself: migrate, backup, restore. They speak to no server.

Not for what they do (`freehold.datadir`). Invariant: each says in the end what was done and what is left to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freehold import settings
from freehold.datadir import custody
from freehold.datadir.layout import Layout

DataDir = Annotated[Path | None, typer.Option(help="The data directory.", show_default=False)]


def migrate(data_dir: DataDir = None) -> None:
    """Bring a data directory to this release's schema, without starting a server. `up` does it too."""
    from freehold.store import sqlite
    from freehold.store.base import StoreRefused

    place = custody.check(_data_dir(data_dir))
    database = Layout(place).database
    if not database.exists():
        raise StoreRefused(f"{place} holds no database: there is nothing to migrate")
    try:
        with custody.lock(place):
            migrated = sqlite.migrate(database)
    except custody.InUse:
        raise custody.InUse(
            f"a server runs with the data directory {place}: its schema is the one of that server; stop it first"
        ) from None
    if migrated.before == migrated.after:
        typer.echo(f"The schema is at revision {migrated.after} already.")
    else:
        typer.echo(f"The schema was at revision {migrated.before} and is at {migrated.after} now.")


def backup(
    output: Annotated[Path, typer.Option(help="The tar file to write; it must not exist.")],
    with_keys: Annotated[bool, typer.Option("--with-keys", help="Put the master key in: whoever reads it, is in.")] = (
        False
    ),
    data_dir: DataDir = None,
) -> None:
    """Write what can't be made again to a tar file, also while a server runs."""
    from freehold.datadir import backup as backing_up

    place = _data_dir(data_dir)
    written = backing_up.backup(place, output, with_keys=with_keys)
    for path in written.skipped:
        typer.echo(f"not in it: {path} is no object of a bucket", err=True)
    keys = "with the master key" if written.has_keys else f"without the master key: keep {Layout(place).master_key} too"
    typer.echo(f"{output}: the database and {written.objects} files of buckets, {written.bytes} bytes, {keys}")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that freehold backup wrote.", exists=True, dir_okay=False)],
    data_dir: DataDir = None,
) -> None:
    """Make a data directory of a backup. It must be empty, or not exist yet."""
    from freehold.datadir import restore as restoring

    place = _data_dir(data_dir)
    restored = restoring.restore(file, place)
    typer.echo(
        f"Restored the backup of {restored.manifest.written_at:%Y-%m-%d %H:%M} UTC into {place}: the database and "
        f"{restored.objects} files of buckets. Agents' code is unpacked again when a server starts."
    )
    if not restored.has_keys:
        typer.echo(f"Its master key is not in it: put that at {Layout(place).master_key}, mode 0600, before the start.")


def _data_dir(data_dir: Path | None) -> Path:
    return settings.load(flags={"data_dir": data_dir}).data_dir
