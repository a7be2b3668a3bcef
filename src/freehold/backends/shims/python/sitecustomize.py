"""Has an agent without a network of its own listen where its server wants it, instead of on its contract port.

Found by every Python that an agent of the process backend starts, since the directory is on its PYTHONPATH. The
variable FREEHOLD_BIND is `<contract port>:<port>:<descriptor>`: whoever binds a TCP socket to one of these ports gets
the socket behind the descriptor, which the supervisor has bound to the loopback address. Invariant: nothing else of
Python changes, and a sitecustomize of the agent's own runs as if this were not here.
"""

import importlib.machinery
import importlib.util
import os
import socket
import sys
from typing import Any


def _redirect(told: str) -> None:
    contract_port, port, descriptor = map(int, told.split(":"))
    bind = socket.socket.bind

    def bind_elsewhere(self: socket.socket, address: Any, /) -> None:
        internet = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if not internet or address[1] not in (contract_port, port):
            bind(self, address)
            return
        timeout = self.gettimeout()
        os.dup2(descriptor, self.fileno(), inheritable=self.get_inheritable())
        # Whether it blocks belonged to the socket that has gone.
        self.settimeout(timeout)

    socket.socket.bind = bind_elsewhere  # type: ignore[method-assign]


def _run_next() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow to import, and all pay
    path = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100
    found = importlib.machinery.PathFinder.find_spec(__name__, path)
    if found is not None and found.loader is not None:
        module = importlib.util.module_from_spec(found)
        sys.modules[__name__] = module
        found.loader.exec_module(module)


if "FREEHOLD_BIND" in os.environ:
    _redirect(os.environ["FREEHOLD_BIND"])
_run_next()
