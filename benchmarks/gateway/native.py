"""The client and the agent of the measurements, in C so that they cost little beside what is measured.

Not for anything that is measured itself. Invariant: nothing is told of a run in which an answer was not the right one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway import cores

SOURCES = Path(__file__).parent / "native"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
RUN_TIMEOUT_S = 180.0


class NotWhole(Exception):
    """An answer was not the right one; the message holds what the client says."""


@dataclass(frozen=True, slots=True)
class Native:
    """The two programs, built."""

    load: Path
    agent: Path

    def run(self, mode: str, port: int, pids: Sequence[int], requests: Path, number: float) -> dict[str, Any]:
        """What `load.c` tells of one run. Raises NotWhole."""
        words = [str(self.load), mode, str(port), _joined(pids), str(requests), str(number)]
        with cores.on(cores.load()):
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        if done.returncode != 0:
            raise NotWhole(f"{mode}: {done.stderr[:2000]}")
        return dict(json.loads(done.stdout))

    @contextlib.contextmanager
    def held(self, port: int, requests: Path) -> Generator[None]:
        """While every one of `requests` has a stream that is open and silent. Raises NotWhole."""
        words = [str(self.load), "hold", str(port), "-", str(requests), "0"]
        with cores.on(cores.load()):
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise NotWhole(f"hold: {process.stderr.read(2000).decode(errors='replace')}")
            yield
        finally:
            process.stdin.close()
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def agent_running(self) -> Generator[int]:
        """The agent; its port."""
        with cores.on(cores.load()):
            process = subprocess.Popen([str(self.agent)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


def build(directory: Path) -> Native:
    """Compile both into `directory`. Raises FileNotFoundError when there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("the benchmark's client is in C and there is no C compiler (apt install gcc libc6-dev)")
    built = Native(directory / "load", directory / "agent")
    for program in (built.load, built.agent):
        words = [compiler, *FLAGS, "-o", str(program), str(SOURCES / f"{program.name}.c")]
        subprocess.run(words, check=True)
    return built


def _joined(pids: Sequence[int]) -> str:
    return ",".join(map(str, pids)) or "-"
