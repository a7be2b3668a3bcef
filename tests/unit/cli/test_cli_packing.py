from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from freehold.cli import deploy, invoke


def wanted(directory: Path) -> deploy.Wanted:
    return deploy.Wanted(directory, "agent", "HTTP", ["main.py"], deploy.this_runtime())


def names(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_folder_is_packed_without_what_is_not_its_code(tmp_path: Path):
    (tmp_path / "main.py").write_text("print(1)")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a,b")
    for skipped in (".git", ".venv", "__pycache__"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "x").write_text("x")
    assert names(deploy.pack(wanted(tmp_path))) == {"data/a.csv": b"a,b", "main.py": b"print(1)"}


def test_the_same_folder_packs_to_the_same_bytes(tmp_path: Path):
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "main.py").write_text("x")
    assert deploy.pack(wanted(tmp_path / "one")) == deploy.pack(wanted(tmp_path / "two"))


def test_executable_files_stay_executable(tmp_path: Path):
    (tmp_path / "run.sh").write_text("#!/bin/sh")
    (tmp_path / "run.sh").chmod(0o755)
    with zipfile.ZipFile(io.BytesIO(deploy.pack(wanted(tmp_path)))) as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755


def test_requirements_are_packed_beside_the_code(tmp_path: Path):
    package = tmp_path / "package"
    (package / "greeting").mkdir(parents=True)
    (package / "greeting" / "__init__.py").write_text("HELLO = 1")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "greeting"\nversion = "1"\n'
    )
    (package / "backend.py").write_text(BACKEND)
    agent = tmp_path / "agent"
    agent.mkdir()
    (agent / "main.py").write_text("import greeting")
    (agent / "requirements.txt").write_text(f"greeting @ {package.as_uri()}\n")
    assert names(deploy.pack(wanted(agent)))["greeting/__init__.py"] == b"HELLO = 1"


BACKEND = """
import zipfile
def build_wheel(directory, config=None, metadata=None):
    name = "greeting-1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.write("greeting/__init__.py")
        wheel.writestr("greeting-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1\\n")
        wheel.writestr("greeting-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("greeting-1.dist-info/RECORD", "")
    return name
"""


def test_requirements_that_can_not_be_installed_are_told(tmp_path: Path):
    (tmp_path / "requirements.txt").write_text("broken @ file:///nowhere/at/all\n")
    with pytest.raises(deploy.DeployError, match="nowhere"):
        deploy.pack(wanted(tmp_path))


@pytest.mark.parametrize("pair", ["KEY", "=value", ""])
def test_an_environment_pair_needs_a_key_and_an_equals_sign(pair: str):
    with pytest.raises(deploy.DeployError, match="KEY=VALUE"):
        deploy.read_environment([pair])


def test_environment_values_may_hold_equals_signs():
    assert deploy.read_environment(["A=b=c", "D="]) == {"A": "b=c", "D": ""}


def test_a_json_object_goes_to_the_agent_as_it_is():
    assert invoke.payload('{"a": [1]}', "AGUI") == b'{"a": [1]}'


@pytest.mark.parametrize("text", ["hello", "17", '["a"]', '"quoted"', "{broken"])
def test_other_text_becomes_a_prompt(text: str):
    assert json.loads(invoke.payload(text, "HTTP")) == {"prompt": text}


def test_other_text_becomes_an_ag_ui_run_with_one_user_message():
    run = json.loads(invoke.payload("how many rows?", "AGUI"))
    assert [(message["role"], message["content"]) for message in run["messages"]] == [("user", "how many rows?")]
