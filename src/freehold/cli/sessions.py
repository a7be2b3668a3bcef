"""`freehold sessions`: what runs, what has run and why it ended, stopping one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import options, runtimes, tables
from freehold.cli.failures import ClientError

if TYPE_CHECKING:
    from freehold.cli.client import Clients

MAX_PAGE = "50"

app = typer.Typer(help="Sessions: list, show, stop.")
Which = Annotated[str, typer.Argument(help="Session id, or generation as listed.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, when no command is given."""
    if context.invoked_subcommand is None:
        list_sessions()


@app.command("list")
def list_sessions(
    runtime: Annotated[str | None, typer.Option(help="Of this agent runtime alone: name or id.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended, and why; the newest 50.")] = False,
    as_json: options.AsJson = False,
    data_dir: options.DataDir = None,
) -> None:
    """List running sessions with what they use, or those that have ended."""
    clients = options.connect(data_dir)
    query = {} if runtime is None else {"runtimeId": runtimes.runtime_id_of(clients, runtime)}
    if ended:
        found: list[dict[str, Any]] = clients.operator("GET", "sessions/ended", **query)["sessions"]
    else:
        found = every(clients, **query)
    if as_json:
        tables.print_json({"sessions": found})
    elif ended:
        _print_ended(found)
    else:
        _print_running(found)


@app.command("show")
def show_session(session: Which, as_json: options.AsJson = False, data_dir: options.DataDir = None) -> None:
    """Show one session: what it uses, or why it ended."""
    clients = options.connect(data_dir)
    found = clients.operator("GET", f"sessions/{_generation_of(clients, session)}")
    if as_json:
        tables.print_json(found)
    else:
        tables.print_pairs(_members(found))


@app.command("stop")
def stop_session(session: Which, as_json: options.AsJson = False, data_dir: options.DataDir = None) -> None:
    """End one session now, whatever is in flight."""
    clients = options.connect(data_dir)
    found = clients.operator("DELETE", f"sessions/{_generation_of(clients, session, running=True)}")
    if as_json:
        tables.print_json(found)
    else:
        typer.echo(f"session {tables.clean(found.get('sessionId'))} has ended: {tables.clean(found.get('reason'))}")


def every(clients: Clients, **query: str) -> list[dict[str, Any]]:
    """All running sessions with their usage."""
    found: list[dict[str, Any]] = []
    after = "0"
    while True:
        page = clients.operator("GET", "sessions", usage="true", after=after, **query)
        found += page["sessions"]
        if "nextAfter" not in page:
            return found
        after = str(page["nextAfter"])


def _generation_of(clients: Clients, session: str, *, running: bool = False) -> int:
    """The generation of a session that is named by it or by its session id. Raises ClientError."""
    if session.isascii() and session.isdecimal() and len(session) < 20:
        return int(session)
    found = [one["generation"] for one in every(clients) if one["sessionId"] == session]
    if not found and not running:
        ended = clients.operator("GET", "sessions/ended", sessionId=session, maxResults="1")["sessions"]
        found = [one["generation"] for one in ended]
    if not found:
        raise ClientError(f"there is no {'running ' if running else ''}session {session}")
    if len(found) > 1:
        raise ClientError(f"{len(found)} sessions have this id: name one by its generation, as listed")
    return found[0]


def _print_running(found: list[dict[str, Any]]) -> None:
    tables.print_rows(
        ("SESSION", "RUNTIME", "STATE", "AGE", "IDLE", "REQUESTS", "CPU", "MEMORY", "GENERATION"),
        (
            (
                one["sessionId"],
                f"{one['runtimeId']}/{one['endpoint']} v{one['version']}",
                one["state"],
                tables.duration(one["ageSeconds"]),
                tables.duration(one["idleSeconds"]),
                one["requests"],
                _cpu(one["usage"]),
                _memory(one["usage"], "memoryBytes"),
                one["generation"],
            )
            for one in found
        ),
        empty="No session runs.",
    )


def _print_ended(found: list[dict[str, Any]]) -> None:
    tables.print_rows(
        ("SESSION", "RUNTIME", "ENDED", "AFTER", "REASON", "REQUESTS", "CPU", "PEAK", "GENERATION"),
        (
            (
                one["sessionId"],
                f"{one['runtimeId']}/{one['endpoint']} v{one['version']}",
                tables.instant(one["endedAt"]),
                tables.between(one["startedAt"], one["endedAt"]),
                one["reason"],
                one["requests"],
                _cpu(one["usage"]),
                _memory(one["usage"], "memoryPeakBytes"),
                one["generation"],
            )
            for one in found
        ),
        empty="No session that has ended is remembered.",
    )


def _members(one: dict[str, Any]) -> list[tuple[str, Any]]:
    shown: list[tuple[str, Any]] = [
        ("session", one["sessionId"]),
        ("generation", one["generation"]),
        ("runtime", f"{one['runtimeId']}/{one['endpoint']} version {one['version']}"),
        ("state", one["state"]),
    ]
    if one["state"] == "ENDED":
        shown += [
            ("started", tables.instant(one["startedAt"])),
            ("ended", tables.instant(one["endedAt"])),
            ("reason", one["reason"]),
            ("detail", one["detail"]),
        ]
    else:
        shown += [
            ("age", tables.duration(one["ageSeconds"])),
            ("idle", tables.duration(one["idleSeconds"])),
            ("held by", f"{one['claims']} gateway workers"),
        ]
    usage = one["usage"]
    return [
        *shown,
        ("requests", one["requests"]),
        ("CPU", _cpu(usage)),
        ("memory", _memory(usage, "memoryBytes")),
        ("memory peak", _memory(usage, "memoryPeakBytes")),
        ("processes", None if usage is None else usage["processes"]),
        ("log group", one["logGroup"]),
    ]


def _cpu(usage: dict[str, Any] | None) -> str | None:
    return None if usage is None or usage["cpuSeconds"] is None else f"{usage['cpuSeconds']:.2f}s"


def _memory(usage: dict[str, Any] | None, member: str) -> str | None:
    return None if usage is None else tables.mebibytes(usage[member])
