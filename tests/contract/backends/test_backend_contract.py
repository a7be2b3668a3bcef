"""What every session backend does, shown with real agents."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from backend_sessions import EVALUATING, PORT, PYTHON, Bench, opened, until
from deaths import Watched

from freehold.backends.base import Exit, SessionRef
from freehold.domain.errors import StartFailed
from freehold.domain.launch import Interpreter

SUPPORT = Path(EVALUATING).parent.parent
Body = Callable[[Bench], Awaitable[None]]


class OnBench(Protocol):
    def __call__(self, body: Body, *, stop_grace_s: float = 5.0) -> None: ...


@pytest.fixture(params=["sandbox", "process"])
def on_bench(request: pytest.FixtureRequest, tmp_path: Path) -> OnBench:
    def run(body: Body, *, stop_grace_s: float = 5.0) -> None:
        async def bounded() -> None:
            bench = Bench(request.param, tmp_path / "data", stop_grace_s=stop_grace_s)
            async with asyncio.timeout(60), opened(bench):
                await body(bench)
            assert bench.processes() == set()
            assert bench.directories() == []
            assert bench.cgroups() == []

        asyncio.run(bounded())

    return run


def test_an_agent_is_reached_on_its_contract_port(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec(args=("main.py", "well")))
        assert await agent.value("return 6 * 7") == 42
        assert (agent.ref.generation, "stdout", "starts well") in bench.lines
        assert (agent.ref.generation, "stderr", "complains") in bench.lines
        assert "complains" in bench.backend.output_tail(agent.ref)

    on_bench(body)


def test_sessions_at_once_listen_on_the_same_port_and_each_is_itself(on_bench):
    async def body(bench):
        agents = await asyncio.gather(*(bench.start() for _ in range(20)))
        for number, agent in enumerate(agents):
            await agent.value(f"KEPT['number'] = {number}")
        assert [await agent.value("return KEPT['number']") for agent in agents] == list(range(20))

    on_bench(body)


def test_a_dialled_socket_is_non_blocking_and_sends_at_once(on_bench):
    async def body(bench):
        agent = await bench.start()
        with await agent.dial() as sock:
            assert sock.getblocking() is False
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    on_bench(body)


def test_a_dial_waits_for_somebody_to_listen(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec("import time\ntime.sleep(0.3)\n" + EVALUATING.read_text()))
        with pytest.raises(ConnectionError):
            await agent.dial(wait_s=0)
        (await agent.dial()).close()

    on_bench(body)


def test_a_dial_gives_up_when_its_time_is_over(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec("import time\ntime.sleep(60)"))
        began_at = time.monotonic()
        with pytest.raises(ConnectionError):
            await agent.dial(wait_s=0.2)
        assert 0.2 <= time.monotonic() - began_at < 2

    on_bench(body)


def test_a_dial_that_waits_fails_at_once_when_the_agent_exits(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec("import time\ntime.sleep(0.2)"))
        with pytest.raises(ConnectionError):
            await agent.dial(wait_s=50)
        assert await bench.backend.exited(agent.ref) == Exit(0, None)

    on_bench(body)


def test_a_connect_that_hangs_does_not_hold_up_others(on_bench):
    deaf = """
