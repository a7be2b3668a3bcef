"""tools/run_example.py, which is `./dev run`: it ends well only when the run did, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tools.run_example"]
BRIEF = [
    sys.executable,
    "-c",
    "import sys; from tools import run_example as run; "
    "run.EXAMPLE = run.ephemeral.ROOT / 'tests/support/agents/agui_brief'; sys.exit(run.main())",
]
"""The same with an agent that is deployed in a second, where the example has nothing to do with what is shown."""
LIMIT_S = 170

pytestmark = pytest.mark.slow


def run(
    tmp_path: Path, *arguments: str, command: list[str] = BRIEF, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def events(output: str) -> list[str]:
    return [json.loads(line.removeprefix("data:"))["type"] for line in output.splitlines() if line.startswith("data:")]


def assert_nothing_is_left(tmp_path: Path) -> None:
    assert not list(tmp_path.glob("freehold-*"))
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                command = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            assert str(tmp_path).encode() not in command


def test_once_prints_the_events_and_ends_with_status_0(tmp_path: Path):
    done = run(tmp_path, "--once", command=COMMAND)
    assert done.returncode == 0, done.stderr
    told = events(done.stdout)
    assert told[0] == "RUN_STARTED"
    assert told[-1] == "RUN_FINISHED"
    assert {"STATE_SNAPSHOT", "TOOL_CALL_RESULT", "STATE_DELTA", "TEXT_MESSAGE_CONTENT"} <= set(told)
    assert_nothing_is_left(tmp_path)


def test_a_run_that_ends_in_an_error_is_a_failure(tmp_path: Path):
    done = run(tmp_path, "--once", "sing a song")
    assert done.returncode == 1
    assert events(done.stdout)[-1] == "RUN_ERROR"
    assert "did not end with RUN_FINISHED but with RUN_ERROR" in done.stderr
    assert_nothing_is_left(tmp_path)


def test_a_server_that_does_not_start_is_a_failure_with_its_log(tmp_path: Path):
    done = run(tmp_path, "--once", FREEHOLD_NONSENSE="1")
    assert done.returncode == 1
    assert "there is no such setting" in done.stderr
    assert_nothing_is_left(tmp_path)


def test_it_serves_until_ctrl_c_and_cleans_up(tmp_path: Path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(BRIEF, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        # The pipe ends when the process does, so this ends in any case.
        serving = next((line for line in process.stdout if line.startswith("Freehold serves at")), None)
        assert serving is not None
        assert re.search(r"http://127\.0\.0\.1:\d+", serving)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert_nothing_is_left(tmp_path)
