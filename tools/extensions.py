"""Compiles the parts of Freehold that are written for Cython: `src/**/*.pyx`, each into an extension module.

For wheels (`hatch_build.py`) and in place, beside the sources (`./dev setup`). Not for the server, which takes what it
finds (`freehold.gateway.fast`). Both load it by its path, with the standard library alone; only the `python` that does
the work must have Cython and setuptools. Invariant: an extension module in `src` was made from its sources as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setuptools import Extension

CHOICE = "FREEHOLD_COMPILE"
"""auto (the default): compile where that is possible. always: or fail. never."""
SOURCES = ("*.pyx", "*.pxd")
DIRECTIVES = {"language_level": 3}
COMPILE = ["-O3", "-g0", "-fno-semantic-interposition", "-fvisibility=hidden"]
"""After what Python was built with. Not for this machine's processor alone: wheels are carried to others."""
_COMPILES_NOTHING = 3
"""The exit status that says that it is not our sources that the compiler fails on."""
_FLAGS = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")


class NotCompiled(Exception):
    """Nothing is compiled here, and everything works in pure Python. The message says why, in a line."""


class _NoCompiler(Exception):
    """What is missing."""

    remedy = "on Debian and Ubuntu: apt install gcc python3-dev"


class CompilationFailed(Exception):
    """What was to be compiled can't be. The message has the compiler's words."""


def build(root: Path, into: Path, *, python: str, environment: Mapping[str, str]) -> list[Path]:
    """Compile all that `root` has. The extension modules are in `into` as they are to be installed, and are returned
    relative to it: `freehold/gateway/fastpath.cpython-311-x86_64-linux-gnu.so`.

    Raises NotCompiled, CompilationFailed.
    """
    if not _sources(root, "*.pyx"):
        return []
    choice = _choice(environment)
    if choice == "never":
        raise NotCompiled(f"in pure Python, as {CHOICE}=never wants")
    try:
        _run_compiler(root, into, _find_compiler(environment), python, environment)
    except _NoCompiler as missing:
        told = f"{missing} ({missing.remedy})"
        if choice == "always":
            raise CompilationFailed(f"can't compile, as {CHOICE}=always wants: {told}") from None
        raise NotCompiled(f"in pure Python, which is slower: {told}") from None
    return [path.relative_to(into) for path in sorted(into.rglob("*.so"))]


def refresh(root: Path, *, python: str, environment: Mapping[str, str]) -> None:
    """Compile in place what isn't there as it should be, and remove what should not be. Raises as `build`."""
    stamp = root / ".tools" / "extensions"
    present = _sources(root, "*.so")
    wanted = _fingerprint(root, environment)
    if _choice(environment) != "never" and stamp.is_file():
        made_from, *made = stamp.read_text().splitlines()
        if made_from == wanted and made == [str(path.relative_to(root)) for path in present]:
            _make_newer(present, _sources(root, *SOURCES))
            return
    stamp.unlink(missing_ok=True)
    for path in present:
        path.unlink()
    stamp.parent.mkdir(exist_ok=True)
    # On the same file system: a module that another process has just begun to load is never half of one.
    with tempfile.TemporaryDirectory(dir=stamp.parent) as place:
        built = build(root, Path(place), python=python, environment=environment)
        for path in built:
            (Path(place) / path).replace(root / "src" / path)
    stamp.write_text("\n".join([wanted, *(f"src/{path}" for path in built)]))


def _make_newer(built: list[Path], sources: list[Path]) -> None:
    """git may have written sources anew as they were, and a server believes the times (`freehold.gateway.fast`)."""
    newest = max((path.stat().st_mtime_ns for path in sources), default=0)
    for path in built:
        if path.stat().st_mtime_ns < newest:
            path.touch()


# -- what there is ------------------------------------------------------------------------------------------------


def _sources(root: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in (root / "src").rglob(pattern))


def _choice(environment: Mapping[str, str]) -> str:
    choice = environment.get(CHOICE) or "auto"
    if choice not in ("auto", "always", "never"):
        raise CompilationFailed(f"{CHOICE} is {choice!r}, and can be auto, always or never")
    return choice


