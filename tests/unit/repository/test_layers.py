"""The contracts of import-linter hold for what is written for Cython, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import layers

CONTRACT = """
[tool.importlinter]
root_package = "house"
include_external_packages = true

[[tool.importlinter.contracts]]
name = "layers"
type = "layers"
layers = ["house.roof", "house.cellar"]
"""


def test_imports_are_read_wherever_they_stand():
    source = (
        "import os\nfrom libc.string cimport memcpy\nfrom cpython.bytes cimport (\n    PyBytes_AS_STRING,\n)\n"
        "from house.roof cimport Tile  # of clay\ncimport cython\n"
        "def f():\n    from house import (\n        cellar,\n        roof,\n    )\n    important = 1\n"
    )
    assert layers.imports(source) == [
        "import os",
        "from house.roof import Tile",
        "from house import (\n        cellar,\n        roof,\n    )",
    ]


@pytest.mark.parametrize(("imported", "holds"), [("json", True), ("house.roof", False)])
def test_a_module_for_cython_that_breaks_a_contract_is_told(tmp_path: Path, imported: str, holds: bool):
    (tmp_path / "pyproject.toml").write_text(CONTRACT)
    house = tmp_path / "src" / "house"
    house.mkdir(parents=True)
    for name in ("__init__", "roof"):
        (house / f"{name}.py").touch()
    (house / "cellar").mkdir()
    (house / "cellar" / "__init__.py").touch()
    (house / "cellar" / "deep.pyx").write_text(f"cdef int n = 3\ncdef f():\n    import {imported}\n")
    done = layers.lint(tmp_path)
    assert (done.returncode == 0) == holds
    assert ("house.cellar.deep -> house.roof" in done.stdout) != holds
