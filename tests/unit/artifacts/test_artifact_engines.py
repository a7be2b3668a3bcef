"""engines.node of dependencies. The oracle is npm's own semver, run by a real Node.js 22."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from node_22 import NODE, RELEASE, SEMVER

from freehold.artifacts import engines
from freehold.artifacts.base import ArtifactRejected

RANGES = [
    *(
        ">=18",
        ">= 18",
        ">=18.0.0",
        ">=22.20.0 <23",
        "<22",
        "<=22",
        "<23",
        "> 22",
        "22",
        "22.x",
        "22.*",
        "v22",
        "=22.20.0",
    ),
    *(
        "^20.0.0",
        "^20 || ^22",
        "^18 || >=20",
        "18 || 20",
        "~22.1",
        "~22.20.0",
        "~> 22.0",
        "14 - 20",
        "18 - 22",
        "",
        "*",
    ),
    *("x", ">=10 <=14", "^12.20.0 || ^14.13.1 || >=16.0.0", ">=0.10.0", ">=v18.0.0", "1 || 2||3", "22.20", "<22.20.0"),
    *("^22.21.0", ">=22.20.1", ">=22.0.0-rc.1", "  >=18   <23  ", "^14.0.0||^16.0.0||>=18.0.0", ">=18 <19 || >=21"),
]


def package(root: Path, name: str, **manifest: Any) -> None:
    directory = root / "node_modules" / name
    directory.mkdir(parents=True)
    (directory / "package.json").write_text(json.dumps({"name": name, "version": "1.0.0", **manifest}))


def taken(root: Path) -> bool:
    try:
        engines.check(root, RELEASE)
    except ArtifactRejected:
        return False
    return True


def test_ranges_hold_what_npm_says_they_hold(tmp_path: Path) -> None:
    script = f"""
        const semver = require({json.dumps(str(SEMVER))});
        const ranges = {json.dumps(RANGES)};
        console.log(JSON.stringify(ranges.map(range => semver.satisfies(process.versions.node, range))));
    """
    done = subprocess.run([NODE, "-e", script], capture_output=True, check=True, timeout=30)
    expected = dict(zip(RANGES, json.loads(done.stdout), strict=True))
    found: dict[str, bool] = {}
    for number, wanted in enumerate(RANGES):
        package(tmp_path / str(number), "dependency", engines={"node": wanted})
        found[wanted] = taken(tmp_path / str(number))
    assert found == expected
    assert {True, False} == set(found.values())


@pytest.mark.parametrize("name", ["dependency", "@scope/dependency", "outer/node_modules/inner"])
def test_a_dependency_for_another_node_is_refused_by_name(tmp_path: Path, name: str) -> None:
    package(tmp_path, name, engines={"node": "<20"})
    with pytest.raises(ArtifactRejected) as caught:
        engines.check(tmp_path, "22.20.0")
    assert str(caught.value) == (
        "Your artifact contains dependencies with engines.node declarations incompatible with the target Node.js "
        f"version. The first is node_modules/{name}, which asks for <20; this server has 22.20.0."
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', "\ud800", "[" * 100_000, '{"engines": "node"}', '{"engines": {"node": 20}}'),
        *('{"engines": ["node < 20"]}', '{"engines": {"npm": "<2"}}', '{"engines": {"node": "latest"}}'),
        *('{"engines": {"node": "' + "<1 " * 1000 + '"}}', '{"engines": {"node": ">=18.0.0 +!?"}}'),
    ],
)
def test_what_is_no_declaration_is_no_reason_to_refuse(tmp_path: Path, text: str) -> None:
    package(tmp_path, "dependency")
    (tmp_path / "node_modules/dependency/package.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    engines.check(tmp_path, RELEASE)


def test_only_packages_that_npm_installed_are_looked_at(tmp_path: Path) -> None:
    old = json.dumps({"engines": {"node": "<1"}})
    package(tmp_path, "dependency", engines={"node": ">=1"})
    for place in ("package.json", "node_modules/dependency/esm/package.json", "lib/package.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(old)
    (tmp_path / "node_modules" / "linked").mkdir()
    (tmp_path / "node_modules" / "linked" / "package.json").symlink_to(tmp_path / "package.json")
    engines.check(tmp_path, RELEASE)
