"""./dev and what it begins with: finding Python, reading pip's configuration, the locks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tools import bootstrap, lock

ROOT = Path(__file__).parents[3]


def dev(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    shell = shutil.which("sh")
    assert shell is not None
    command = [shell, str(ROOT / "dev"), *arguments]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with the few programs that every machine has, and no Python."""
    for name in ("dirname", "cat"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    return tmp_path


def fake_python(at: Path, name: str, status: int) -> None:
    program = at / name
    program.write_text(f'#!/bin/sh\n[ $# -gt 2 ] && echo "ran $*"\nexit {status}\n')
    program.chmod(0o755)


def test_without_a_command_it_lists_them_and_fails():
    done = dev(path=os.environ["PATH"])
    assert done.returncode == 2
    assert all(re.search(rf"^  {name}\b", done.stderr, re.MULTILINE) for name in ("setup", "run", "test", "check"))


def test_help_is_no_failure():
    done = dev("--help", path=os.environ["PATH"])
    assert done.returncode == 0
    assert "usage: ./dev COMMAND" in done.stdout


def test_an_unknown_command_is_named():
    done = dev("dance", path=os.environ["PATH"])
    assert done.returncode == 2
    assert "no command 'dance'" in done.stderr


def test_without_python_it_says_what_to_install(bare_path: Path):
    done = dev("setup", path=str(bare_path))
    assert done.returncode == 1
    assert "apt install python3" in done.stderr


def test_a_python_that_is_too_old_is_passed_over(bare_path: Path):
    fake_python(bare_path, "python3", status=1)
    fake_python(bare_path, "python3.12", status=0)
    done = dev("setup", path=str(bare_path))
    assert done.returncode == 0
    assert "tools/bootstrap.py setup" in done.stdout


def test_pip_settings_are_read_from_files_and_environment_in_pips_order():
    listing = (
        ":env:.find-links='/wheels /more'\n"
        "global.cert='/etc/ca.pem'\n"
        "global.index-url='https://first.example/simple'\n"
        "install.index-url='https://second.example/simple'\n"
        "freeze.timeout='10'\n"
        "not a setting\n"
    )
    assert bootstrap.parse_pip_configuration(listing) == {
        "find-links": "/wheels /more",
        "cert": "/etc/ca.pem",
        "index-url": "https://second.example/simple",
    }


def test_pip_settings_become_uvs():
    pip = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://a.example/simple\nhttps://b.example/simple",
        "find-links": "/wheels /more",
        "cert": "/etc/ca.pem",
        "trusted-host": "mirror.example",
        "timeout": "60",
    }
    told = bootstrap.uv_environment({"PATH": "/bin"}, pip)
    assert (
        told.items()
        >= {
            "PATH": "/bin",
            "UV_DEFAULT_INDEX": "https://mirror.example/simple",
            "UV_INDEX": "https://a.example/simple https://b.example/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_FIND_LINKS": "/wheels,/more",
            "UV_INSECURE_HOST": "mirror.example",
            "UV_HTTP_TIMEOUT": "60",
            "SSL_CERT_FILE": "/etc/ca.pem",
            "UV_SYSTEM_CERTS": "true",
            "UV_PYTHON_DOWNLOADS": "never",
        }.items()
    )


def test_what_is_said_to_uv_itself_comes_first():
    said = {"UV_INDEX_URL": "https://mine.example/simple", "SSL_CERT_FILE": "/mine.pem", "PYTHONPATH": "/elsewhere"}
    told = bootstrap.uv_environment(said, {"index-url": "https://pips.example/simple", "cert": "/pips.pem"})
    assert told["UV_INDEX_URL"] == "https://mine.example/simple"
    assert told["SSL_CERT_FILE"] == "/mine.pem"
    assert "UV_DEFAULT_INDEX" not in told
    assert "PYTHONPATH" not in told


def test_programs_find_each_other_and_keep_what_they_compile():
    told = bootstrap.program_environment({"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1"}, {})
    assert told["PATH"] == f"{ROOT / '.venv' / 'bin'}:/bin"
    assert told["VIRTUAL_ENV"] == str(ROOT / ".venv")
    assert "PYTHONDONTWRITEBYTECODE" not in told


def test_a_failing_program_is_named_and_its_arguments_are_not_shown(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(bootstrap.SetupFailed) as failure:
        bootstrap.run(["/bin/false", "https://user:secret@mirror.example/simple"], os.environ)
    assert str(failure.value) == "false failed with status 1; what it says is above"
    assert "secret" not in "".join(capfd.readouterr())


# -- the locks ----------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, str]:
    """Package → version. Every line must be a pinned package, or a hash of one."""
    found: dict[str, str] = {}
    current = ""
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if pinned := re.match(r"([a-z0-9][a-z0-9.-]*)(?:\[[^\]]*\])?==(\S+)( ; .*?)? \\$", line):
            current = pinned[1]
            found[current] = pinned[2]
        else:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
            assert current
    return found


@pytest.mark.parametrize("name", ["dev.txt", "agents.txt", "uv.txt"])
def test_locks_are_versions_and_hashes_and_nothing_else(name: str):
    assert locked(name)


def test_the_uv_that_sets_up_is_the_uv_that_is_installed():
    assert (ROOT / "requirements" / "uv.txt").read_text() == lock.entry(
        "uv", (ROOT / "requirements" / "dev.txt").read_text()
    )


def test_the_agents_lock_holds_what_the_examples_pin():
    pins = locked("agents.txt")
    for requirements in ROOT.glob("examples/*/requirements.txt"):
        for line in requirements.read_text().splitlines():
            name, _, version = line.partition("==")
            assert pins[name.partition("[")[0]] == version


# -- .ci/run ------------------------------------------------------------------------------------------------------

CLOSING_LINE = "===== 3 passed, 1 skipped in 80.03s (0:01:20) ====="


@pytest.mark.parametrize(("check", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 4, 4), (1, 4, 1)])
def test_ci_runs_both_and_ends_with_pytests_closing_line(tmp_path: Path, check: int, test: int, status: int):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    script = tmp_path / "dev"
    script.write_text(f'#!/bin/sh\n[ "$1" = check ] && exit {check}\necho "{CLOSING_LINE}"\necho after\nexit {test}\n')
    script.chmod(0o755)
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status
    assert done.stdout.splitlines()[-1] == CLOSING_LINE
    assert ("check failed" in done.stdout, "test failed" in done.stdout) == (check != 0, test != 0)
