"""Imports the `freehold` command, and runs it in forks of itself as it is asked to. Started by `freehold_cli`."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from typing import Any

import freehold.cli.client
import freehold.cli.deploy
import freehold.cli.main
import freehold.store.sqlite


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        while True:
            data, fds, _, _ = socket.recv_fds(asked, 1 << 20, 2)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                asked.close()
                os._exit(_be(json.loads(data), *fds))
            for fd in fds:
                os.close(fd)
            asked.send(b"%d" % pid)
            _, status = os.waitpid(pid, 0)
            asked.send(b"%d" % os.waitstatus_to_exitcode(status))


def _be(told: dict[str, Any], out: int, err: int) -> int:
    """The command's exit status. Whatever happens, this is the process of the command alone."""
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(told["directory"])
        os.environ.clear()
        os.environ.update(told["environment"])
        sys.argv = ["freehold", *told["command"]]
        try:
            freehold.cli.main.main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
