"""The supervisor of an agent that is a plain child process: starts it, and ends it with all that it has started.

Standard library only. Not for: isolation; there is none. Invariant: descendants of the agent that outlive it become
this process's children, so none is lost sight of while this process lives.
"""

# ruff: noqa: S606
# No shell is wanted.

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from dataclasses import dataclass

from freehold.backends.supervision import linux
from freehold.backends.supervision.supervisor import (
    KILL_TIMEOUT_S,
    SETUP_TIMEOUT_S,
    NotStarted,
    Supervisor,
    limit,
    read_all,
    read_plan,
)

ENDS_WITH_PARENT = False
"""A killed agent's descendants live on, so the end of the sockets tells everybody to kill what is theirs."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Plan:
    """What the backend decided about one session. All paths are host paths."""

    executable: str
    args: list[str]
    environment: dict[str, str]
    directory: str
    contract_port: int
    open_files: int | None


def main(launcher_pid: int, session: socket.socket, plan_fd: int, stdout: int, stderr: int) -> None:
    """See `supervision.supervisor.SupervisorModule`."""
    linux.become_subreaper()
    ProcessSupervisor(session, Plan(**read_plan(plan_fd))).supervise(stdout, stderr)


class ProcessSupervisor(Supervisor):
    """The parent of one agent."""

    def __init__(self, session: socket.socket, plan: Plan) -> None:
        super().__init__(session)
        self._plan = plan
        self._pid = 0
        self._status: int | None = None
        # Bound now and handed to the agent, so that nobody else can have the port in between.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def start(self, stdout: int, stderr: int) -> None:
        self._listener.bind((LOOPBACK, 0))
        broken_read, broken_write = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._become_agent(parent, broken_write, stdout, stderr)
        self.child = os.pidfd_open(self._pid)
        for fd in (broken_write, stdout, stderr):
            os.close(fd)
        reason = read_all(broken_read, SETUP_TIMEOUT_S)
        os.close(broken_read)
        if reason:
            raise NotStarted(reason.decode(errors="replace"))

    def _become_agent(self, parent: int, broken: int, stdout: int, stderr: int) -> None:
        """Never returns. Why it failed is written to `broken`, which closes by itself at the exec."""
        try:
            linux.die_with_parent(parent)
            linux.restore_signals()
            os.setsid()
            os.umask(0o022)
            if self._plan.open_files is not None:
                limit(resource.RLIMIT_NOFILE, self._plan.open_files)
            limit(resource.RLIMIT_CORE, 0)
            null = os.open(os.devnull, os.O_RDONLY)
            for target, source in enumerate((null, stdout, stderr)):
                os.dup2(source, target)
            listener = self._listener.fileno()
            linux.close_all_but({0, 1, 2, broken, listener})
            os.set_inheritable(listener, True)
            os.chdir(self._plan.directory)
            port = self._listener.getsockname()[1]
            environment = self._plan.environment | {
                "PORT": str(port),
                "FREEHOLD_BIND": f"{self._plan.contract_port}:{port}:{listener}",
            }
            os.execve(self._plan.executable, [self._plan.executable, *self._plan.args], environment)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(broken, f"the agent could not be started: {error}".encode()[:4096])
        finally:
            os._exit(1)

    def ask_to_end(self) -> bool:
        if self._status is None:
            signal.pidfd_send_signal(self.child, signal.SIGTERM)
        return True

    def tidy(self) -> None:
        """Reap descendants that have become ours; they would stay for as long as the agent runs."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                if pid == self._pid:
                    self._status = os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """Kill our children until there are none: each kill makes the grandchildren ours."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while children := linux.children_of(os.getpid()):
            for pid in children:
                # No other number can be meant: a child stays until it is reaped, which is here.
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if pid == self._pid:
                    self._status = os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                raise TimeoutError("the agent starts processes faster than they can be killed")

    def reap(self) -> int:
        assert self._status is not None
        return self._status

    def addresses(self, port: int) -> list[tuple[str, int]]:
        return [(LOOPBACK, self._listener.getsockname()[1])] if port == self._plan.contract_port else []
