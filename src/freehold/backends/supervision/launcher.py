"""The launcher: forks a supervisor per session and a remover per ended one, and watches over them.

A process of its own, single-threaded and small, because forking the warden would copy its descriptors and its event
loop, and because the kernel ties a child's life to the *thread* that made it. Standard library only: it is started
as `python -I -m freehold.backends.supervision.launcher <module of the supervisor> <control descriptor> <parent's
process id>`. Invariant: the launcher and all below it end when the warden does: by the end of their sockets, and
where nothing is left to do by the parent-death signal.

Asked over the control socket (SEQPACKET, JSON): `{"do": "start", "generation"}` with the descriptors of the session's
socket, its plan, stdout and stderr; `{"do": "kill", "generation"}`; `{"do": "remove", "id", "remains"}`. Told:
`{"gone": generation}` when a supervisor has ended, `{"id", "error"}` when a removal has.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from freehold.backends.supervision import linux, removal

if TYPE_CHECKING:
    from freehold.backends.supervision.supervisor import SupervisorModule

MAX_REQUEST_BYTES = 64 * 1024


class Launcher:
    """The loop over requests and ended children."""

    def __init__(self, control: socket.socket, supervisor: SupervisorModule) -> None:
        self._control = control
        self._supervisor = supervisor
        self._pid = os.getpid()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._supervisors: dict[int, tuple[int, int]] = {}
        """By generation: process id and descriptor of its process."""
        self._children: set[int] = set()
        self._ended: dict[int, Callable[[int], None]] = {}
        """By descriptor of a process: what to do with its exit status."""

    def run(self) -> None:
        """Until the warden has gone."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._ended:
                    self._reap(fd)
                elif not self._hear():
                    return

    def _hear(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, MAX_REQUEST_BYTES, 4)
        if not data:
            return False
        request: dict[str, Any] = json.loads(data)
        match request["do"]:
            case "start":
                self._start(request["generation"], fds)
            case "kill":
                if request["generation"] in self._supervisors:
                    signal.pidfd_send_signal(self._supervisors[request["generation"]][1], signal.SIGKILL)
            case "remove":
                self._remove(request["id"], removal.Remains(**request["remains"]))
            case other:
                raise ValueError(f"not a request: {other}")
        return True

    def _start(self, generation: int, fds: list[int]) -> None:
        session_fd, plan, stdout, stderr = fds

        def supervise() -> None:
            linux.close_all_but({0, 1, 2, *fds})
            self._supervisor.main(self._pid, socket.socket(fileno=session_fd), plan, stdout, stderr)

        def ended(_status: int) -> None:
            del self._supervisors[generation]
            if not self._supervisor.ENDS_WITH_PARENT:
                self._kill_orphans()
            self._tell({"gone": generation})

        try:
            pid, held = self._fork(supervise, ended)
        except OSError as error:
            self._tell({"gone": generation, "error": str(error)})
        else:
            self._supervisors[generation] = pid, held
        finally:
            for fd in fds:
                os.close(fd)

    def _kill_orphans(self) -> None:
        """Kill what a killed supervisor has left to us: its descendants, and then theirs."""
        while orphans := [pid for pid in linux.children_of(self._pid) if pid not in self._children]:
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _remove(self, number: int, remains: removal.Remains) -> None:
        def work() -> None:
            linux.die_with_parent(self._pid)
            error = None
            try:
                removal.remove(remains)
            except (OSError, TimeoutError) as problem:
                error = str(problem) or type(problem).__name__
            self._tell({"id": number, "error": error})

        def ended(status: int) -> None:
            if status != 0:
                self._tell({"id": number, "error": f"the remover ended with {status}"})

        try:
            self._fork(work, ended)
        except OSError as error:
            self._tell({"id": number, "error": str(error)})

    def _fork(self, work: Callable[[], None], ended: Callable[[int], None]) -> tuple[int, int]:
        pid = os.fork()
        if pid == 0:
            _be_child(work)
        held = os.pidfd_open(pid)
        os.set_inheritable(held, False)
        self._children.add(pid)
        self._ended[held] = ended
        self._poll.register(held, select.POLLIN)
        return pid, held

    def _reap(self, held: int) -> None:
        result = os.waitid(os.P_PIDFD, held, os.WEXITED)
        assert result is not None
        self._poll.unregister(held)
        ended = self._ended.pop(held)
        os.close(held)
        self._children.discard(result.si_pid)
        ended(result.si_status)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            # The warden has gone, and so do we.
            sys.exit(1)


def _be_child(work: Callable[[], None]) -> NoReturn:
    """Do `work` in a fork and end, never returning into the launcher's loop."""
    status = 1
    try:
        work()
        status = 0
    except SystemExit:
        pass
    except BaseException:
        # By descriptor: nothing may raise here.
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)


def main() -> None:
    """Be the launcher; see the module."""
    name, *numbers = sys.argv[1:]
    control_fd, parent = map(int, numbers)
    module = cast("SupervisorModule", importlib.import_module(name))
    if module.ENDS_WITH_PARENT:
        linux.die_with_parent(parent)
    else:
        linux.become_subreaper()
    # A terminal or a service manager may signal everybody at once; the warden decides when sessions end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    os.chdir("/")
    gc.collect()
    gc.freeze()
    Launcher(control, module).run()


if __name__ == "__main__":
    main()
