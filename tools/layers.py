"""The contracts of import-linter, held by what is written for Cython as well, which it does not read.

For `./dev check`. Not for the contracts, which are in pyproject.toml. Invariant: what is checked is the tree as it is,
with one module of Python in the place of each `.pyx`, which imports the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_IMPORT = re.compile(r"^[ \t]*((?:from[ \t]+\S+[ \t]+)?c?import[ \t]+(?:\([^)]*\)|[^#\n]*))", re.MULTILINE)
_OF_C = re.compile(r"(?:from\s+)?(?:cimport\s+)?(?:libc|libcpp|cpython|posix|cython)\b")
"""What Cython brings along."""


def imports(source: str) -> list[str]:
    """The imports of a Cython module, wherever in it they stand, as Python says them."""
    found = [match[1].strip() for match in _IMPORT.finditer(source)]
    return [re.sub(r"\bcimport\b", "import", line, count=1) for line in found if not _OF_C.match(line)]


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over `root`'s package with the contracts of its pyproject.toml."""
    with tempfile.TemporaryDirectory() as place:
        seen = Path(place)
        shutil.copy(root / "pyproject.toml", seen)
        shutil.copytree(root / "src", seen, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for path in seen.rglob("*.pyx"):
            path.with_suffix(".py").write_text("\n".join(imports(path.read_text())))
        command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=seen)


def main() -> int:
    done = lint(ROOT)
    print(done.stdout, done.stderr, sep="", end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
