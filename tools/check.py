"""`./dev check`: everything that is checked without running the project. All checks run, also after one failed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
CHECKS: dict[str, list[str]] = {
    "lint": [str(BIN / "ruff"), "check", "."],
    "format": [str(BIN / "ruff"), "format", "--check", "."],
    "types": [str(BIN / "basedpyright")],
    "layers": [sys.executable, "-m", "tools.layers"],
    "reference": [sys.executable, "-m", "tools.reference", "--check"],
    "documentation": [sys.executable, "-m", "tools.check_docs"],
}


def main() -> int:
    failed: list[str] = []
    for name, command in CHECKS.items():
        began = time.monotonic()
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        print(f"{name}: {'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - began:.1f} s)", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout.rstrip(), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
