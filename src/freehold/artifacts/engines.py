"""Finds dependencies in a bundle that declare to need another Node.js than the one that will run them.

Not for the bundle's own package.json, which npm only warns about, nor for other engines. Invariant: files are read,
never run; what can't be understood is no reason to refuse, since Node.js itself asks nobody.

Source: npm's package.json reference ("engines"), node-semver's README (ranges); the service's text is in the developer
guide's page on common issues of direct code deployment.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final, cast

import semantic_version  # pyright: ignore[reportMissingTypeStubs] - it has none
import structlog

from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.source import printable

MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_RANGE_LENGTH: Final = 256
_MODULES: Final = "node_modules"
_SPACE_AFTER_OPERATOR = re.compile(r"([<>=~^]+)\s+")
_V = re.compile(r"(^|[\s<>=~^|])v(?=[0-9])")
_TILDE_GREATER = re.compile(r"~>")

log = structlog.get_logger(__name__)


def check(root: Path, release: str) -> None:
    """Raise ArtifactRejected if a package below `root` excludes Node.js `release` (as 22.20.0), naming the first.

    Blocking: for worker threads.
    """
    node = semantic_version.Version(release)
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        if "package.json" not in files or not _is_package(directory):
            continue
        manifest = Path(directory, "package.json")
        wanted = _wanted(manifest)
        if wanted is not None and not _takes(wanted, node):
            raise ArtifactRejected(
                "Your artifact contains dependencies with engines.node declarations incompatible with the target "
                f"Node.js version. The first is {printable(manifest.parent.relative_to(root).as_posix())}, which asks "
                f"for {printable(wanted)}; this server has {release}."
            )


def _is_package(directory: str) -> bool:
    """Whether npm has put a package here: other package.json files below it tell only how to load modules."""
    above = Path(directory).parent
    return (above.parent if above.name.startswith("@") else above).name == _MODULES


def _wanted(manifest: Path) -> str | None:
    """The range of engines.node, if there is one that can be read."""
    if manifest.is_symlink() or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    try:
        said: Any = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return None
    engines: Any = cast("dict[str, Any]", said).get("engines") if isinstance(said, dict) else None
    wanted: Any = cast("dict[str, Any]", engines).get("node") if isinstance(engines, dict) else None
    return wanted if isinstance(wanted, str) and len(wanted) <= MAX_RANGE_LENGTH else None


def _takes(wanted: str, node: semantic_version.Version) -> bool:
    """Whether a range holds a version. True for what is no range."""
    plain = _SPACE_AFTER_OPERATOR.sub(r"\1", _TILDE_GREATER.sub("~", wanted.strip()))
    plain = _V.sub(r"\1", plain)
    try:
        return any(_holds(" ".join(alternative.split()), node) for alternative in plain.split("||"))
    except ValueError:
        log.info("artifact.engines_not_understood", range=printable(wanted))
        return True


def _holds(alternative: str, node: semantic_version.Version) -> bool:
    spec: Any = semantic_version.NpmSpec(alternative or "*")
    return bool(spec.match(node))
