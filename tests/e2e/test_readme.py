"""The README's program, run as a reader would: the lines are taken from the README itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from running_server import FREEHOLD, ONE_WORKER, RunningServer

README = Path(__file__).parents[2] / "README.md"


def block(language: str, containing: str) -> str:
    """The one fenced block of a language that contains some text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


@ONE_WORKER
def test_the_boto3_program_of_the_readme_works_when_pasted(server: RunningServer):
    point = block("sh", "freehold env").replace(".venv/bin/freehold", str(FREEHOLD))
    program = block("python", "create_agent_runtime")
    # The README's data directory is ./data, as this server's is, seen from its parent.
    assert server.data_dir.name == "data"
    done = subprocess.run(
        ["/bin/sh", "-c", f'{point}\nexec "$0" -c "$1"', sys.executable, program],
        cwd=server.data_dir.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line.removeprefix("data: ")) for line in done.stdout.splitlines() if line]
    assert [event["type"] for event in events] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        *["TEXT_MESSAGE_CONTENT"] * 4,
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert "".join(event.get("delta", "") for event in events) == "Hello from a sandbox."


def test_the_two_commands_are_the_first_thing_shown():
    commands = re.findall(r"^\./dev (\w+)", README.read_text(), re.MULTILINE)
    assert commands[:2] == ["run", "test"]
