"""Finds the host's interpreter for a managed runtime, such as CPython 3.12 for PYTHON_3_12.

Not for installing any. Each candidate is run once and asked what it is, because names and links on PATH prove
nothing. Invariant: an interpreter is handed out only if it said itself that it is the wanted one, and if showing its
installation to agents shows them nobody's home directory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.source import printable
from freehold.domain.launch import Interpreter
from freehold.domain.runtimes import MANAGED_RUNTIMES

PROBE_TIMEOUT_S: Final = 10.0

Language = Literal["python", "node"]

_PYTHON = re.compile(r"PYTHON_([0-9]+)_([0-9]+)")
_NODE = re.compile(r"NODE_([0-9]+)")
_SYSTEM: Final = Path("/usr")
"""Agents see it in any case."""
_SYSTEM_DIRECTORIES: Final = ("/usr/bin", "/usr/local/bin")

_PROBE_PYTHON: Final = """
import json, os, site, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({
    "language": sys.implementation.name + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""),
    "version": list(sys.version_info[:3]),
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "prefixes": [sys.base_prefix, sys.base_exec_prefix],
    "sites": [*site.getsitepackages(), paths["purelib"], paths["platlib"]],
    "is_base": sys.prefix == sys.base_prefix,
}))
"""
_PROBE_NODE: Final = """
const path = require("path"), fs = require("fs");
const executable = fs.realpathSync(process.execPath), prefix = path.dirname(path.dirname(executable));
console.log(JSON.stringify({
  language: "node",
  version: process.versions.node.split(".").map(Number),
  executable, prefixes: [prefix],
  sites: [path.join(prefix, "lib", "node_modules"), path.join(prefix, "lib", "node")],
  is_base: true,
}));
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a managed runtime's name asks for. `version` is as much of it as the name says."""

    language: Language
    version: tuple[int, ...]

    @property
    def dotted(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True)
class _Probed:
    """What a candidate said of itself."""

    language: str
    version: tuple[int, ...]
    executable: str
    prefixes: tuple[str, ...]
    sites: tuple[str, ...]
    is_base: bool
    """False in a virtual environment, which an agent could not see."""


class Unsuitable(Exception):
    """The candidate is not what is wanted. The message says why."""


def wanted(runtime: str) -> Wanted:
    """What `runtime` asks for. Raises ArtifactRejected for a name that is no managed runtime."""
    if python := _PYTHON.fullmatch(runtime):
        return Wanted("python", (int(python[1]), int(python[2])))
    if node := _NODE.fullmatch(runtime):
        return Wanted("node", (int(node[1]),))
    raise ArtifactRejected(f"{printable(runtime)} is not a managed runtime; those are {', '.join(MANAGED_RUNTIMES)}.")


