"""What is written for Cython: compiled into wheels and in place where there is a compiler, and left out where not.

A small project of the same build, with the same sections of pyproject.toml, stands for Freehold.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tools import bootstrap

ROOT = Path(__file__).parents[3]
SAID = ("FREEHOLD_COMPILE", "CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")
"""What whoever runs the tests may have said of compilers, and is not meant for them."""
needs_compiler = pytest.mark.usefixtures("compiler")
NOWHERE = {"CC": "/nowhere/cc"}
QUICK = "def double(long n):\n    return 2 * n\n"
NO_PYTHON = "/nowhere/python"
"""In the place of the Python that compiles, where nothing is to be compiled."""
CAN_NOTHING = "false"
"""The same, where something is to be, and it does not matter what would come of it."""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where none compiles against Python's headers: everything but these tests does without."""
    trial = tmp_path_factory.mktemp("trial") / "trial.c"
    trial.write_text("#include <Python.h>\n")
    command = [shutil.which("cc") or "false", "-c", "-o", trial.with_suffix(".o")]
    command += [f"-I{sysconfig.get_path('include')}", trial]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("there is no C compiler with Python's headers")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SAID:
        monkeypatch.delenv(name, raising=False)


def project(at: Path, source: str = QUICK) -> Path:
    """The parts of a source tree that building looks at."""
    settings = (ROOT / "pyproject.toml").read_text()
    build = [
        match.group() for match in re.finditer(r"^\[(build-system|tool\.hatch)\b.*?(?=^\[)", settings, re.M | re.S)
    ]
    assert len(build) == 3
    package = at / "src" / "freehold" / "gateway"
    package.mkdir(parents=True)
    (at / "pyproject.toml").write_text(
        '[project]\nname = "freehold"\nversion = "1"\nrequires-python = ">=3.11"\n' + "".join(build)
    )
    (at / "src" / "freehold" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "quick.pyx").write_text(source)
    (package / "quick.pyi").write_text("def double(n: int) -> int: ...\n")
    (at / "tools").mkdir()
    for name in (".gitignore", "hatch_build.py", "tools/extensions.py"):
        shutil.copy(ROOT / name, at / name)
    return at