import socket, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", 8080))
listener.listen(0)
print("deaf")
time.sleep(60)
"""

    async def body(bench):
        agent = await bench.start(bench.spec(deaf))
        await until(lambda: bench.lines, "it listens")
        filling = [await agent.dial(wait_s=1)]
        hanging = [asyncio.create_task(agent.dial(wait_s=0)) for _ in range(4)]
        done, _ = await asyncio.wait(hanging, timeout=0.3)
        assert len(done) < 4, "the queue is full"
        began_at = time.monotonic()
        with pytest.raises(ConnectionError):
            await bench.backend.dial(agent.ref, PORT + 1)
        assert time.monotonic() - began_at < 1
        for task in hanging:
            task.cancel()
        for answer in await asyncio.gather(*hanging, return_exceptions=True):
            if not isinstance(answer, BaseException):
                filling.append(answer)
        for sock in filling:
            sock.close()

    on_bench(body)


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("raise SystemExit(7)", Exit(7, None)),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", Exit(None, signal.SIGSEGV)),
        ("pass", Exit(0, None)),
    ],
)
def test_how_an_agent_ended_is_told_with_its_last_words(on_bench, ending, how):
    async def body(bench):
        agent = await bench.start(bench.spec(f"print('last words')\n{ending}"))
        assert await bench.backend.exited(agent.ref) == how
        assert "last words" in bench.backend.output_tail(agent.ref)

    on_bench(body)


def test_output_without_end_is_bounded(on_bench):
    async def body(bench):
        agent = await bench.start(
            bench.spec(
                "import sys\nsys.stdout.write('x' * 100_000 + '\\n' + 'y\\n' * 1000 + 'no end')\nraise SystemExit"
            )
        )
        await bench.backend.exited(agent.ref)
        tail = bench.backend.output_tail(agent.ref)
        assert tail.endswith("y\nno end")
        assert len(tail.splitlines()) <= 64
        assert max(len(line) for _, _, line in bench.lines) <= 8192
        assert sum(line.count("x") for _, _, line in bench.lines) == 100_000

    on_bench(body)


def test_what_a_session_uses_and_where_it_listens_is_told(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec())
        other = await bench.start(bench.spec())
        grown = "import time\nend = time.process_time() + 0.3\nglobals()['held'] = bytearray(48 << 20)\n"
        await agent.value(grown + "while time.process_time() < end: pass\nreturn 1")
        told = await bench.backend.usage([agent.ref, other.ref, SessionRef(10**9)])
        assert set(told) == {agent.ref.generation, other.ref.generation}
        busy, idle = told[agent.ref.generation], told[other.ref.generation]
        assert busy.cpu_s >= 0.3 > idle.cpu_s - 0.1
        assert busy.memory_bytes > 48 << 20 > idle.memory_bytes
        assert busy.memory_peak_bytes >= 48 << 20
        assert busy.processes >= 1
        listening = await bench.backend.listening(agent.ref)
        assert len(listening) == 1
        assert bench.kind == "process" or listening == {PORT}
        await bench.backend.stop(agent.ref)
        assert await bench.backend.usage([agent.ref]) == {}
        assert await bench.backend.listening(agent.ref) == frozenset()

    on_bench(body)


def test_what_was_written_just_before_the_end_is_not_lost(on_bench):
    async def body(bench):
        # More than is read of one session in a second: the rest waits in the pipe when the agent has ended.
        main = "import sys\nfor n in range(10700): print(n, '.' * 100)\nsys.stdout.flush()\nprint('the last')"
        spec = bench.spec(main)
        async for ref in bench.backend.start(spec):
            last = ref
        await bench.backend.exited(last)
        await bench.backend.stop(last)
        told = [line for generation, stream, line in bench.lines if (generation, stream) == (last.generation, "stdout")]
        assert told[-1] == "the last"
        assert len(told) == 10701

    on_bench(body)


def test_an_agent_finds_its_environment_and_nothing_of_the_servers(on_bench, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")

    async def body(bench):
        given = {"COLOUR": "red", "LONG": "y" * 5000}
        agent = await bench.start(bench.spec(environment=given))
        found = await agent.value("import os\nreturn dict(os.environ)")
        assert found.items() >= given.items()
        own = {"HOME", "PATH", "PYTHONPATH", "TMPDIR", "LANG", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
        own |= {"PWD", "LC_CTYPE", "PORT", "FREEHOLD_BIND", "NODE_OPTIONS", "freehold-session"}
        assert found.keys() - given.keys() <= own
        assert await agent.value("import os\nreturn os.path.samefile(os.getcwd(), os.path.dirname('main.py') or '.')")
        for name in ("HOME", "TMPDIR"):
            path = found[name]
            assert await agent.value(f"open({path!r} + '/note', 'w').write('x')\nreturn True")

    on_bench(body)


def test_modules_of_the_bundle_are_found_also_by_a_program_in_a_subdirectory(on_bench):
    async def body(bench):
        spec = bench.spec(
            "import beside\nprint(beside.WHAT)", args=("-c", "import main"), **{"beside.py": "WHAT = 'it'"}
        )
        agent = await bench.start(spec)
        assert await bench.backend.exited(agent.ref) == Exit(0, None)
        assert (agent.ref.generation, "stdout", "it") in bench.lines

    on_bench(body)


def test_an_interpreter_that_is_not_there_is_told(on_bench):
    async def body(bench):
        spec = bench.spec(interpreter=Interpreter("/usr/bin/no-such-python"))
        with pytest.raises((StartFailed, AssertionError), match="no-such-python"):
            agent = await bench.start(spec)
            how = await bench.backend.exited(agent.ref)
            raise AssertionError(f"{how} {bench.backend.output_tail(agent.ref)}")
        await bench.backend.stop(SessionRef(spec.generation))

    on_bench(body)


def test_a_nul_in_the_environment_is_refused(on_bench):
    async def body(bench):
        spec = bench.spec(environment={"NAME": "value\0--bind\0/\0/host"})
        with pytest.raises(StartFailed):
            await bench.start(spec)
        await bench.backend.stop(SessionRef(spec.generation))

    on_bench(body)


def test_a_stop_asks_the_agent_to_end(on_bench):
    async def body(bench):
        agent = await bench.start()
        await agent.value("return 1")
        began_at = time.monotonic()
        await agent.stop()
        assert time.monotonic() - began_at < bench.stop_grace_s
        assert (agent.ref.generation, "stdout", "asked to end") in bench.lines

    on_bench(body)


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
if os.fork():
    os._exit(0)
os.write(1, b"child" + bytes([10]))
time.sleep(600)
'''])
time.sleep(600)
"""