class Interpreters:
    """The interpreters of this host. Blocking: for worker threads; may be used from several at once.

    `overrides` maps a managed runtime to the executable that must be used for it. What was found is remembered as
    long as its executable exists; what was not found is looked for again.
    """

    def __init__(
        self,
        overrides: Mapping[str, str] | None = None,
        *,
        search_path: str | None = None,
        home: Path | None = None,
    ) -> None:
        self._overrides = dict(overrides or {})
        self._search_path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
        self._home = Path.home() if home is None else home
        self._found: dict[str, Interpreter] = {}
        self._releases: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, runtime: str) -> Interpreter:
        """The interpreter for a managed runtime. Raises ArtifactRejected, saying which runtimes there are."""
        asked = wanted(runtime)
        with self._lock:
            interpreter = self._look_up(runtime, asked)
            if interpreter is not None:
                return interpreter
            if runtime in self._overrides:
                raise ArtifactRejected(
                    f"The interpreter that this server is set to use for {runtime} can't be used; its log says why."
                )
            available = [name for name in MANAGED_RUNTIMES if self._look_up(name, wanted(name)) is not None]
        raise ArtifactRejected(_not_here(runtime, asked, available))

    def release(self, interpreter: Interpreter) -> str:
        """The exact version of an interpreter that was found, such as 22.20.0."""
        return self._releases[interpreter.executable]

    def available(self) -> list[str]:
        """The managed runtimes that this host can run."""
        with self._lock:
            return [name for name in MANAGED_RUNTIMES if self._look_up(name, wanted(name)) is not None]

    def _look_up(self, runtime: str, asked: Wanted) -> Interpreter | None:
        known = self._found.get(runtime)
        if known is not None and os.access(known.executable, os.X_OK):
            return known
        self._found.pop(runtime, None)
        override = self._overrides.get(runtime)
        tried: set[str] = set()
        for candidate in [Path(override)] if override else self._candidates(asked):
            place = os.path.realpath(candidate)
            if place in tried or not os.access(place, os.X_OK) or Path(place).is_dir():
                continue
            tried.add(place)
            try:
                found = self._examine(candidate, asked)
            except Unsuitable as why:
                tell = log.warning if override else log.debug
                tell("interpreter.unsuitable", runtime=runtime, candidate=str(candidate), reason=str(why))
                continue
            self._found[runtime] = found
            return found
        if override and not tried:
            log.warning("interpreter.unsuitable", runtime=runtime, candidate=override, reason="not an executable file")
        return None

    # -- where to look ---------------------------------------------------------------------------------------------

    def _candidates(self, asked: Wanted) -> Iterator[Path]:
        """Executables that may be it, the likeliest first. Newer patch releases come before older ones."""
        if asked.language == "python":
            exact, others = f"python{asked.dotted}", ("python3", "python")
            installations = self._managed_pythons(asked)
            if sys.version_info[:2] == asked.version:
                yield Path(sys.executable)
        else:
            exact, others = "node", ("nodejs",)
            installations = self._managed_nodes(asked)
        yield from self._on_path(exact)
        for installation in installations:
            yield installation / "bin" / exact
        for name in others:
            yield from self._on_path(name)

    def _on_path(self, name: str) -> Iterator[Path]:
        for directory in (*self._search_path.split(os.pathsep), *_SYSTEM_DIRECTORIES):
            if directory.startswith("/"):
                yield Path(directory, name)

    def _managed_pythons(self, asked: Wanted) -> Iterator[Path]:
        pyenv = Path(os.environ.get("PYENV_ROOT") or self._home / ".pyenv")
        yield from _newest(pyenv / "versions", f"{asked.dotted}.*")
        data = Path(os.environ.get("XDG_DATA_HOME") or self._home / ".local" / "share")
        uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
        yield from _newest(uv, f"cpython-{asked.dotted}.*-linux-*")

    def _managed_nodes(self, asked: Wanted) -> Iterator[Path]:
        nvm = Path(os.environ.get("NVM_DIR") or self._home / ".nvm")
        yield from _newest(nvm / "versions" / "node", f"v{asked.dotted}.*")

    # -- asking ----------------------------------------------------------------------------------------------------

    def _examine(self, candidate: Path, asked: Wanted) -> Interpreter:
        probed = self._probe(candidate, asked.language)
        if not _matches(probed, asked):
            raise Unsuitable(f"it is {probed.language} {'.'.join(map(str, probed.version))}")
        if not probed.is_base or probed.executable != str(candidate):
            # A link, a shim or a virtual environment: what counts is what lies behind it.
            probed = self._probe(Path(probed.executable), asked.language)
            if not probed.is_base or not _matches(probed, asked):
                raise Unsuitable("it belongs to a virtual environment whose own interpreter can't be found")
        prefixes = self._prefixes(probed)
        self._releases[probed.executable] = ".".join(map(str, probed.version))
        return Interpreter(probed.executable, prefixes=prefixes, site_dirs=_site_dirs(probed, prefixes))

    def _probe(self, candidate: Path, language: Language) -> _Probed:
        question = ["-I", "-c", _PROBE_PYTHON] if language == "python" else ["-e", _PROBE_NODE]
        environment = {"PATH": self._search_path, "HOME": str(self._home), "LANG": "C.UTF-8"}
        try:
            done = subprocess.run(
                [str(candidate), *question],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unsuitable(f"it did not answer within {PROBE_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise Unsuitable(f"it can't be run: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise Unsuitable(f"it ended with status {done.returncode}: {said}")
        try:
            told = json.loads(done.stdout)
            return _Probed(
                language=str(told["language"]),
                version=tuple(int(number) for number in told["version"]),
                executable=str(told["executable"]),
                prefixes=tuple(str(prefix) for prefix in told["prefixes"]),
                sites=tuple(str(directory) for directory in told["sites"]),
                is_base=bool(told["is_base"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Unsuitable("its answer can't be read") from error

    def _prefixes(self, probed: _Probed) -> tuple[str, ...]:
        """Directories outside /usr that agents must be shown: as they are named, and where links lead."""
        named = [Path(prefix) for prefix in (*probed.prefixes, str(Path(probed.executable).parent.parent))]
        places = {place for prefix in named for place in (prefix, prefix.resolve())}
        outside = sorted(place for place in places if not place.is_relative_to(_SYSTEM))
        for place in outside:
            if self._home.is_relative_to(place) or self._home.resolve().is_relative_to(place):
                raise Unsuitable(f"its installation {place} holds a home directory, which agents must not see")
        return tuple(
            str(place)
            for place in outside
            if not any(place != other and place.is_relative_to(other) for other in outside)
        )


def _matches(probed: _Probed, asked: Wanted) -> bool:
    language = "cpython" if asked.language == "python" else "node"
    return probed.language == language and probed.version[: len(asked.version)] == asked.version


def _site_dirs(probed: _Probed, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Directories of packages that would be seen through /usr or a prefix."""
    shown = [_SYSTEM, *map(Path, prefixes)]
    places = {place for site in probed.sites for place in (Path(site), Path(site).resolve())}
    return tuple(
        sorted(str(place) for place in places if place.is_dir() and any(place.is_relative_to(seen) for seen in shown))
    )


def _newest(directory: Path, pattern: str) -> list[Path]:
    """Installations below `directory`, the newest release first."""
    return sorted(directory.glob(pattern), key=_release, reverse=True)


def _release(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", path.name)]


def _not_here(runtime: str, asked: Wanted, available: list[str]) -> str:
    has = f"it has {', '.join(available)}" if available else "it has none of the managed runtimes"
    if asked.language == "python":
        how = f"Install it on the server, for example with `uv python install {asked.dotted}`"
    else:
        how = f"Install Node.js {asked.dotted} on the server, so that its `node` is on the server's PATH"
    return (
        f"The runtime {runtime} is not installed on this server; {has}. {how}, name its executable in the setting "
        f"artifacts.interpreters.{runtime}, or choose another runtime."
    )