def hatchling(root: Path, call: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the build backend as pip does: in a process of its own, which prints the name of what it has built."""
    command = [sys.executable, "-P", "-c", f"from hatchling import build; print(build.{call}('dist'))"]
    told = {name: value for name, value in os.environ.items() if name not in SAID} | environment
    return subprocess.run(command, cwd=root, env=told, capture_output=True, text=True, timeout=120, check=False)


def built(root: Path, call: str, **environment: str) -> Path:
    done = hatchling(root, call, **environment)
    assert done.returncode == 0, done.stderr
    return root / "dist" / done.stdout.splitlines()[-1]


def doubled(src: Path) -> str:
    """What the compiled function answers to 4."""
    code = "from freehold.gateway import quick; print(quick.double(4))"
    command = [sys.executable, "-P", "-c", code]
    told = os.environ | {"PYTHONPATH": str(src)}
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def compiled_in(root: Path) -> list[Path]:
    return sorted(root.rglob("*.so"))


# -- wheels -------------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_wheel_holds_what_was_compiled_and_names_its_platform(tmp_path: Path):
    root = project(tmp_path / "project")
    wheel = built(root, "build_wheel", FREEHOLD_COMPILE="always")
    interpreter = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert re.fullmatch(rf"freehold-1-{interpreter}-{interpreter}t?-{platform}\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "site")
        assert "Root-Is-Purelib: false" in held.read("freehold-1.dist-info/WHEEL").decode()
    names = {path.name.partition(".")[2] for path in (tmp_path / "site" / "freehold" / "gateway").glob("quick.*")}
    assert names == {"pyi", sysconfig.get_config_var("EXT_SUFFIX").removeprefix(".")}
    assert doubled(tmp_path / "site") == "8"
    # Nothing is left among the sources.
    assert {path.name for path in (root / "src").rglob("quick*")} == {"quick.pyi", "quick.pyx"}


@pytest.mark.parametrize(
    "environment", [NOWHERE, {"CC": "false"}, {"CC": "true"}, {"FREEHOLD_COMPILE": "never"}], ids=str
)
def test_a_wheel_without_a_compiler_is_pure_and_says_so(tmp_path: Path, environment: dict[str, str]):
    done = hatchling(project(tmp_path), "build_wheel", **environment)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "freehold-1-py3-none-any.whl"
    assert [line for line in f"{done.stderr}{done.stdout}".splitlines() if "freehold: in pure Python" in line]
    with zipfile.ZipFile(tmp_path / "dist" / "freehold-1-py3-none-any.whl") as held:
        assert not [name for name in held.namelist() if name.endswith((".so", ".pyx"))]
        assert "freehold/gateway/quick.pyi" in held.namelist()


def test_a_wheel_that_must_be_compiled_is_not_built_without_a_compiler(tmp_path: Path):
    done = hatchling(project(tmp_path), "build_wheel", FREEHOLD_COMPILE="always", **NOWHERE)
    assert done.returncode != 0
    assert "FREEHOLD_COMPILE=always wants: there is no C compiler '/nowhere/cc'" in done.stderr
    assert not list(tmp_path.glob("dist/*.whl"))


def test_what_is_compiled_in_place_is_in_no_wheel_and_no_source_distribution(tmp_path: Path):
    root = project(tmp_path)
    (root / "src" / "freehold" / "gateway" / "quick.cpython-311-x86_64-linux-gnu.so").touch()
    with tarfile.open(built(root, "build_sdist")) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert names >= {f"src/freehold/gateway/quick.{suffix}" for suffix in ("pyx", "pyi")}
    assert names >= {"hatch_build.py", "tools/extensions.py"}
    assert not [name for name in names if name.endswith(".so")]
    with zipfile.ZipFile(built(root, "build_wheel", FREEHOLD_COMPILE="never")) as held:
        assert not [name for name in held.namelist() if name.endswith(".so")]


# -- in place -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, compiler: None) -> Path:
    """Compiled by an editable installation."""
    root = project(tmp_path_factory.mktemp("compiled"))
    built(root, "build_editable", FREEHOLD_COMPILE="always")
    return root


@pytest.fixture
def tree(compiled: Path, tmp_path: Path) -> Path:
    """A copy, in which everything is as it should be."""
    return shutil.copytree(compiled, tmp_path / "tree")


def changed_source(tree: Path) -> None:
    (tree / "src" / "freehold" / "gateway" / "quick.pyx").write_text(QUICK.replace("2", "3"))


def set_up(root: Path, python: str = sys.executable) -> None:
    """What `./dev` does before everything else."""
    bootstrap.compile_parts(root, python)


@needs_compiler
def test_nothing_is_done_when_all_is_compiled(tree: Path):
    before = [path.stat().st_mtime_ns for path in compiled_in(tree)]
    set_up(tree, NO_PYTHON)
    assert [path.stat().st_mtime_ns for path in compiled_in(tree)] == before
    assert doubled(tree / "src") == "8"


@needs_compiler
def test_what_git_has_written_anew_as_it_was_is_no_newer_than_what_was_compiled_from_it(tree: Path):
    source = tree / "src" / "freehold" / "gateway" / "quick.pyx"
    source.touch()
    set_up(tree, NO_PYTHON)
    assert compiled_in(tree)[0].stat().st_mtime_ns >= source.stat().st_mtime_ns


@needs_compiler
def test_a_changed_source_is_compiled_again(tree: Path):
    changed_source(tree)
    set_up(tree)
    assert doubled(tree / "src") == "12"
    set_up(tree, NO_PYTHON)


def declarations(tree: Path) -> None:
    (tree / "src" / "freehold" / "gateway" / "quick.pxd").write_text("cpdef long double(long n)\n")


def another_cython(tree: Path) -> None:
    (tree / "requirements").mkdir()
    (tree / "requirements" / "dev.txt").write_text("cython==1.0 \\\n")


def removed_module(tree: Path) -> None:
    compiled_in(tree)[0].unlink()


@needs_compiler
@pytest.mark.parametrize("change", [changed_source, declarations, another_cython, removed_module])
def test_what_is_not_as_it_should_be_is_not_kept(tree: Path, change: Callable[[Path], None]):
    change(tree)
    with pytest.raises(bootstrap.SetupFailed):
        set_up(tree, CAN_NOTHING)
    assert not compiled_in(tree)


@needs_compiler
def test_what_has_no_source_any_more_is_removed(tree: Path):
    (tree / "src" / "freehold" / "gateway" / "quick.pyx").unlink()
    set_up(tree, NO_PYTHON)
    assert not compiled_in(tree)


@needs_compiler
@pytest.mark.parametrize("environment", [NOWHERE, {"FREEHOLD_COMPILE": "never"}], ids=str)
def test_nothing_compiled_is_kept_where_nothing_is_to_be_compiled(
    tree: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    set_up(tree, NO_PYTHON)
    assert not compiled_in(tree)
    assert re.fullmatch(r"dev: in pure Python, .*\n", capfd.readouterr().err)


@needs_compiler
def test_what_cython_does_not_understand_fails_setup_with_its_words(tmp_path: Path):
    with pytest.raises(bootstrap.SetupFailed, match=r"quick\.pyx:1:9: Syntax error in C variable declaration"):
        set_up(project(tmp_path, "cdef x y z\n"))
    assert not compiled_in(tmp_path)


@needs_compiler
def test_what_the_compiler_does_not_understand_fails_setup_with_its_words(tmp_path: Path):
    source = 'cdef extern from "nowhere.h":\n    int double_c(int)\n\ndef double(n):\n    return double_c(n)\n'
    with pytest.raises(bootstrap.SetupFailed, match=r"nowhere\.h"):
        set_up(project(tmp_path, source))
    assert not compiled_in(tmp_path)


def test_without_pythons_headers_there_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: f"/nowhere/{name}")
    monkeypatch.setenv("CC", "true")
    set_up(project(tmp_path), NO_PYTHON)
    told = "there is no Python.h in /nowhere/include (on Debian and Ubuntu: apt install gcc python3-dev)"
    assert capfd.readouterr().err == f"dev: in pure Python, which is slower: {told}\n"


def test_without_a_compiler_on_the_path_there_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sysconfig.get_config_vars(), "CC", "gcc -pthread")
    monkeypatch.setenv("PATH", str(tmp_path))
    set_up(project(tmp_path), NO_PYTHON)
    assert capfd.readouterr().err.startswith(
        "dev: in pure Python, which is slower: there is no C compiler 'gcc -pthread'"
    )


def test_what_must_be_compiled_fails_setup_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FREEHOLD_COMPILE", "always")
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(bootstrap.SetupFailed, match="FREEHOLD_COMPILE=always wants: there is no C compiler"):
        set_up(project(tmp_path), NO_PYTHON)


def test_a_choice_that_there_is_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FREEHOLD_COMPILE", "sometimes")
    with pytest.raises(bootstrap.SetupFailed, match="'sometimes', and can be auto, always or never"):
        set_up(project(tmp_path), NO_PYTHON)


def test_a_project_with_nothing_to_compile_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    root = project(tmp_path)
    (root / "src" / "freehold" / "gateway" / "quick.pyx").unlink()
    set_up(root, NO_PYTHON)
    assert capfd.readouterr().err == ""
