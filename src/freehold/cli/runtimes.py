"""`freehold runtimes`: what is deployed, and what AWS would do otherwise with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import options, tables
from freehold.cli.failures import ClientError

if TYPE_CHECKING:
    from freehold.cli.client import Clients

app = typer.Typer(help="Agent runtimes: list, show.")


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, when no command is given."""
    if context.invoked_subcommand is None:
        list_runtimes()


@app.command("list")
def list_runtimes(as_json: options.AsJson = False, data_dir: options.DataDir = None) -> None:
    """List the agent runtimes."""
    found = list(every(options.connect(data_dir)))
    if as_json:
        tables.print_json({"runtimes": found})
        return
    tables.print_rows(
        ("NAME", "ID", "STATUS", "LIVE", "LATEST", "UPDATED"),
        (
            (
                one["name"],
                one["runtimeId"],
                one["status"],
                one["liveVersion"],
                one["latestVersion"],
                tables.instant(one["updatedAt"]),
            )
            for one in found
        ),
        empty="There are no agent runtimes: deploy one with freehold deploy.",
    )


@app.command("show")
def show_runtime(
    name: Annotated[str, typer.Argument(help="Name or id of the agent runtime.")],
    as_json: options.AsJson = False,
    data_dir: options.DataDir = None,
) -> None:
    """Show one agent runtime, its latest version, and what AWS would refuse or do otherwise."""
    clients = options.connect(data_dir)
    found = clients.operator("GET", f"runtimes/{runtime_id_of(clients, name)}")
    if as_json:
        tables.print_json(found)
        return
    version = found["version"]
    code = f"{version['bucket']}/{version['key']}"
    tables.print_pairs(
        (
            ("name", found["name"]),
            ("id", found["runtimeId"]),
            ("arn", found["arn"]),
            ("status", found["status"]),
            ("failure", found["failureReason"]),
            ("live version", found["liveVersion"]),
            ("latest version", f"{version['version']} ({version['status']})"),
            ("code", code if version["versionId"] is None else f"{code} (version {version['versionId']})"),
            ("runtime", f"{version['runtime']} {' '.join(version['entryPoint'])}"),
            ("protocol", f"{version['protocol']} on port {version['port']}"),
            ("idle timeout", tables.duration(version["idleTimeoutSeconds"])),
            ("maximum lifetime", tables.duration(version["maxLifetimeSeconds"])),
            ("environment", ", ".join(version["environmentVariables"])),
            ("log group", ", ".join(found["logGroups"])),
            *((f"differs: {one['code']}", one["message"]) for one in found["parityWarnings"]),
        )
    )


def every(clients: Clients) -> Iterator[dict[str, Any]]:
    """All agent runtimes, page by page."""
    query: dict[str, str] = {}
    while True:
        page = clients.operator("GET", "runtimes", **query)
        yield from page["runtimes"]
        if "nextToken" not in page:
            return
        query = {"nextToken": page["nextToken"]}


def runtime_id_of(clients: Clients, name: str) -> str:
    """The id of the agent runtime with this name or id. Raises ClientError."""
    for runtime in every(clients):
        if name in (runtime["name"], runtime["runtimeId"]):
            return runtime["runtimeId"]
    raise ClientError(f"there is no agent runtime called {name}")
