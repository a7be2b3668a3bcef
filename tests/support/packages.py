"""Packages of this environment as files of a bundle, as `pip install --target` would lay them out."""

from __future__ import annotations

import functools
import importlib.metadata
import re

from packaging.requirements import Requirement

_LEFT_OUT = re.compile(r"botocore/data/(?!bedrock-agentcore)[^/]+/")
"""Models of services that no agent here calls: more than half of all that the packages of an agent hold."""
_NAME = re.compile(r"[-_.]+")


@functools.cache
def bundle_of(*names: str) -> dict[str, bytes]:
    """The files of the installed distributions `names` (with their extras) and of all that they require."""
    files: dict[str, bytes] = {}
    for distribution in _closure(names):
        for path in distribution.files or []:
            if path.suffix == ".pyc" or _LEFT_OUT.match(path.as_posix()):
                continue
            if ".." not in path.parts:
                files[path.as_posix()] = path.read_binary()
            elif path.parts[-2] == "bin":
                files[f"bin/{path.name}"] = path.read_binary()
    return files


def _closure(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    found: dict[tuple[str, str], importlib.metadata.Distribution] = {}
    """By name and by an extra of it, or none."""
    waiting = [
        (requirement.name, extra) for requirement in map(Requirement, names) for extra in ("", *requirement.extras)
    ]
    while waiting:
        name, extra = waiting.pop()
        key = _NAME.sub("-", name).lower(), extra
        if key in found:
            continue
        found[key] = importlib.metadata.distribution(key[0])
        for requirement in map(Requirement, found[key].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return list({distribution.name: distribution for distribution in found.values()}.values())