def _fingerprint(root: Path, environment: Mapping[str, str]) -> str:
    """Of all that decides what is made."""
    told = hashlib.sha256(repr((sys.version, sysconfig.get_config_var("SOABI"))).encode())
    told.update(repr([environment.get(name) for name in _FLAGS]).encode())
    told.update(Path(__file__).read_bytes())
    lock = root / "requirements" / "dev.txt"
    if lock.is_file():
        told.update(repr(re.findall(r"^(?:cython|setuptools)==\S+", lock.read_text(), re.MULTILINE)).encode())
    for path in _sources(root, *SOURCES):
        told.update(repr((str(path.relative_to(root)), path.read_bytes())).encode())
    return told.hexdigest()


def _find_compiler(environment: Mapping[str, str]) -> str:
    """The command that compiles. Raises _NoCompiler."""
    named = environment.get("CC", "").strip()
    candidates = [named] if named else [sysconfig.get_config_var("CC") or "cc", "cc", "gcc", "clang"]
    path = environment.get("PATH", os.defpath)
    found = next((command for command in candidates if shutil.which(shlex.split(command)[0], path=path)), None)
    if found is None:
        raise _NoCompiler(f"there is no C compiler {candidates[0]!r}")
    headers = sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})
    if not any((Path(place) / "Python.h").is_file() for place in headers):
        raise _NoCompiler(f"there is no Python.h in {headers[0]}")
    return found


def _run_compiler(root: Path, into: Path, compiler: str, python: str, environment: Mapping[str, str]) -> None:
    # A process of its own: setuptools changes the one it is imported into. -P: what is beside this file is no library.
    command = [python, "-P", str(Path(__file__).resolve()), str(root), str(into)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=dict(environment) | {"CC": compiler},
        stdin=subprocess.DEVNULL,
    )
    words = f"{done.stdout}\n{done.stderr}".strip()
    if done.returncode == _COMPILES_NOTHING:
        raise _NoCompiler(f"{compiler!r} compiles nothing here: {words.partition(chr(10))[0]}")
    if done.returncode != 0:
        raise CompilationFailed(f"can't compile ({CHOICE}=never does without):\n{words}")


# -- run by the Python that has Cython and setuptools -------------------------------------------------------------


def _compile(root: Path, into: Path) -> None:
    from Cython.Build import cythonize
    from Cython.Compiler.Errors import CompileError as NotTranslated
    from setuptools import Extension
    from setuptools.errors import CCompilerError

    if not _compiles():
        sys.exit(_COMPILES_NOTHING)
    # Paths that are told to Cython stand in tracebacks and in the file: they are the project's.
    os.chdir(root)
    extensions = [
        Extension(
            ".".join(path.relative_to(root / "src").with_suffix("").parts),
            [str(path.relative_to(root))],
            extra_compile_args=COMPILE,
        )
        for path in _sources(root, "*.pyx")
    ]
    with tempfile.TemporaryDirectory() as place:
        try:
            translated = cythonize(
                extensions,
                build_dir=place,
                include_path=["src"],
                compiler_directives=DIRECTIVES,
                force=True,
                quiet=True,
            )
            _build_ext(translated, into)
        except (NotTranslated, CCompilerError):
            # They have printed what is wrong.
            sys.exit(1)


def _compiles() -> bool:
    """Whether the compiler does anything at all: it may lack C's headers, or refuse the flags of the one that Python
    was built with."""
    from setuptools import Extension
    from setuptools.errors import CCompilerError

    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / "trial.c"
        trial.write_text("#include <Python.h>\n\nPyMODINIT_FUNC PyInit_trial(void) { return NULL; }\n")
        try:
            _build_ext([Extension("trial", [str(trial)], extra_compile_args=COMPILE)], Path(place))
        except CCompilerError:
            return False
        return bool(list(Path(place).glob("*.so")))


def _build_ext(extensions: list[Extension], into: Path) -> None:
    from setuptools import Distribution

    command = Distribution({"name": "freehold", "ext_modules": extensions}).get_command_obj("build_ext")
    with tempfile.TemporaryDirectory() as place:
        command.build_lib, command.build_temp = str(into), place
        command.ensure_finalized()
        command.run()


if __name__ == "__main__":
    _compile(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
