"""Answers for people and for programs: tables on a terminal, tab-separated lines in a pipe, JSON when asked for.

Invariant: control characters of agents or callers never reach a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import typer

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """A table on a terminal; else one line a row, its values parted by tabs and `-` for none."""
    told = [[clean(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in told:
            typer.echo("\t".join(value.replace("\t", " ").replace("\n", " ") for value in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not told:
        Console(stderr=True, highlight=False).print(empty, style="dim")
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in told:
        table.add_row(*(Text(value) for value in row))
    Console(highlight=False).print(table)


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """One thing, a line a member."""
    from rich.console import Console
    from rich.text import Text

    shown = [(name, clean(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    console = Console(highlight=False, soft_wrap=True)
    for name, value in shown:
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), value.replace("\n", "\n" + " " * (width + 2))))


def clean(value: Any) -> str:
    """A value as text without control characters; `-` for none."""
    return "-" if value is None or value == "" else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))


def duration(seconds: float | None) -> str | None:
    """Such as `3m12s`: the two largest units."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{minutes}m{rest:02}s" if hours == 0 else f"{hours}h{minutes:02}m"


def mebibytes(value: int | None) -> str | None:
    return None if value is None else f"{value / 1024 / 1024:.1f} MiB"


def instant(text: str | None) -> str | None:
    """An instant of the API in this machine's time."""
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def between(start: str, end: str) -> str | None:
    """The duration from one instant of the API to another."""
    passed: timedelta = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return duration(passed.total_seconds())
