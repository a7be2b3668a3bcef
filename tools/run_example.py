"""`./dev run`: Freehold, the AG-UI example deployed and invoked, its events printed as they arrive.

With `--once` it stops after the run and ends with status 0 only when RUN_FINISHED came. Invariant: nothing is left
behind: no process, no directory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from tools import ephemeral

EXAMPLE = ephemeral.ROOT / "examples" / "agui_csv"
NAME = "agui_csv"
QUESTION = "average price by region"


class RunFailed(Exception):
    """The run did not finish as it should. The message says how."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev run", description="Run Freehold with the AG-UI example.")
    parser.add_argument("--once", action="store_true", help="stop after the run")
    parser.add_argument("question", nargs="?", default=QUESTION, help=f"what to ask the agent (default: {QUESTION!r})")
    options = parser.parse_args()
    ephemeral.end_on_signals()
    try:
        with ephemeral.server() as server:
            print(f"Freehold runs at {server.url}, in {server.data_dir}", flush=True)
            deploy(server)
            invoke(server, options.question)
            if not options.once:
                serve(server)
    except ephemeral.Interrupted as interrupted:
        return 0 if not options.once and interrupted.args == ("SIGINT",) else interrupted.status
    except (RunFailed, ephemeral.ServerFailed) as problem:
        print(f"dev run: {problem}", file=sys.stderr)
        return 1
    return 0


def deploy(server: ephemeral.EphemeralServer) -> None:
    print(f"Deploying {EXAMPLE.relative_to(ephemeral.ROOT)}", flush=True)
    command = server.command("deploy", str(EXAMPLE), "--name", NAME, "--protocol", "AGUI")
    if (status := _wait(subprocess.Popen(command, cwd=ephemeral.ROOT, stdin=subprocess.DEVNULL))) != 0:
        raise RunFailed(f"the example can't be deployed (status {status})")


def invoke(server: ephemeral.EphemeralServer, question: str) -> None:
    """Print each event as it comes. Raises RunFailed unless the run finished."""
    print(f"Asking: {question}", flush=True)
    command = server.command("invoke", NAME, question)
    process = subprocess.Popen(command, cwd=ephemeral.ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last: dict[str, Any] = {}
    try:
        for line in process.stdout:
            if line.strip():
                print(line, end="", flush=True)
            if line.startswith("data:"):
                last = json.loads(line.removeprefix("data:"))
    except ValueError as error:
        raise RunFailed(f"the agent sent an event that is not JSON: {error}") from error
    finally:
        process.stdout.close()
        status = _wait(process)
    if status != 0:
        raise RunFailed(f"the agent can't be invoked (status {status})")
    if last.get("type") != "RUN_FINISHED":
        raise RunFailed(f"the run did not end with RUN_FINISHED but with {last.get('type', 'no event at all')}")


def serve(server: ephemeral.EphemeralServer) -> None:
    """Say where, and serve until a signal. Raises ServerFailed when the server ends by itself."""
    data_dir = server.data_dir
    print(
        f"\nFreehold serves at {server.url} until Ctrl-C.\n"
        f"  data      {data_dir}\n"
        f'  AWS SDKs  eval "$(.venv/bin/freehold env --data-dir {data_dir})"\n'
        f"  again     .venv/bin/freehold invoke {NAME} --data-dir {data_dir} 'describe price'",
        flush=True,
    )
    raise ephemeral.ServerFailed(f"the server ended by itself with status {server.process.wait()}")


def _wait(process: subprocess.Popen[Any]) -> int:
    """The status of a child; a child is not left behind when waiting is interrupted."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


if __name__ == "__main__":
    sys.exit(main())
