"""A running server as its data directory shows it: where it is, and the key of its owner.

For: commands on the same host. Not for clients elsewhere, who have been given both. Invariant: nothing is told of a
server that does not hold the directory's lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from freehold.datadir import custody
from freehold.datadir.layout import Layout
from freehold.domain.times import utc_now


class NoServer(Exception):
    """No server runs with this data directory. The message says how to start one."""


class ServerFile(msgspec.Struct, frozen=True):
    url: str
    region: str
    account: str


@dataclass(frozen=True, slots=True)
class Connection:
    """How a client reaches a server."""

    url: str
    region: str
    access_key_id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def connection(data_dir: Path) -> Connection:
    """How to reach the server that runs with `data_dir`, as its owner. Raises NoServer."""
    from freehold.control.keys import StoredKeys
    from freehold.store.base import Scope, StoreRefused
    from freehold.store.sqlite import open_store
    from freehold.store.vault import open_vault

    layout = Layout(data_dir)
    if not custody.is_locked(data_dir):
        raise NoServer(
            f"no server runs with the data directory {data_dir}: start one with freehold up --data-dir {data_dir}"
        )
    try:
        server = msgspec.json.decode(layout.server_file.read_bytes(), type=ServerFile)
        store = open_store(layout.database)
    except (OSError, msgspec.DecodeError, StoreRefused) as error:
        raise NoServer(f"the server with the data directory {data_dir} can't be reached: {error}") from error
    try:
        vault = open_vault(layout.master_key, layout.database, store)
        key = StoredKeys(store, vault, now=utc_now).first_key(Scope(server.account, server.region))
    except StoreRefused as error:
        raise NoServer(str(error)) from error
    finally:
        store.close()
    return Connection(server.url, server.region, key.access_key_id, key.secret)


def remove_run_files(data_dir: Path) -> None:
    """Remove what says that a server runs here; the journal stays, since it counts boots."""
    layout = Layout(data_dir)
    for path in (layout.server_file, layout.warden_socket, layout.feed_socket, layout.control_socket):
        path.unlink(missing_ok=True)
