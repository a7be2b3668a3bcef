"""`freehold logs`: what an agent's sessions printed and print."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console
from rich.text import Text

from freehold.cli import options, runtimes, tables

_STYLES = {"stderr": "red", "freehold": "yellow"}


def print_logs(
    clients_of: options.DataDir,
    name: str,
    *,
    session: str | None,
    endpoint: str | None,
    follow: bool,
    tail: int | None,
    as_json: bool,
) -> None:
    """Print lines as they come, until there are no more or the reader goes."""
    clients = options.connect(clients_of)
    query = {"runtimeId": runtimes.runtime_id_of(clients, name)}
    if session is not None:
        query["generation" if session.isdecimal() else "sessionId"] = session
    if endpoint is not None:
        query["endpoint"] = endpoint
    if tail is not None:
        query["tail"] = str(tail)
    if follow:
        query["follow"] = "true"
    console = Console(highlight=False, soft_wrap=True)
    try:
        for line in clients.operator_lines("logs", **query):
            if as_json:
                typer.echo(line)
            else:
                _print(console, json.loads(line), several=session is None)
            sys.stdout.flush()
    except KeyboardInterrupt:
        # How one stops to follow.
        return


def _print(console: Console, line: dict[str, str], *, several: bool) -> None:
    whose = f" {line['sessionId'][-12:]}" if several else ""
    instant = line["at"][11:23]
    text = tables.clean(line["text"]) if line["text"] else ""
    if console.is_terminal:
        console.print(Text.assemble((f"{instant}{whose} ", "dim"), (text, _STYLES.get(line["stream"], ""))))
    else:
        typer.echo(f"{line['at']}{whose} {line['stream']} {text}")
