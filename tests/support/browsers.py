"""A real Chromium for tests: npm's where it runs, or else the host's."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from collections.abc import Iterator

import node_packages
import pytest
from node_22 import NODE

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@functools.cache
def chromium() -> str:
    """The path of one that runs on this host. Skips the test where there is none, and says what to install."""
    for path in _candidates():
        try:
            done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return path
    pytest.skip("no Chromium runs here: apt install chromium (or what its npm package lacks: libnss3)")


def _candidates() -> Iterator[str]:
    """npm's is for x86-64 alone, and uses the host's libraries."""
    home = node_packages.modules() / ".freehold-browser"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        command = [NODE, node_packages.ROOT / "chromium.mjs"]
        environment = node_packages.environment() | {"TMPDIR": str(home)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        yield done.stdout.strip()
    yield from filter(None, map(shutil.which, _NAMES))