def test_a_stop_ends_an_agent_that_will_not_and_all_it_has_started(on_bench):
    async def body(bench):
        agent = await bench.start(bench.spec(STUBBORN))
        await until(lambda: sum(line == "child" for _, _, line in bench.lines) == 3, "the children run")
        assert len(bench.processes()) >= 4
        await agent.stop()
        assert bench.processes() == set()

    on_bench(body, stop_grace_s=0.2)


def test_the_children_of_an_agent_that_exits_end_with_it(on_bench):
    async def body(bench):
        spec = bench.spec(
            STUBBORN.replace('time.sleep(600)\n"""', "").removesuffix("time.sleep(600)\n") + "time.sleep(0.5)"
        )
        agent = await bench.start(spec)
        assert await bench.backend.exited(agent.ref) == Exit(0, None)
        assert bench.processes() == set()

    on_bench(body)


def test_a_stop_removes_everything_and_may_be_repeated(on_bench):
    async def body(bench):
        agent = await bench.start()
        other = await bench.start()
        await asyncio.gather(agent.stop(), agent.stop())
        await agent.stop()
        assert bench.directories() == [str(other.ref.generation)]
        assert await other.value("return 1") == 1
        with pytest.raises(ConnectionError):
            await agent.dial(wait_s=0)

    on_bench(body)


def test_a_session_that_was_started_by_half_is_stopped(on_bench):
    async def body(bench):
        spec = bench.spec()
        starting = bench.backend.start(spec)
        ref = await anext(starting)
        await starting.aclose()
        assert bench.directories() == [str(spec.generation)]
        await bench.backend.stop(ref)
        assert bench.directories() == []

    on_bench(body)


def test_a_start_that_is_cancelled_is_stopped(on_bench):
    async def body(bench):
        for turns in range(1, 12, 2):
            spec = bench.spec()
            task = asyncio.create_task(bench.start(spec))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await bench.backend.stop(SessionRef(spec.generation))
            assert bench.directories() == []
            assert bench.processes() == set()

    on_bench(body)


HOSTILE_FILES = """
import os, tempfile
home = os.environ["HOME"]
os.chdir(home)
os.makedirs("closed/inner")
open("closed/inner/file", "w").close()
os.symlink(TARGET, "closed/link")
os.symlink(TARGET, "link")
os.chmod("closed/inner", 0)
os.chmod("closed", 0)
os.mkdir(".removed-1")
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
return True
"""


