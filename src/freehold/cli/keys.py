"""`freehold keys`: the access keys that callers sign with."""

from __future__ import annotations

from typing import Annotated

import typer

from freehold.cli import options, tables

app = typer.Typer(help="Access keys: list, create, disable, delete.")
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
        ("KEY", "STATUS", "CREATED", "DISABLED"),
        (
            (one["accessKeyId"], one["status"], tables.instant(one["createdAt"]), tables.instant(one["disabledAt"]))
            for one in found["keys"]
        ),
        empty="There are no keys.",
    )


@app.command("create")
def create_key(as_json: options.AsJson = False, data_dir: options.DataDir = None) -> None:
    """Create an access key. Its secret is shown this once."""
    found = options.connect(data_dir).operator("POST", "keys")
    if as_json:
        tables.print_json(found)
    else:
        typer.echo(f"export AWS_ACCESS_KEY_ID={found['accessKeyId']}")
        typer.echo(f"export AWS_SECRET_ACCESS_KEY={found['secretAccessKey']}")


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
