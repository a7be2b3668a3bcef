"""What an agent in a sandbox can reach of another, of the server and of the host, and what it must be able to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_sessions import LIMITS, PREFIX, Agent, Bench, opened
from deaths import Watched

from freehold.backends.base import Exit

SECRET = "what only the server may know"
COLOUR = f"red-{uuid.uuid4()}"
"""In the environment of the second agent; on this host it is there and nowhere else."""


class Two:
    """Two agents in sandboxes of one server, on an event loop of their own."""

    def __init__(self, data_dir: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self.bench: Bench
        self._opened: contextlib.AbstractAsyncContextManager[Bench]
        self._data_dir = data_dir

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def __enter__(self) -> Two:
        self._thread.start()
        self.do(self._open())
        return self

    async def _open(self) -> None:
        self.bench = Bench("sandbox", self._data_dir)
        self._opened = opened(self.bench)
        await self._opened.__aenter__()
        given = {"COLOUR": COLOUR, "LD_PRELOAD": "/var/task/evil.so", "LD_LIBRARY_PATH": "/var/task"}
        self.agents = [await self.bench.start(), await self.bench.start(self.bench.spec(environment=given))]

    def __exit__(self, *_: object) -> None:
        self.do(self._opened.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def first(self, code: str) -> Any:
        return self.do(self.agents[0].value(code))

    def second(self, code: str) -> Any:
        return self.do(self.agents[1].value(code))

    def refused(self, code: str) -> int | None:
        """The number of the error with which the first agent's `code` fails."""
        answer = self.do(self.agents[0].run(code))
        assert "error" in answer, answer
        return answer["errno"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    os.environ["SECRET_OF_THE_SERVER"] = SECRET
    directory = tmp_path_factory.mktemp("isolation")
    (directory / "data").mkdir(mode=0o700)
    (directory / "data" / "secret").write_text(SECRET)
    with Two(directory / "data") as pair:
        yield pair
    del os.environ["SECRET_OF_THE_SERVER"]


# -- processes ----------------------------------------------------------------------------------------------------


def test_an_agent_sees_itself_and_its_init_alone(two: Two):
    for ask in (two.first, two.second):
        assert len(ask("import os\nreturn [name for name in os.listdir('/proc') if name.isdigit()]")) == 2


def test_no_signal_leaves_the_sandbox(two: Two):
    assert two.refused(f"import os\nos.kill({os.getpid()}, 0)") in (errno.ESRCH, errno.EPERM)
    two.do(two.agents[0].run("import os, signal\nos.kill(-1, signal.SIGKILL)"))
    assert two.second("return 'alive'") == "alive"


def test_an_agent_has_no_privilege_and_gains_none(two: Two):
    status = dict(line.split(":\t", 1) for line in two.first("return open('/proc/self/status').read()").splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert set(status["Groups"].split()) <= {"1000", "65534"}


def test_nothing_is_inherited(two: Two):
    held = two.first(
        "import os\nfound = {}\nfor fd in os.listdir('/proc/self/fd'):\n"
        "    try:\n        found[fd] = os.readlink('/proc/self/fd/' + fd)\n"
        "    except OSError:\n        pass\nreturn found"
    )
    assert held.pop("0") == "/dev/null"
    assert held.pop("1").startswith("pipe:")
    assert held.pop("2").startswith("pipe:")
    # The agent's own listener, and the connection that asks.
    assert sorted(place.partition(":")[0] for place in held.values()) == ["socket", "socket"]
    assert two.first("import os\nreturn [os.getsid(0) > 0, os.getpgid(0) > 0]") == [True, True]
    assert two.refused("open('/dev/tty')") == errno.ENXIO


def test_nothing_of_the_servers_environment_is_found_in_any_process(two: Two):
    found = two.first(
        "import os\ntexts = []\nfor name in os.listdir('/proc'):\n    if name.isdigit():\n        try:\n"
        "            texts.append(open(f'/proc/{name}/environ').read())\n        except PermissionError:\n"
        "            texts.append('')\nreturn texts"
    )
    assert len(found) == 2
    assert SECRET not in "".join(found)


def test_an_agents_environment_is_in_no_process_list_of_the_host(two: Two):
    assert two.second("import os\nreturn os.environ['COLOUR']") == COLOUR
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                assert COLOUR.encode() not in (directory / "cmdline").read_bytes()


def test_an_agents_environment_steers_nothing_outside_of_its_sandbox(two: Two):
    """LD_PRELOAD must not reach bwrap, which runs on the host."""
    bwraps = 0
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes()
                if words.startswith(b"bwrap ") and bytes(two.bench.sessions_root) in words:
                    bwraps += 1
                    assert (directory / "environ").read_bytes() == b""
    assert bwraps >= len(two.agents)


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/tmp/note", "/home/agent/note", "/dev/shm/note"])
def test_what_one_writes_the_other_does_not_read(two: Two, place: str):
    two.first(f"open({place!r}, 'w').write('mine')\nreturn 1")
    assert two.first(f"return open({place!r}).read()") == "mine"
    assert two.second(f"import os\nreturn os.path.exists({place!r})") is False


@pytest.mark.parametrize("place", ["/", "/var/task", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/var", PREFIX])
def test_nothing_else_can_be_written(two: Two, place: str):
    assert two.refused(f"open({place!r} + '/note', 'w')") in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)


def test_only_the_system_the_interpreter_and_the_bundle_are_to_be_seen(two: Two):
    top = set(two.first("import os\nreturn os.listdir('/')"))
    system = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "proc", "dev", "etc", "home", "tmp", "var"}
    assert top <= system | {Path(PREFIX).parts[1]}
    for place in (
        "/run",
        "/sys",
        "/boot",
        "/srv",
        "/var/lib",
        "/var/run/docker.sock",
        "/etc/shadow",
        "/etc/ssl/private",
    ):
        assert two.first(f"import os\nreturn os.path.lexists({place!r})") is False, place
    for place in Path(PREFIX).parents[:-1]:
        if not place.is_relative_to("/usr"):
            assert two.refused(f"import os\nos.listdir({str(place)!r})") == errno.EACCES


def test_the_data_directory_is_not_to_be_seen(two: Two):
    for place in ("", "secret", "sessions", "artifacts"):
        path = str(two.bench.data_dir / place)
        assert two.refused(f"import os\nos.stat({path!r})") == errno.ENOENT
    assert two.refused(f"open('/proc/1/root{two.bench.data_dir}/secret')") in (errno.ENOENT, errno.EACCES)


def test_other_users_files_are_not_to_be_seen(two: Two, tmp_path: Path):
    (tmp_path / "note").write_text("of somebody")
    (tmp_path / "note").chmod(0o644)
    assert two.refused(f"open({str(tmp_path / 'note')!r})") == errno.ENOENT


def test_packages_installed_on_the_host_are_not_to_be_seen(two: Two):
    code = "import sys, os\nreturn [path for path in sys.path if 'site-packages' in path and os.listdir(path)]"
    assert two.first(code) == []


def test_the_hosts_users_and_names_are_not_told(two: Two):
    assert two.first("import pwd\nreturn [user.pw_name for user in pwd.getpwall()]") == ["agent", "nobody"]
    assert two.first("import os, socket\nreturn socket.gethostname()") == "agent"
    assert two.first("import os, pwd\nreturn pwd.getpwuid(os.getuid()).pw_dir") == "/home/agent"


def test_no_device_of_the_host_is_there(two: Two):
    names = set(two.first("import os\nreturn os.listdir('/dev')"))
    usual = {"null", "zero", "full", "random", "urandom", "tty", "stdin", "stdout", "stderr", "fd", "core", "pts"}
    assert names <= usual | {"ptmx", "shm", "console"}
    assert two.refused("import os, stat\nos.mknod('/tmp/sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))") == errno.EPERM


def test_a_setuid_program_gives_nothing(two: Two):
    code = "import subprocess\nreturn subprocess.run(['/usr/bin/su', '-c', 'id'], capture_output=True).returncode"
    if Path("/usr/bin/su").exists():
        assert two.first(code) != 0


# -- network and communication ------------------------------------------------------------------------------------


def test_a_listener_is_reached_by_its_own_session_alone(two: Two):
    listen = (
        "import socket\nfor address in (('127.0.0.1', 9999), '\\0agreed', '/tmp/socket'):\n"
        "    sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)\n"
        "    sock.bind(address)\n    sock.listen()\n    KEPT[address] = sock\nreturn True"
    )
    connect = (
        "import socket\nreached = []\nfor address in (('127.0.0.1', 9999), '\\0agreed', '/tmp/socket'):\n"
        "    sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)\n"
        "    reached.append(sock.connect_ex(address))\nreturn reached"
    )
    assert two.first(listen)
    assert two.first(connect) == [0, 0, 0]
    assert two.second(connect) == [errno.ECONNREFUSED, errno.ECONNREFUSED, errno.ENOENT]


def test_no_listener_of_the_host_is_reached(two: Two):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0freehold-test-{os.getpid()}")
        unix.listen()
        port = listener.getsockname()[1]
        code = f"import socket\nreturn socket.socket().connect_ex(('127.0.0.1', {port}))"
        assert two.first(code) == errno.ECONNREFUSED
        code = f"import socket\nreturn socket.socket(socket.AF_UNIX).connect_ex('\\0freehold-test-{os.getpid()}')"
        assert two.first(code) == errno.ECONNREFUSED


def test_there_is_no_way_out(two: Two):
    assert two.first("import socket\nreturn [name for _, name in socket.if_nameindex()]") == ["lo"]
    code = "import socket\nreturn socket.socket().connect_ex(('169.254.169.254', 80))"
    assert two.first(code) == errno.ENETUNREACH


def test_shared_memory_and_semaphores_are_each_sessions_own(two: Two):
    make = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nreturn libc.shmget(0x1234, 4096, {flags})"
    assert two.first(make.format(flags="0o1666")) >= 0
    assert two.second(make.format(flags="0")) == -1


# -- system calls -------------------------------------------------------------------------------------------------

CALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nresult = libc.{call}\n" + (
    "if result < 0:\n    raise OSError(ctypes.get_errno(), 'refused')\nreturn result"
)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("mount(b'none', b'/tmp', b'tmpfs', 0, None)", errno.EPERM),
        ("umount2(b'/tmp', 0)", errno.EPERM),
        ("chroot(b'/tmp')", errno.EPERM),
        ("unshare(0x10000000)", errno.EPERM),
        ("unshare(0x40000000)", errno.EPERM),
        ("setns(0, 0)", errno.EPERM),
        ("ptrace(0, 0, 0, 0)", errno.EPERM),
        ("syscall(248, b'user', b'x', b'y', 1, -3)", errno.EPERM),
        ("syscall(250, 0, -3, 1)", errno.EPERM),
        ("syscall(321, 0, 0, 0)", errno.EPERM),
        ("syscall(323, 0)", errno.EPERM),
        ("syscall(298, 0, 0, 0, 0, 0)", errno.EPERM),
        ("syscall(425, 1, 0)", errno.ENOSYS),
        ("syscall(435, 0, 0)", errno.ENOSYS),
        ("syscall(428, 0, b'/', 0)", errno.EPERM),
        ("syscall(304, 0, 0, 0)", errno.EPERM),
        ("syscall(0x40000000 + 39)", errno.ENOSYS),
        ("personality(0x0040000)", errno.EPERM),
        ("ioctl(1, 0x5412, b'x')", errno.EPERM),
        ("ioctl(1, ctypes.c_ulong(0x100005412), b'x')", errno.EPERM),
        ("syscall(56, 0x10000000 | 17, 0, 0, 0, 0)", errno.EPERM),
        ("socket(40, 1, 0)", errno.EAFNOSUPPORT),
        ("socket(17, 3, 0)", errno.EAFNOSUPPORT),
        ("socket(38, 5, 0)", errno.EAFNOSUPPORT),
        ("socket(2, 3, 1)", errno.EPERM),
        ("socket(2, 1, 132)", errno.EPROTONOSUPPORT),
        ("socket(16, 3, 12)", errno.EPROTONOSUPPORT),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers are those of x86_64")
def test_a_system_call_that_agents_do_not_need_is_refused(two: Two, call: str, error: int):
    assert two.refused(CALL.format(call=call)) == error


@pytest.mark.parametrize(
    "code",
    [
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\nreturn True",
        "import subprocess\nreturn subprocess.run(['/bin/sh', '-c', 'exit 3']).returncode == 3",
        "import os\npid = os.fork()\nif not pid:\n    os._exit(0)\nreturn os.waitpid(pid, 0)[1] == 0",
        "import multiprocessing\nreturn multiprocessing.Semaphore(1).acquire()",
        "from multiprocessing import shared_memory as s\nm = s.SharedMemory(None, True, 64)\nm.unlink()\nreturn True",
        "import socket\nreturn bool(socket.getaddrinfo('localhost', 80))",
        "import asyncio\nreturn asyncio.run(asyncio.sleep(0, True))",
        "import tempfile\nwith tempfile.TemporaryDirectory() as d:\n    return d.startswith('/tmp')",
        "import ssl\nssl.create_default_context()\nreturn True",
        "import sqlite3\nsqlite3.connect('/home/agent/db').execute('create table if not exists t (x)')\nreturn True",
        "import socket\nsocket.socket(socket.AF_INET6).close()\nreturn True",
        "import os\nreturn os.openpty()[0] > 0",
        "import time, datetime\nreturn bool(time.tzname)",
    ],
)
def test_what_agents_do_works(two: Two, code: str):
    assert two.first(code) is True


# -- limits -------------------------------------------------------------------------------------------------------


def test_descriptors_and_core_dumps_are_limited(two: Two):
    limits = two.first("import resource as r\nreturn [r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CORE)]")
    assert limits == [[LIMITS.open_files] * 2, [0, 0]]


FORK_UNTIL_REFUSED = """
import os, signal
pids = []
try:
    while len(pids) < 500:
        pid = os.fork()
        if not pid:
            signal.pause()
        pids.append(pid)
except BlockingIOError:
    pass
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
return len(pids)
"""


def test_processes_are_limited_in_each_session_by_itself(two: Two):
    for ask in (two.first, two.second):
        assert LIMITS.processes - 8 <= ask(FORK_UNTIL_REFUSED) <= LIMITS.processes


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user can't write cgroups here")
def test_memory_is_limited_and_the_session_alone_pays(tmp_path: Path):
    async def body() -> None:
        async with opened(Bench("sandbox", tmp_path / "data")) as bench:
            greedy, other = await bench.start(), await bench.start()
            await other.value("return 1")
            with contextlib.suppress(Exception):
                await greedy.run("KEPT['x'] = bytearray(512 * 1024 * 1024)\nKEPT['x'][::4096] = b'x' * (512 * 256)")
            assert await bench.backend.exited(greedy.ref) == Exit(None, 9)
            assert await other.value("return 'alive'") == "alive"

    asyncio.run(asyncio.wait_for(body(), 60))


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_each_session_of_roots_server_has_a_host_user_of_its_own(two: Two, tmp_path: Path):
    async def users(bench: Bench) -> set[int]:
        return {path.stat().st_uid for path in bench.sessions_root.glob("*/home")}

    async def body() -> None:
        async with opened(Bench("sandbox", tmp_path / "data")) as other:
            await other.start()
            theirs, ours = await users(other), await users(two.bench)
            assert len(ours) == 2
            assert not ours & theirs, "also of another server on this host"
            assert min(ours | theirs) >= 1000

    asyncio.run(asyncio.wait_for(body(), 60))


def test_each_process_of_an_agent_dies_with_it_at_once(two: Two):
    async def body() -> None:
        others = two.bench.processes()
        agent: Agent = await two.bench.start()
        await agent.value(
            "import os, signal\nfor _ in range(10):\n    if not os.fork():\n        os.setsid()\n"
            "        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n        signal.pause()\nreturn 1"
        )
        own = two.bench.processes() - others
        assert len(own) >= 11
        watched = Watched(own)
        await agent.stop()
        watched.assert_ended(limit_s=2)

    two.do(body())
