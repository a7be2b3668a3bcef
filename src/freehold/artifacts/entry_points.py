"""What a version's entryPoint means: the arguments that its interpreter is started with.

Not for starting anything. Invariant: the file that the interpreter is given exists inside the bundle.

Source: spec section 5 (forms of entryPoint) and section 3.3 (the service's texts).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.interpreters import Language
from freehold.artifacts.source import printable
from freehold.artifacts.zip_directory import MAX_NAME_BYTES
from freehold.domain.launch import Interpreter, Program

NOT_FOUND: Final = "The specified entrypoint could not be found or accessed in your artifact."
NO_OPENTELEMETRY: Final = (
    "OpenTelemetry instrumentation executable not found. The ZIP file requires open-telemetry dependencies, "
    "but none are present."
)

_SUFFIXES: Final[dict[Language, tuple[str, ...]]] = {"python": (".py",), "node": (".js", ".mjs", ".cjs")}
_OPENTELEMETRY: Final = "opentelemetry-instrument"
_NODE_OPENTELEMETRY: Final = "@aws/aws-distro-opentelemetry-node-autoinstrumentation"


def program(root: Path, entry_point: tuple[str, ...], interpreter: Interpreter, language: Language) -> Program:
    """How to start the bundle `root`. Raises ArtifactRejected when what it names isn't there. Blocking.

    A script is run by the interpreter. Any other name is a console script that a package manager has put into the
    bundle: its first line names an interpreter of the machine that built it, so ours runs it.
    """
    if not entry_point:
        raise ArtifactRejected(NOT_FOUND)
    first, rest = entry_point[0], entry_point[1:]
    if first.endswith(_SUFFIXES[language]):
        return Program(interpreter, (_inside(root, first), *rest))
    if first == _OPENTELEMETRY:
        return Program(interpreter, _instrumented(root, rest, interpreter, language))
    return Program(interpreter, (_console_script(root, first, language), *rest))


def _instrumented(root: Path, rest: tuple[str, ...], interpreter: Interpreter, language: Language) -> tuple[str, ...]:
    if not rest or not rest[0].endswith(_SUFFIXES[language]):
        raise ArtifactRejected(NOT_FOUND)
    script = _inside(root, rest[0])
    if language == "node":
        if not (root / "node_modules" / _NODE_OPENTELEMETRY).is_dir():
            raise ArtifactRejected(NO_OPENTELEMETRY)
        return ("--require", f"{_NODE_OPENTELEMETRY}/register", script, *rest[1:])
    instrument = f"bin/{_OPENTELEMETRY}"
    if not _is_file_inside(root, instrument):
        raise ArtifactRejected(NO_OPENTELEMETRY)
    # It executes what follows as a program, and a script in a bundle is none.
    return (instrument, interpreter.executable, script, *rest[1:])


def _console_script(root: Path, name: str, language: Language) -> str:
    directory = "bin" if language == "python" else "node_modules/.bin"
    place = name if "/" in name else f"{directory}/{name}"
    script = _inside(root, place)
    with (root / script).open("rb") as file:
        beginning = file.read(512)
    if b"\0" in beginning:
        raise ArtifactRejected(
            f"{NOT_FOUND} {printable(name)} is a binary program; an entry point is a script of the runtime's language."
        )
    return script


def _inside(root: Path, name: str) -> str:
    """`name` in normal form, if it is a file of the bundle. Raises ArtifactRejected."""
    parts = name.split("/")
    normal = "/".join(part for part in parts if part != ".")
    if "" in parts or ".." in parts or not name.isprintable() or not _is_file_inside(root, normal):
        raise ArtifactRejected(NOT_FOUND)
    return normal


def _is_file_inside(root: Path, name: str) -> bool:
    if len(name.encode()) > MAX_NAME_BYTES:
        return False
    place = (root / name).resolve()
    return place.is_relative_to(root.resolve()) and place.is_file()
