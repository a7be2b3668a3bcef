"""The supervisor of a sandboxed session: starts bwrap, joins the session's network, holds its first process.

Standard library only. Invariant: whatever bwrap's parts do, the session's processes end with this one: bwrap by the
parent-death signal, its init by bwrap's, all others by the end of the init of their process namespace.
"""

# ruff: noqa: PTH103, S606
# Every fork would carry pathlib; and no shell is wanted.

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import time
from dataclasses import dataclass, field

from freehold.backends.supervision import linux
from freehold.backends.supervision.inlets import Inlet
from freehold.backends.supervision.supervisor import (
    KILL_TIMEOUT_S,
    SETUP_TIMEOUT_S,
    NotStarted,
    Supervisor,
    is_readable,
    limit,
    read_all,
    read_plan,
)

ENDS_WITH_PARENT = True
STAGE = "/tmp"  # noqa: S108 - a mount point that every host has; it is covered in a private mount namespace
"""Where a root server's child binds what its dropped user could not reach; `Plan.stage` names are under it."""


@dataclass(frozen=True)
class Plan:
    """What the backend decided about one session. All paths are host paths."""

    bwrap: str
    args: list[str]
    """bwrap's arguments without the descriptors."""
    command: list[str]
    name: str
    """bwrap's name in process lists, by which a session's processes can be found after a kill."""
    seccomp: str
    """The filter, in hexadecimal."""
    open_files: int
    processes: int | None
    cgroups: list[str] = field(default_factory=list[str])
    """Files to write "0" to."""
    inlets: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])
    """Name, address and port of each (`supervision.inlets`)."""
    uid: int | None = None
    """The host uid to drop to; None to stay the ordinary user we are."""
    stage: dict[str, str] = field(default_factory=dict[str, str])
    """Name under STAGE to source, in order; only with a uid."""


def main(launcher_pid: int, session: socket.socket, plan_fd: int, stdout: int, stderr: int) -> None:
    """See `supervision.supervisor.SupervisorModule`."""
    linux.die_with_parent(launcher_pid)
    SandboxSupervisor(launcher_pid, session, Plan(**read_plan(plan_fd))).supervise(stdout, stderr)


class SandboxSupervisor(Supervisor):
    """The parent of one bwrap."""

    def __init__(self, launcher_pid: int, session: socket.socket, plan: Plan) -> None:
        super().__init__(session)
        self._launcher_pid = launcher_pid
        self._plan = plan
        self._bwrap_pid = 0
        self._init = -1
        self._init_pid = 0

    def start(self, stdout: int, stderr: int) -> None:
        """Start bwrap, join its network, set its limits, let the agent go. Raises NotStarted."""
        broken_read, broken_write = os.pipe()
        info_read, info_write = os.pipe()
        go_read, go_write = os.pipe()
        parent = os.getpid()
        self._bwrap_pid = os.fork()
        if self._bwrap_pid == 0:
            _become_bwrap(self._plan, parent, broken_write, {0: -1, 1: stdout, 2: stderr}, info_write, go_read)
        self.child = os.pidfd_open(self._bwrap_pid)
        for fd in (broken_write, info_write, go_read, stdout, stderr):
            os.close(fd)
        reason = read_all(broken_read, SETUP_TIMEOUT_S)
        if reason:
            raise NotStarted(reason.decode(errors="replace"))
        info = read_all(info_read, SETUP_TIMEOUT_S)
        if not info:
            raise NotStarted("the sandbox could not be set up")
        try:
            self._hold_init(int(json.loads(info)["child-pid"]))
            self._enter_network()
            if self._plan.processes is not None:
                self._limit_processes(self._plan.processes)
        except OSError as error:
            if is_readable(self.child):
                raise NotStarted("the sandbox ended while it was set up") from error
            raise NotStarted(f"the sandbox could not be joined: {error}") from error
        # Blocked until now: init could not run the agent, nor could its process id pass to somebody else.
        os.write(go_write, b"1")
        os.close(go_write)
        for fd in (broken_read, info_read):
            os.close(fd)

    def _hold_init(self, pid: int) -> None:
        self._init_pid = pid
        self._init = os.pidfd_open(pid)
        if linux.parent_of(pid) != self._bwrap_pid:
            raise OSError(errno.ESRCH, "the session's first process has ended")

    def _enter_network(self) -> None:
        """Join the session's network namespace, and give up every privilege that this took."""
        network = _open_patiently(f"/proc/{self._init_pid}/ns/net", self.child)
        if self._plan.uid is None:
            # The namespace's *owner*: bwrap nests a second user namespace to forbid more of them.
            owner = fcntl.ioctl(network, linux.NS_GET_USERNS)
            linux.setns(owner, linux.CLONE_NEWUSER)
            os.close(owner)
            linux.setns(network, linux.CLONE_NEWNET)
            self._open_inlets()
            linux.drop_all_capabilities()
        else:
            linux.setns(network, linux.CLONE_NEWNET)
            self._open_inlets()
            linux.drop_to(self._plan.uid)
        os.close(network)
        linux.die_with_parent(self._launcher_pid)

    def _open_inlets(self) -> None:
        # Before the agent runs, which could take the ports, and with the privilege for low ones.
        self.open_inlets(Inlet(*inlet) for inlet in self._plan.inlets)

    def _limit_processes(self, count: int) -> None:
        # Not before: as an ordinary user's the limit would count all that user's processes, but in the session's
        # user namespace it counts the session's.
        _, hard = resource.prlimit(self._init_pid, resource.RLIMIT_NPROC)
        bound = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.prlimit(self._init_pid, resource.RLIMIT_NPROC, (bound, bound))

    def ask_to_end(self) -> bool:
        asked = False
        for pid in linux.children_of(self._init_pid):
            with contextlib.suppress(ProcessLookupError):
                agent = os.pidfd_open(pid)
                try:
                    # Only now does the descriptor hold the process: is it still the one we looked at?
                    if linux.parent_of(pid) == self._init_pid:
                        signal.pidfd_send_signal(agent, signal.SIGTERM)
                        asked = True
                finally:
                    os.close(agent)
        return asked

    def kill(self) -> None:
        """Kill every process of the session, and wait until they have gone."""
        for fd in (self._init, self.child):
            if fd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                # The first process of a namespace is gone only when all the others are.
                select.select([fd], [], [], KILL_TIMEOUT_S)

    def reap(self) -> int:
        _, status = os.waitpid(self._bwrap_pid, 0)
        code = os.waitstatus_to_exitcode(status)
        # bwrap tells of its child's death by a signal as a shell does.
        return 128 - code if code > 128 else code

    def addresses(self, port: int) -> list[tuple[str, int]]:
        return [("127.0.0.1", port), ("::1", port)]


