"""The `freehold` command: thin, one function a command.

Not for: doing the work. `up` hands over to `processes`; everything else speaks HTTP to a running server as any client.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from freehold import compose, processes, settings
from freehold.cli import client
from freehold.cli import deploy as deploying
from freehold.cli import invoke as invoking

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

EXPECTED = (
    client.ClientError,
    compose.NoServer,
    deploying.DeployError,
    processes.CannotStart,
    settings.SettingsError,
)

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.", show_default=False)]


def main() -> None:
    """Entry point: expected failures end with one line and status 1."""
    try:
        app()
    except EXPECTED as error:
        errors.print(f"freehold: {error}", markup=False, style="red")
        sys.exit(1)


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one.  [default: 2673]")] = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option(help="Gateway workers.  [default: 1]")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file.  [default: freehold.toml, if any]")] = None,
) -> None:
    """Run a server in the foreground, until Ctrl-C."""
    flags: dict[str, Any] = {"data_dir": data_dir, "server": {"host": host, "port": port, "workers": workers}}
    processes.Server(settings.load(file=config, flags=flags)).run(_announce)


def _announce(server: processes.Server) -> None:
    sandbox = "sandbox per session" if server.settings.sandbox.mode == "auto" else "NO SANDBOX (sandbox.mode=process)"
    typer.echo(f"Freehold is ready at {server.url} (data: {server.settings.data_dir}, {sandbox})")


@app.command()
def env(data_dir: DataDir = None) -> None:
    """Print export lines that point AWS SDKs at a server: eval "$(freehold env)"."""
    connection = compose.connection(_data_dir(data_dir))
    for name, value in {
        "AWS_ACCESS_KEY_ID": connection.access_key_id,
        "AWS_SECRET_ACCESS_KEY": connection.secret,
        "AWS_REGION": connection.region,
        "AWS_DEFAULT_REGION": connection.region,
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": connection.url,
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": connection.url,
    }.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    typer.echo("unset AWS_SESSION_TOKEN AWS_PROFILE")


@app.command()
def deploy(
    directory: Annotated[Path, typer.Argument(help="The agent's folder.", exists=True, file_okay=False)],
    name: Annotated[str, typer.Option(help="Name of the agent runtime: [a-zA-Z][a-zA-Z0-9_]{0,47}.")],
    protocol: Annotated[str, typer.Option(help="What the agent speaks: HTTP or AGUI.")] = "HTTP",
    entry_point: Annotated[list[str] | None, typer.Option(help="Repeatable.  [default: main.py]")] = None,
    runtime: Annotated[str | None, typer.Option(help="Such as PYTHON_3_11.  [default: this Python's]")] = None,
    environment: Annotated[list[str] | None, typer.Option("--env", help="KEY=VALUE for the agent; repeatable.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Pack a folder with its requirements, and create or update an agent runtime of it."""
    wanted = deploying.Wanted(
        directory=directory.resolve(),
        name=name,
        protocol=protocol,
        entry_point=entry_point or ["main.py"],
        runtime=runtime or deploying.this_runtime(),
        environment=deploying.read_environment(environment or []),
    )
    deploying.deploy(client.connect(_connection(data_dir)), wanted, Console(stderr=True))


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(help="Name of the agent runtime.")],
    payload: Annotated[str, typer.Argument(help="JSON; other text is wrapped as the protocol wants it; - for stdin.")],
    session: Annotated[str | None, typer.Option(help="Session id of 33 to 256 characters.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Send one request to an agent and print the answer as it comes."""
    text = sys.stdin.read() if payload == "-" else payload
    invoking.invoke(client.connect(_connection(data_dir)), name, text, session)


def _data_dir(data_dir: Path | None) -> Path:
    return settings.load(flags={"data_dir": data_dir}).data_dir


def _connection(data_dir: Path | None) -> compose.Connection:
    """What the environment says (`freehold env`), unless a data directory is named."""
    if data_dir is None and (connection := client.from_environment()) is not None:
        return connection
    return compose.connection(_data_dir(data_dir))
