"""`freehold doctor`: what was found on this host, and how to get what is missing."""

from __future__ import annotations

import dataclasses
import logging
import sys

import structlog
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from freehold import doctor
from freehold.cli import tables
from freehold.doctor import State
from freehold.settings import Settings

WIDE = 1000
_SIGNS = {State.OK: ("ok", "green"), State.WARNING: ("warn", "yellow"), State.FAILED: ("FAIL", "bold red")}


def examine(settings: Settings, *, as_json: bool) -> int:
    """Print what was found. Returns 1 when no server could start here, else 0."""
    # The parts that are tried out log what is told here anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    found = doctor.examine(settings)
    failed = any(finding.state is State.FAILED for finding in found)
    if as_json:
        tables.print_json({"canStart": not failed, "findings": [dataclasses.asdict(finding) for finding in found]})
    else:
        _print(found)
    return 1 if failed else 0


def _print(found: list[doctor.Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    for finding in found:
        sign, style = _SIGNS[finding.state]
        told = Text(tables.clean(finding.told))
        if finding.remedy is not None:
            told.append(f"\n-> {tables.clean(finding.remedy)}", "dim")
        table.add_row(Text(sign, style), finding.what, told)
    # In a pipe nothing is broken into lines of a terminal's width.
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table)
    failed = sum(finding.state is State.FAILED for finding in found)
    warned = sum(finding.state is State.WARNING for finding in found)
    typer.echo(f"\n{'A server can start here' if not failed else 'No server can start here'}: {warned} warnings.")
