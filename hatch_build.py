"""Hatchling's hook: puts the compiled parts into a wheel, and tags it for its platform.

Not for how they are compiled (`tools/extensions.py`). Invariant: a wheel without compiled parts is one for every
platform, and does the same.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _tool(root: str, name: str) -> ModuleType:
    """A module of tools/, which a build has not on its path."""
    spec = importlib.util.spec_from_file_location(name, Path(root) / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class CompiledParts(BuildHookInterface[Any]):
    """For wheels. An editable one has them beside their sources."""

    _place: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        extensions = _tool(self.root, "extensions")
        with_what: dict[str, Any] = {"python": sys.executable, "environment": os.environ}
        try:
            if version == "editable":
                extensions.refresh(Path(self.root), **with_what)
                return
            self._place = tempfile.TemporaryDirectory(prefix="freehold-")
            place = Path(self._place.name)
            built = extensions.build(Path(self.root), place, **with_what)
        except extensions.NotCompiled as reason:
            self.app.display_warning(f"freehold: {reason}")
            return
        if built:
            build_data["force_include"] |= {str(place / path): str(path) for path in built}
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._place is not None:
            self._place.cleanup()