def test_a_stop_removes_whatever_files_an_agent_has_made_and_follows_no_link(on_bench, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("stays")

    async def body(bench):
        agent = await bench.start()
        assert await agent.value(HOSTILE_FILES.replace("TARGET", repr(str(precious))))
        await agent.stop()
        assert bench.directories() == []

    on_bench(body)
    assert (precious / "file").read_text() == "stays"


def test_the_death_of_a_supervisor_ends_its_session_alone(on_bench):
    async def body(bench):
        agents = [await bench.start() for _ in range(2)]
        await asyncio.gather(*(agent.value("return 1") for agent in agents))
        (launcher,) = children(os.getpid(), b"launcher")
        victim, _ = sorted(children(launcher, b""))
        os.kill(victim, signal.SIGKILL)
        ends = [asyncio.create_task(bench.backend.exited(agent.ref)) for agent in agents]
        done, (running,) = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        assert [task.result() for task in done] == [Exit(None, signal.SIGKILL)]
        left = agents[ends.index(running)]
        dead = agents[1 - ends.index(running)]
        running.cancel()
        await dead.stop()
        assert bench.directories() == [str(left.ref.generation)]
        assert await left.value("return 2") == 2

    on_bench(body)


def test_the_death_of_the_launcher_ends_every_session_and_the_next_ones_start(on_bench):
    async def body(bench):
        agents = await asyncio.gather(*(bench.start() for _ in range(5)))
        (launcher,) = children(os.getpid(), b"launcher")
        os.kill(launcher, signal.SIGKILL)
        for agent in agents:
            assert await bench.backend.exited(agent.ref) == Exit(None, signal.SIGKILL)
        await asyncio.gather(*(agent.stop() for agent in agents))
        assert bench.processes() == set()
        assert await (await bench.start()).value("return 1") == 1

    on_bench(body)


def children(parent: int, word: bytes) -> list[int]:
    found: list[int] = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                ppid = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                if ppid == parent and word in (directory / "cmdline").read_bytes():
                    found.append(int(directory.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


SERVER = """
import asyncio, sys
from pathlib import Path
from backend_sessions import Bench

async def main():
    bench = Bench(sys.argv[1], Path(sys.argv[2]))
    await bench.backend.open()
    agents = await asyncio.gather(*(bench.start() for _ in range(20)))
    await asyncio.gather(*(agent.value("return 1") for agent in agents))
    Path(sys.argv[3]).touch()
    # One more, in the middle of its start.
    async for _ in bench.backend.start(bench.spec()):
        break
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sandbox", "process"])
def test_a_kill_of_the_server_ends_20_sessions_within_2_s_and_a_sweep_leaves_nothing(kind, tmp_path):
    data_dir = tmp_path / "data"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, kind, str(data_dir), str(tmp_path / "ready")],
        env={"PYTHONPATH": str(SUPPORT), "PATH": os.environ["PATH"]},
    )
    bench = Bench(kind, data_dir)

    async def body() -> None:
        await until((tmp_path / "ready").exists, "its sessions run", limit_s=30)
        assert len(bench.processes() - {server.pid}) >= 20
        watched = Watched(bench.processes())
        server.kill()
        watched.assert_ended(limit_s=2.0)
        server.wait()
        assert bench.processes() == set()
        left = bench.directories()
        assert len(left) >= 20
        async with opened(bench):
            await bench.backend.sweep([SessionRef(int(left[0])), SessionRef(1 << 40)])
            assert bench.directories() == []
            assert bench.cgroups() == []

    try:
        asyncio.run(asyncio.wait_for(body(), 60))
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_node_agent_is_reached_too(on_bench):
    node = str(Path(shutil.which("node") or "").resolve())
    main = """
const http = require('node:http');
http.createServer((request, response) => response.end(JSON.stringify({value: 'from node'})))
  .listen({port: 8080, host: '0.0.0.0'}, () => console.log('listens'));
"""

    async def body(bench):
        interpreter = Interpreter(node, () if node.startswith("/usr/") else (str(Path(node).parent.parent),))
        spec = bench.spec(interpreter=interpreter, args=("main.js",), **{"main.js": main})
        agents = [await bench.start(spec)]
        agents.append(await bench.start(bench.spec(interpreter=interpreter, args=("main.js",), **{"main.js": main})))
        for agent in agents:
            assert await agent.value("") == "from node"
            assert (agent.ref.generation, "stdout", "listens") in bench.lines

    on_bench(body)


@pytest.mark.parametrize("server", ["asyncio", "uvloop"])
def test_an_agent_on_uvicorn_is_reached_too(on_bench, server):
    import uvicorn

    packages = str(Path(uvicorn.__file__).parent.parent)
    main = f"""
import sys
sys.path.append("packages")
import uvicorn, json

async def app(scope, receive, send):
    body = json.dumps({{"value": sys.modules.get("uvloop") is not None}}).encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}})
    await send({{"type": "http.response.body", "body": body}})

uvicorn.run(app, host="0.0.0.0", port=8080, loop="{server}", lifespan="off")
"""

    async def body(bench):
        spec = bench.spec(main)
        for name in ("uvicorn", "uvloop", "click", "h11", "typing_extensions.py"):
            source = Path(packages) / name
            target = Path(spec.launch.code_dir) / "packages" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copy(source, target)
        agent = await bench.start(spec)
        assert await agent.value("") is (server == "uvloop")

    on_bench(body)


def test_a_sitecustomize_of_the_bundle_runs(on_bench):
    async def body(bench):
        spec = bench.spec("print('main')", **{"sitecustomize.py": "print('customized')"})
        agent = await bench.start(spec)
        assert await bench.backend.exited(agent.ref) == Exit(0, None)
        assert [line for generation, _, line in bench.lines if generation == agent.ref.generation] == [
            "customized",
            "main",
        ]

    on_bench(body)


def test_the_python_is_the_one_that_was_asked_for(on_bench):
    async def body(bench):
        agent = await bench.start()
        assert await agent.value("import sys\nreturn sys.executable") == PYTHON.executable
        json.dumps(await agent.value("import ssl, ctypes, sqlite3\nreturn ssl.OPENSSL_VERSION"))

    on_bench(body)
