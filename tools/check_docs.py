"""Links of the documentation: every relative link leads to a file of the repository, every anchor to a heading."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)


def main() -> int:
    found = list(problems(ROOT))
    print(*found, sep="\n", file=sys.stderr) if found else None
    return 1 if found else 0


def documents(root: Path) -> list[Path]:
    """README and the like, docs/, and what the examples and benchmarks say."""
    return sorted(
        [
            *root.glob("*.md"),
            *(path for part in ("docs", "examples", "benchmarks") for path in root.glob(f"{part}/**/*.md")),
        ]
    )


def problems(root: Path) -> Iterator[str]:
    for document in documents(root):
        text = CODE.sub("", FENCE.sub("", document.read_text()))
        for target in LINK.findall(text):
            if problem := check(document, target, root):
                yield f"{document.relative_to(root)}: {target}: {problem}"
    reached = reachable(root / "docs" / "index.md", root)
    for document in sorted(root.glob("docs/**/*.md")):
        if document not in reached:
            yield f"{document.relative_to(root)}: no way leads here from docs/index.md"


def check(document: Path, target: str, root: Path) -> str | None:
    """What is wrong with a link, if anything. Links to other sites are not followed."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    path, _, anchor = target.partition("#")
    aim = (document.parent / unquote(path)).resolve() if path else document
    if not aim.is_relative_to(root) or not aim.exists():
        return "there is no such file in the repository"
    if anchor and anchor not in anchors(aim):
        return "there is no such heading"
    return None


def reachable(start: Path, root: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        document = waiting.pop()
        if document in seen or document.suffix != ".md" or not document.is_file():
            continue
        seen.add(document)
        for target in LINK.findall(CODE.sub("", FENCE.sub("", document.read_text()))):
            if not re.match(r"[a-z][a-z0-9+.-]*:", target) and (path := target.partition("#")[0]):
                waiting.append((document.parent / unquote(path)).resolve())
    return seen


def anchors(document: Path) -> set[str]:
    """The anchors of a Markdown file's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", document.read_text())):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number, name = 0, slug
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
