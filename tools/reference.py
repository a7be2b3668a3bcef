"""`./dev docs`: writes the generated pages of docs/reference; with `--check` only says which are out of date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools import cli_reference, coverage, divergences, protocols_reference, settings_reference

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_reference.page,
    "cli.md": cli_reference.page,
    "coverage.md": coverage.page,
    "divergences.md": divergences.page,
    "protocols.md": protocols_reference.page,
}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: ./dev docs [--check]", file=sys.stderr)
        return 2
    stale: list[str] = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if path.is_file() and path.read_text() == text:
            continue
        if arguments:
            stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"docs/reference/{name}")
    if stale:
        print(f"out of date (run ./dev docs): {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except coverage.TableWrong as wrong:
        print(wrong, file=sys.stderr)
        sys.exit(1)
