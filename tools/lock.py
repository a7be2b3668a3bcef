"""`./dev lock`: resolves the locks in requirements/ anew, with hashes, for every platform at once.

The locks name versions and hashes and no index, so they serve whichever index a machine uses.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import uv

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
SOURCES: dict[str, list[str]] = {
    "dev.txt": ["pyproject.toml", "--group", "dev"],
    "fuzz.txt": ["--group", "fuzz"],
    "agents.txt": [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("examples/*/requirements.txt"))],
}
"""Each lock, and what it is resolved from. agents.txt is what the example agents need, for tests that deploy it;
fuzz.txt is installed by `./dev soak --fuzz`."""


def main() -> int:
    for name, sources in SOURCES.items():
        command = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-annotate", "--no-header", "--upgrade", *sources]
        command += ["--output-file", str(REQUIREMENTS / name)]
        if (status := subprocess.run(command, check=False, cwd=ROOT).returncode) != 0:
            return status
        print(f"requirements/{name}")
    (REQUIREMENTS / "uv.txt").write_text(entry("uv", (REQUIREMENTS / "dev.txt").read_text()))
    print("requirements/uv.txt")
    return 0


def entry(package: str, lock: str) -> str:
    """The lines of one package in a lock."""
    found = re.search(rf"^{re.escape(package)}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"{package} is not in the lock")
    return found.group()


if __name__ == "__main__":
    sys.exit(main())
