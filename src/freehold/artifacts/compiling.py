"""Compiles a bundle's Python files ahead of its sessions, which can't write into it and would compile at every start.

Not for judging the source: what doesn't compile is left for the agent to trip over. Invariant: compiling runs in
processes of its own, bounded in time and memory, that end when this one does; none of the bundle's code is executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

from freehold.artifacts import compile_driver
from freehold.artifacts.threads import in_thread
from freehold.domain.errors import QuotaExceeded
from freehold.domain.launch import Interpreter

COMPILE_TIMEOUT_S: Final = 240.0
MAX_PROCESSES: Final = 4
FILES_PER_PROCESS: Final = 16
"""Another process is worth its start from here on."""

log = structlog.get_logger(__name__)


async def compile_bundle(interpreter: Interpreter, root: Path, *, timeout_s: float = COMPILE_TIMEOUT_S) -> None:
    """Write `__pycache__` for every Python file below `root` that compiles. Raises QuotaExceeded when the disk is full.

    A bundle whose compilation crashed or took too long runs all the same, so that is logged and not raised.
    """
    processors = min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    shares = min(processors, -(-await in_thread(lambda _: _sources(root)) // FILES_PER_PROCESS))
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            tasks = [group.create_task(_share(interpreter, root, number, shares)) for number in range(shares)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    except TimeoutError:
        log.warning("artifact.compile_timeout", bundle=root.name, timeout_s=timeout_s)
        return
    results = [task.result() for task in tasks]
    if any(status == compile_driver.DISK_FULL_STATUS for status, _ in results):
        raise QuotaExceeded("The server's disk is full")
    if any(status != 0 for status, _ in results):
        log.warning("artifact.compile_failed", bundle=root.name, statuses=[status for status, _ in results])
    counts = [[int(number) for number in said.split()] for status, said in results if status == 0]
    log.info(
        "artifact.compiled",
        bundle=root.name,
        compiled=sum(count[0] for count in counts),
        failed=sum(count[1] for count in counts),
    )


def _sources(root: Path) -> int:
    return sum(name.endswith(".py") for _, _, names in os.walk(root) for name in names)


async def _share(interpreter: Interpreter, root: Path, number: int, shares: int) -> tuple[int, str]:
    """Compile one share of the files; the exit status, and what the driver printed."""
    process = await asyncio.create_subprocess_exec(
        interpreter.executable,
        *("-I", "-S", "-W", "ignore"),
        compile_driver.__file__,
        *(str(root), str(number), str(shares)),
        env={"LANG": "C.UTF-8"},
        stdin=asyncio.subprocess.PIPE,  # held open while we live
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None, "it was asked for"
    try:
        said = await process.stdout.read()
        return await process.wait(), said.decode()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
