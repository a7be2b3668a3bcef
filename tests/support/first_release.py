"""A data directory as the first release left it: its database as text, its master key, its bucket.

A server of that release made it, with two runtimes: `greeter`, whose version 2 serves, and `broken`, which failed. Its
paths, of the data directory and of the interpreter, are of a machine that is no more.
"""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from pathlib import Path

from running_server import RUNTIME

DATA = Path(__file__).parents[1] / "data" / "first_release"
ACCESS_KEY_ID = "AKIAFH6QPG6KVZKP32RT"
GREETER = "greeter-QNWXF631QT"
GREETER_ARN = f"arn:aws:bedrock-agentcore:us-east-1:000000000000:runtime/{GREETER}"
BROKEN = "broken-nG5t0NHbTm"


def make_database(path: Path) -> None:
    """The database alone. Its agents are those of this Python, so that they can be run here."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sql = (DATA / "database.sql").read_text().replace("PYTHON_3_11", RUNTIME).replace("python_3_11", RUNTIME.lower())
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(sql)
    path.chmod(0o600)


def make_data_dir(data_dir: Path) -> None:
    """The whole of it."""
    make_database(data_dir / "state" / "freehold.db")
    for path, data in {
        "keys/master.key": bytes.fromhex((DATA / "master.key.hex").read_text()),
        "buckets/agents/greeter.zip": base64.b64decode((DATA / "greeter.zip.b64").read_text()),
    }.items():
        (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / path).write_bytes(data)
        (data_dir / path).chmod(0o600)
