"""Options that several commands have, and the server they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold import running, settings

if TYPE_CHECKING:
    from freehold.cli import client

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the operator API answers.")]


def data_dir_of(data_dir: Path | None) -> Path:
    return settings.load(flags={"data_dir": data_dir}).data_dir


def connect(data_dir: Path | None) -> client.Clients:
    """The server that the environment names (`freehold env`), unless a data directory is given."""
    from freehold.cli import client

    if data_dir is None and (connection := client.from_environment()) is not None:
        return client.Clients(connection)
    return client.Clients(running.connection(data_dir_of(data_dir)))
