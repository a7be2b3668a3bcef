"""`freehold keys`: the access keys that callers sign with."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from freehold.cli import options, tables

app = typer.Typer(help="Access keys: list, create, rotate, disable, delete.")
_INSTANTS: Final = ("createdAt", "expiresAt", "disabledAt")
KeyId = Annotated[str, typer.Argument(help="Access key id.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, when no command is given."""
    if context.invoked_subcommand is None:
        list_keys()


@app.command("list")
def list_keys(as_json: options.AsJson = False, data_dir: options.DataDir = None) -> None:
    """List the access keys, without their secrets."""
    found = options.connect(data_dir).operator("GET", "keys")
    if as_json:
        tables.print_json(found)
        return
    tables.print_rows(
        ("KEY", "STATUS", "CREATED", "ENDS", "DISABLED"),
        ((one["accessKeyId"], one["status"], *(tables.instant(one[at]) for at in _INSTANTS)) for one in found["keys"]),
        empty="There are no keys.",
    )


@app.command("create")
def create_key(
    expires_in: Annotated[
        int | None,
        typer.Option(min=900, max=129_600, help="Seconds for which it works: a temporary key, with a session token."),
    ] = None,
    as_json: options.AsJson = False,
    data_dir: options.DataDir = None,
) -> None:
    """Create an access key. Its secret is shown this once."""
    query = {} if expires_in is None else {"expiresInSeconds": str(expires_in)}
    _print_key(options.connect(data_dir).operator("POST", "keys", **query), as_json)


@app.command("rotate")
def rotate_key(
    key: KeyId,
    grace: Annotated[
        int, typer.Option(min=0, max=7_776_000, help="Seconds for which the old key still works.")
    ] = 86_400,
    as_json: options.AsJson = False,
    data_dir: options.DataDir = None,
) -> None:
    """Create an access key in the place of another, which works until the grace is over or it is disabled."""
    found = options.connect(data_dir).operator("POST", f"keys/{key}/rotate", graceSeconds=str(grace))
    _print_key(found, as_json)
    if not as_json:
        typer.echo(f"key {key} works until {tables.instant(found['replaces']['expiresAt'])}", err=True)


def _print_key(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        tables.print_json(found)
        return
    typer.echo(f"export AWS_ACCESS_KEY_ID={found['accessKeyId']}")
    typer.echo(f"export AWS_SECRET_ACCESS_KEY={found['secretAccessKey']}")
    if "sessionToken" in found:
        typer.echo(f"export AWS_SESSION_TOKEN={found['sessionToken']}")
    else:
        typer.echo("unset AWS_SESSION_TOKEN")


@app.command("disable")
def disable_key(key: KeyId, data_dir: options.DataDir = None) -> None:
    """Refuse a key from now on, everywhere. The last usable one stays."""
    options.connect(data_dir).operator("POST", f"keys/{key}/disable")
    typer.echo(f"key {key} is disabled")


@app.command("delete")
def delete_key(key: KeyId, data_dir: options.DataDir = None) -> None:
    """Disable a key and forget it. The last usable one stays."""
    options.connect(data_dir).operator("DELETE", f"keys/{key}")
    typer.echo(f"key {key} is deleted")
