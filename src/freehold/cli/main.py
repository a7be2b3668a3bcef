"""The `freehold` command: thin, one function a command.

Not for: doing the work. `up` hands over to `processes`, `data_directory` has the commands on a data directory; nearly
everything else speaks HTTP to a running server as any client. Invariant: a command imports what it needs when it is
called, so that a server's start does not wait for the imports of a client.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold import running, settings, startup
from freehold.cli import data_directory, failures, keys, runtimes, sessions
from freehold.cli.options import AsJson, DataDir, connect, data_dir_of

if TYPE_CHECKING:
    from freehold import processes

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.add_typer(runtimes.app, name="runtimes")
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Entry point: expected failures end with one line and status 1."""
    try:
        app()
    except Exception as error:
        if not isinstance(error, failures.expected()):
            raise
        typer.secho(f"freehold: {error}", fg=typer.colors.RED, err=True)
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
    startup.import_lightly()
    from freehold import processes

    flags: dict[str, Any] = {"data_dir": data_dir, "server": {"host": host, "port": port, "workers": workers}}

    def load() -> settings.Settings:
        return settings.load(file=config, flags=flags)

    processes.Server(load(), load=load).run(_announce)


def _announce(server: processes.Server) -> None:
    sandbox = "sandbox per session" if server.settings.sandbox.mode == "auto" else "NO SANDBOX (sandbox.mode=process)"
    typer.echo(f"Freehold is ready at {server.url} (data: {server.settings.data_dir}, {sandbox})")


@app.command()
def env(data_dir: DataDir = None) -> None:
    """Print export lines that point AWS SDKs at a server: eval "$(freehold env)"."""
    for name, value in exports(running.connection(data_dir_of(data_dir))).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    typer.echo("unset AWS_SESSION_TOKEN AWS_PROFILE")


def exports(connection: running.Connection) -> dict[str, str]:
    """The environment variables that point AWS SDKs at a server."""
    return {
        "AWS_ACCESS_KEY_ID": connection.access_key_id,
        "AWS_SECRET_ACCESS_KEY": connection.secret,
        "AWS_REGION": connection.region,
        "AWS_DEFAULT_REGION": connection.region,
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": connection.url,
        "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": connection.url,
    }


@app.command()
def deploy(
    directory: Annotated[Path, typer.Argument(help="The agent's folder.", exists=True, file_okay=False)],
    name: Annotated[str, typer.Option(help="Name of the agent runtime: [a-zA-Z][a-zA-Z0-9_]{0,47}.")],
    protocol: Annotated[str, typer.Option(help="What the agent speaks: HTTP, MCP, A2A or AGUI.")] = "HTTP",
    entry_point: Annotated[list[str] | None, typer.Option(help="Repeatable.  [default: main.py]")] = None,
    runtime: Annotated[str | None, typer.Option(help="Such as PYTHON_3_11.  [default: this Python's]")] = None,
    environment: Annotated[list[str] | None, typer.Option("--env", help="KEY=VALUE for the agent; repeatable.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Pack a folder with its requirements, and create or update an agent runtime of it."""
    from rich.console import Console

    from freehold.cli import deploy as deploying

    wanted = deploying.Wanted(
        directory=directory.resolve(),
        name=name,
        protocol=protocol,
        entry_point=entry_point or ["main.py"],
        runtime=runtime or deploying.this_runtime(),
        environment=deploying.read_environment(environment or []),
    )
    deploying.deploy(connect(data_dir), wanted, Console(stderr=True))


@app.command()
def invoke(
    name: Annotated[str, typer.Argument(help="Name of the agent runtime.")],
    payload: Annotated[str, typer.Argument(help="JSON; other text is wrapped as the protocol wants it; - for stdin.")],
    session: Annotated[str | None, typer.Option(help="Session id of 33 to 256 characters.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Send one request to an agent and print the answer as it comes."""
    from freehold.cli import invoke as invoking

    text = sys.stdin.read() if payload == "-" else payload
    invoking.invoke(connect(data_dir), name, text, session)


app.command()(data_directory.migrate)
app.command()(data_directory.backup)
app.command()(data_directory.restore)


@app.command("logs")
def show_logs(
    name: Annotated[str, typer.Argument(help="Name or id of the agent runtime.")],
    session: Annotated[str | None, typer.Option(help="Of this session alone: session id or generation.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Of this endpoint alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    tail: Annotated[int | None, typer.Option(help="Begin with the newest lines, this many.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Print what an agent's sessions printed."""
    from freehold.cli import logs

    logs.print_logs(data_dir, name, session=session, endpoint=endpoint, follow=follow, tail=tail, as_json=as_json)


@app.command("doctor")
def examine(
    config: Annotated[Path | None, typer.Option(help="Settings file.  [default: freehold.toml, if any]")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say what protects sessions on this host and what is missing; status 1 when no server could start."""
    from freehold.cli import doctor

    sys.exit(doctor.examine(settings.load(file=config, flags={"data_dir": data_dir}), as_json=as_json))
