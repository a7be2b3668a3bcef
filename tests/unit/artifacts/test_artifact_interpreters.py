"""Finding interpreters: those of this machine, and programs that only pretend."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

import botocore.session
import pytest

from freehold.artifacts import interpreters
from freehold.artifacts.base import ArtifactRejected
from freehold.artifacts.interpreters import Interpreters
from freehold.domain.runtimes import MANAGED_RUNTIMES

THIS = f"PYTHON_3_{sys.version_info.minor}"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be PATH, and a host that has no interpreters elsewhere."""
    monkeypatch.setattr(interpreters, "_SYSTEM_DIRECTORIES", ())
    for name in ("XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR", "PYENV_ROOT", "NVM_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "path" / "bin").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    return tmp_path


def finder(bare: Path, **overrides: str) -> Interpreters:
    return Interpreters(overrides, search_path=str(bare / "path" / "bin"), home=bare / "home")


def pretend(path: Path, version: list[int], *, language: str = "cpython", **more: object) -> Path:
    """A program that answers the probe as an interpreter installed two directories above would."""
    answer = {
        "language": language,
        "version": version,
        "executable": str(path),
        "prefixes": [str(path.parent.parent)],
        "sites": [],
        "is_base": True,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho run >> '{path}.runs'\necho '{json.dumps(answer | more)}'\n")
    path.chmod(0o755)
    return path


def test_the_names_are_those_of_the_service_model() -> None:
    model = botocore.session.get_session().get_service_model("bedrock-agentcore-control")
    assert list(MANAGED_RUNTIMES) == model.shape_for("AgentManagedRuntimeType").enum  # type: ignore[attr-defined]


def test_the_interpreter_that_runs_us_is_found_behind_its_virtual_environment() -> None:
    found = Interpreters().find(THIS)
    code = "import sys; print(sys.prefix == sys.base_prefix, *sys.version_info[:2])"
    said = subprocess.run([found.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "3", str(sys.version_info.minor)]
    assert Path(found.executable).resolve() == Path(found.executable)


def test_every_available_python_is_what_it_is_called() -> None:
    found = Interpreters()
    available = [name for name in found.available() if name.startswith("PYTHON")]
    assert THIS in available
    for name in available:
        said = subprocess.run([found.find(name).executable, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith("Python " + name.removeprefix("PYTHON_").replace("_", "."))


def test_what_it_needs_outside_of_usr_is_named_and_its_packages_too() -> None:
    found = Interpreters().find(THIS)
    code = "import json, sys, sysconfig; print(json.dumps([sys.prefix, sysconfig.get_path('purelib')]))"
    said = subprocess.run([found.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    prefix, purelib = json.loads(said.stdout)
    assert Path(prefix).is_relative_to("/usr") or prefix in found.prefixes
    assert not Path(purelib).is_dir() or purelib in found.site_dirs
    assert all(Path(directory).is_dir() for directory in (*found.prefixes, *found.site_dirs))


def test_a_virtual_environment_on_path_stands_for_what_lies_behind_it(bare: Path) -> None:
    venv.create(bare / "venv", symlinks=True)
    link = bare / "path" / "bin" / f"python3.{sys.version_info.minor}"
    link.symlink_to(bare / "venv" / "bin" / "python3")
    found = finder(bare, **{THIS: str(link)}).find(THIS)
    assert found == Interpreters().find(THIS)
    assert not any(Path(prefix).is_relative_to(bare) for prefix in found.prefixes)


def test_a_name_on_path_proves_nothing(bare: Path) -> None:
    pretend(bare / "path" / "bin" / "python3.10", [3, 7])
    pretend(bare / "path" / "bin" / "python3", [3, 10], language="pypy")
    pretend(bare / "path" / "bin" / "python", [3, 10], language="cpythont")
    with pytest.raises(ArtifactRejected):
        finder(bare).find("PYTHON_3_10")


def test_the_newest_release_among_managed_ones_is_taken(bare: Path) -> None:
    for release in ("3.10.2", "3.10.13", "3.10.9"):
        pretend(bare / "home" / ".pyenv" / "versions" / release / "bin" / "python3.10", [3, 10])
    found = finder(bare).find("PYTHON_3_10")
    assert found.prefixes == (str(bare / "home/.pyenv/versions/3.10.13"),)


def test_pythons_that_uv_installed_are_found(bare: Path) -> None:
    home = bare / "home/.local/share/uv/python/cpython-3.14.2-linux-x86_64-gnu"
    pretend(home / "bin" / "python3.14", [3, 14])
    assert finder(bare).find("PYTHON_3_14").prefixes == (str(home),)


def test_a_node_of_the_right_major_release_is_found(bare: Path) -> None:
    pretend(bare / "path" / "bin" / "node", [20], language="node")
    wanted = pretend(bare / "home/.nvm/versions/node/v22.11.0/bin/node", [22], language="node")
    assert finder(bare).find("NODE_22").executable == str(wanted)


def test_the_real_node_answers_the_probe_in_full(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Path("/usr/bin/node")
    if not node.exists():
        pytest.skip("no node here")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    name = f"NODE_{version.strip().removeprefix('v').split('.')[0]}"
    found = finder(bare, **{name: str(node)}).find(name)
    assert found.executable == str(node.resolve())


def test_a_link_to_an_installation_shows_both_its_name_and_where_it_leads(bare: Path) -> None:
    real = bare / "opt" / "python-3.10.1"
    executable = pretend(real / "bin" / "python3.10", [3, 10], prefixes=[str(bare / "opt" / "python")])
    (bare / "opt" / "python").symlink_to(real)
    found = finder(bare, PYTHON_3_10=str(bare / "opt/python/bin/python3.10")).find("PYTHON_3_10")
    assert found.executable == str(executable)
    assert found.prefixes == (str(bare / "opt/python"), str(real))


def test_an_installation_that_holds_a_home_directory_is_not_taken(bare: Path) -> None:
    pretend(bare / "home" / "bin" / "python3.10", [3, 10])
    (bare / "path" / "bin" / "python3.10").symlink_to(bare / "home" / "bin" / "python3.10")
    with pytest.raises(ArtifactRejected):
        finder(bare).find("PYTHON_3_10")


def test_what_is_missing_is_told_with_what_there_is_and_how_to_get_it(bare: Path) -> None:
    pretend(bare / "path" / "bin" / "python3.10", [3, 10])
    available = finder(bare).available()
    assert "PYTHON_3_10" in available
    with pytest.raises(ArtifactRejected) as caught:
        finder(bare).find("PYTHON_3_14")
    assert str(caught.value) == (
        f"The runtime PYTHON_3_14 is not installed on this server; it has {', '.join(available)}. Install it on the "
        "server, for example with `uv python install 3.14`, name its executable in the setting "
        "artifacts.interpreters.PYTHON_3_14, or choose another runtime."
    )
    with pytest.raises(ArtifactRejected, match=r"Install Node\.js 22"):
        finder(bare).find("NODE_22")


def test_an_override_is_the_only_candidate(bare: Path) -> None:
    pretend(bare / "path" / "bin" / "python3.10", [3, 10])
    mine = pretend(bare / "opt" / "mine" / "bin" / "python", [3, 10])
    assert finder(bare, PYTHON_3_10=str(mine)).find("PYTHON_3_10").executable == str(mine)
    for wrong in (pretend(bare / "opt/old/bin/python", [3, 9]), bare / "nowhere", bare):
        with pytest.raises(ArtifactRejected, match="is set to use for PYTHON_3_10 can't be used"):
            finder(bare, PYTHON_3_10=str(wrong)).find("PYTHON_3_10")


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '{}'", "echo '[1]'", "kill -9 $$"])
def test_a_program_that_does_not_answer_is_passed_over(bare: Path, script: str) -> None:
    broken = bare / "path" / "bin" / "python3.10"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    good = pretend(bare / "home/.pyenv/versions/3.10.1/bin/python3.10", [3, 10])
    assert finder(bare).find("PYTHON_3_10").executable == str(good)


def test_a_program_that_hangs_is_passed_over_in_time(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "PROBE_TIMEOUT_S", 0.2)
    hanging = bare / "path" / "bin" / "python3.10"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    started_at = time.monotonic()
    with pytest.raises(ArtifactRejected):
        finder(bare).find("PYTHON_3_10")
    assert time.monotonic() - started_at < 20


def test_what_was_found_is_asked_once_and_again_when_it_has_gone(bare: Path) -> None:
    first = pretend(bare / "path" / "bin" / "python3.10", [3, 10])
    found = finder(bare)
    assert {found.find("PYTHON_3_10").executable for _ in range(3)} == {str(first)}
    assert Path(f"{first}.runs").read_text().count("run") == 1
    first.unlink()
    second = pretend(bare / "home/.pyenv/versions/3.10.1/bin/python3.10", [3, 10])
    assert found.find("PYTHON_3_10").executable == str(second)


@pytest.mark.parametrize("name", ["", "PYTHON", "python_3_11", "PYTHON_3_11\n", "RUBY_3", "../x"])
def test_other_names_are_no_runtimes(name: str) -> None:
    with pytest.raises(ArtifactRejected, match="is not a managed runtime"):
        Interpreters().find(name)
