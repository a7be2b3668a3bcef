"""What entry points mean in bundles of either language."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.artifacts import entry_points
from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.interpreters import Language
from freehold.domain.launch import Interpreter

INTERPRETER = Interpreter("/opt/python/bin/python3")
OTEL_NODE = "node_modules/@aws/aws-distro-opentelemetry-node-autoinstrumentation"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    for name in ("main.py", "src/app.py", "bin/serve", "index.js", "node_modules/.bin/serve", "dir.py/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("#!/home/somebody/bin/python\n")
    (root / "bin" / "native").write_bytes(b"\x7fELF\2\1\1\0")
    (root / "link.py").symlink_to("main.py")
    (tmp_path / "outside.py").write_text("")
    (root / "out.py").symlink_to(tmp_path / "outside.py")
    return root


def args(root: Path, *entry_point: str, language: Language = "python") -> tuple[str, ...]:
    program = entry_points.program(root, entry_point, INTERPRETER, language)
    assert program.interpreter is INTERPRETER
    return program.args


def refusal(root: Path, *entry_point: str, language: Language = "python") -> str:
    with pytest.raises(ArtifactRejected) as caught:
        entry_points.program(root, entry_point, INTERPRETER, language)
    return str(caught.value)


def test_a_script_is_run_by_the_interpreter(root: Path) -> None:
    assert args(root, "main.py") == ("main.py",)
    assert args(root, "src/app.py", "--fast") == ("src/app.py", "--fast")
    assert args(root, "./main.py") == ("main.py",)
    assert args(root, "link.py") == ("link.py",)
    assert args(root, "index.js", language="node") == ("index.js",)


ABSENT = ["other.py", "nothing", "main.py/", ".", ""]
OUTSIDE = ["out.py", "../outside.py", "/etc/x.py"]
UNFIT = ["dir.py", "index.js", "src//app.py", "a\0.py", "\ud800.py", "x" * 5000]


@pytest.mark.parametrize("name", [*ABSENT, *OUTSIDE, *UNFIT])
def test_what_is_no_file_of_the_bundle_can_not_be_started(root: Path, name: str) -> None:
    assert refusal(root, name) == entry_points.NOT_FOUND


def test_no_entry_point_can_not_be_started(root: Path) -> None:
    assert refusal(root) == entry_points.NOT_FOUND


def test_a_console_script_is_run_by_our_interpreter_and_not_by_that_of_its_first_line(root: Path) -> None:
    assert args(root, "serve", "main:app") == ("bin/serve", "main:app")
    assert args(root, "bin/serve") == ("bin/serve",)
    assert args(root, "serve", language="node") == ("node_modules/.bin/serve",)


def test_a_binary_program_is_refused_with_the_reason(root: Path) -> None:
    assert "native is a binary program" in refusal(root, "native")


def test_opentelemetry_is_given_the_interpreter_as_the_program_to_run(root: Path) -> None:
    (root / "bin" / "opentelemetry-instrument").write_text("")
    expected = ("bin/opentelemetry-instrument", "/opt/python/bin/python3", "main.py")
    assert args(root, "opentelemetry-instrument", "main.py") == expected


def test_opentelemetry_that_is_not_in_the_bundle_is_told_in_the_words_of_the_service(root: Path) -> None:
    assert refusal(root, "opentelemetry-instrument", "main.py") == entry_points.NO_OPENTELEMETRY
    assert refusal(root, "opentelemetry-instrument", "index.js", language="node") == entry_points.NO_OPENTELEMETRY


@pytest.mark.parametrize("rest", [(), ("other.py",), ("serve",)])
def test_opentelemetry_without_a_script_can_not_be_started(root: Path, rest: tuple[str, ...]) -> None:
    (root / "bin" / "opentelemetry-instrument").write_text("")
    assert refusal(root, "opentelemetry-instrument", *rest) == entry_points.NOT_FOUND


def test_opentelemetry_for_node_is_preloaded(root: Path) -> None:
    (root / OTEL_NODE).mkdir(parents=True)
    preloaded = "@aws/aws-distro-opentelemetry-node-autoinstrumentation/register"
    found = args(root, "opentelemetry-instrument", "index.js", language="node")
    assert found == ("--require", preloaded, "index.js")
