"""Packages of this environment as files of a bundle, as `pip install --target` would lay them out."""

from __future__ import annotations

import functools
import importlib.metadata
import re

from packaging.requirements import Requirement

_NAME = re.compile(r"[-_.]+")


@functools.cache
def bundle_of(*names: str) -> dict[str, bytes]:
    """The files of the installed distributions `names` and of all that they require."""
    files: dict[str, bytes] = {}
    for distribution in _closure(names):
        for path in distribution.files or []:
            if path.suffix == ".pyc":
                continue
            if ".." not in path.parts:
                files[path.as_posix()] = path.read_binary()
            elif path.parts[-2] == "bin":
                files[f"bin/{path.name}"] = path.read_binary()
    return files


def _closure(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        key = _NAME.sub("-", waiting.pop()).lower()
        if key in found:
            continue
        found[key] = importlib.metadata.distribution(key)
        for line in found[key].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return list(found.values())
