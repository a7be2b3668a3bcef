"""What a person is told to do about an agent that does not start; the complaints are those of real interpreters."""

import subprocess
import sys

import pytest

from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.warden import hints

LAUNCH = LaunchSpec(
    account="000000000000",
    region="us-east-1",
    runtime_id="agent-0123456789",
    runtime_name="agent",
    version=1,
    protocol=ServerProtocol.AGUI,
    port=8080,
    code_dir="/nowhere",
    program=Program(Interpreter("/usr/bin/python3"), ("main.py",)),
    idle_timeout_s=60,
    max_lifetime_s=600,
)


def complaint(code, tmp_path):
    """What this Python prints when it runs `code`."""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-I", "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode
    return done.stderr


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("import no_such_thing", "module no_such_thing is not in the bundle"),
        ("import no_such.thing", "module no_such is not in the bundle"),
        ("raise ModuleNotFoundError(\"No module named 'pydantic_core._pydantic_core'\")", "another Python version"),
        ("import os; os.environ['OPENAI_API_KEY']", "environment variable OPENAI_API_KEY"),
        ("def f(:\n  pass", "does not parse"),
        ("if 1:\nprint()", "does not parse"),
        ("import json.x; from typing import nothing_new", "module json.x"),
        ("from typing import nothing_new", "nothing_new is not in the standard library"),
        (
            "import socket\na = socket.create_server(('127.0.0.1', 0))\nsocket.create_server(a.getsockname())",
            "binds its port twice",
        ),
        ("class NoCredentialsError(Exception): pass\nraise NoCredentialsError('Unable')", "no AWS credentials"),
        ("raise MemoryError", "ran out of memory"),
        (
            "import os\nopen('x', 'wb').write(b'\\x7fELFx')\nos.chmod('x', 0o755)\nos.execv('x', ['x'])",
            "another CPU architecture",
        ),
    ],
)
def test_a_real_complaint_gets_its_advice(tmp_path, code, advice):
    told = hints.of_exit(LAUNCH, code=1, signal=None, tail=complaint(code, tmp_path))
    assert told is not None
    assert advice in told


@pytest.mark.parametrize(
    ("tail", "advice"),
    [
        ("ImportError: /var/task/x.so: wrong ELF class: ELFCLASS32", "another CPU architecture"),
        ("ImportError: libgomp.so.1: cannot open shared object file: No such file or directory", "libgomp.so.1"),
        ("ImportError: /lib/libc.so.6: version `GLIBC_2.38' not found (required by x.so)", "newer C library"),
        ("Error: Cannot find module 'express'\nRequire stack:", "module express is not in the bundle"),
        ("Error: listen EADDRINUSE: address already in use 0.0.0.0:8080", "twice"),
    ],
)
def test_complaints_of_loaders_and_of_node_get_advice(tail, advice):
    assert advice in hints.of_output(tail)


def test_the_cause_nearest_to_the_end_is_the_one():
    tail = "ModuleNotFoundError: No module named 'uvloop'\nfalling back\nKeyError: 'API_KEY'"
    assert "API_KEY" in hints.of_output(tail)


def test_ordinary_errors_get_no_advice():
    assert hints.of_exit(LAUNCH, code=1, signal=None, tail="ValueError: 3") is None
    assert hints.of_exit(LAUNCH, code=1, signal=None, tail="") is None


def test_an_exit_says_by_itself_what_happened():
    assert "served" not in hints.of_exit(LAUNCH, code=0, signal=None, tail="")
    assert "8080" in hints.of_exit(LAUNCH, code=0, signal=None, tail="")
    assert "memory" in hints.of_exit(LAUNCH, code=None, signal=9, tail="")


def test_an_agent_on_another_port_is_told_which():
    told = hints.of_silence(LAUNCH, listening={5000}, ping=None, tail=" * Running on http://127.0.0.1:5000")
    assert "listens on port 5000" in told
    assert "AG-UI agents must listen on port 8080" in told


def test_an_agent_that_does_not_answer_ping_is_told_how_it_answered():
    told = hints.of_silence(LAUNCH, listening={8080}, ping="was answered with status 404", tail="")
    assert "status 404" in told
    assert "Healthy" in told


def test_an_agent_that_listens_nowhere_is_told_where_to():
    assert "0.0.0.0:8080" in hints.of_silence(LAUNCH, listening=(), ping=None, tail="loading model")