# -- the child that becomes bwrap -----------------------------------------------------------------------------------


def _become_bwrap(plan: Plan, parent: int, broken: int, stdio: dict[int, int], info: int, go: int) -> None:
    """Never returns. Why it failed is written to `broken`, which closes by itself at the exec."""
    try:
        linux.die_with_parent(parent)
        linux.restore_signals()
        os.umask(0o022)
        _join(plan.cgroups)
        _volunteer_for_oom()
        args = _memory_file("arguments", b"\0".join(map(os.fsencode, plan.args)) + b"\0")
        seccomp = _memory_file("seccomp", bytes.fromhex(plan.seccomp))
        if plan.uid is not None:
            _stage(plan.stage)
            linux.drop_to(plan.uid)
            linux.die_with_parent(parent)
        limit(resource.RLIMIT_NOFILE, plan.open_files)
        limit(resource.RLIMIT_CORE, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in stdio.items():
            os.dup2(null if source < 0 else source, target)
        kept = (args, seccomp, info, go)
        linux.close_all_but({0, 1, 2, broken, *kept})
        for fd in kept:
            os.set_inheritable(fd, True)
        os.chdir("/")
        words = ["--args", str(args), "--seccomp", str(seccomp), "--info-fd", str(info), "--block-fd", str(go)]
        # With an empty environment: the agent's own, which its owner chose, must not steer a program outside of the
        # sandbox (LD_PRELOAD). bwrap sets it from its arguments, which it reads from a descriptor.
        os.execve(plan.bwrap, [plan.name, *words, "--", *plan.command], {})
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(broken, f"the sandbox could not be started: {error}".encode()[:4096])
    finally:
        os._exit(1)


def _join(files: list[str]) -> None:
    for path in files:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def _volunteer_for_oom() -> None:
    """When the host runs out of memory, an agent goes before the server does."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"500")
    finally:
        os.close(fd)


def _stage(stage: dict[str, str]) -> None:
    """Bind what the dropped user can't reach under STAGE, in a mount namespace of this process."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    # Opened before STAGE is covered, which may hold some of them. A final symlink is not followed.
    sources = {name: os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC) for name, path in stage.items()}
    linux.mount("stage", STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755,size=1m")
    for name, fd in sources.items():
        target = f"{STAGE}/{name}"
        os.makedirs(target, exist_ok=True)
        linux.mount(f"/proc/self/fd/{fd}", target, None, linux.MS_BIND)
        os.close(fd)
    linux.mount("none", STAGE, None, linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)


def _memory_file(name: str, data: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _open_patiently(path: str, bwrap: int) -> int:
    """Open a namespace of a process that is still changing its identity, during which it can't be looked at."""
    deadline = time.monotonic() + SETUP_TIMEOUT_S
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            if time.monotonic() >= deadline or select.select([bwrap], [], [], 0.0005)[0]:
                raise
