"""The same, with the server of an ordinary user: every backend test once more, as another user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
AS_USER = TESTS / "support" / "as_user.py"
UID = 54_322


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("tests", ["contract/backends", "integration/sandbox/test_sandbox_isolation.py"])
def test_an_ordinary_users_sandboxes_hold_as_roots_do(tests: str):
    with tempfile.TemporaryDirectory(prefix="freehold-user-") as home:
        os.chown(home, UID, UID)
        pytest_words = [
            "-q",
            "--numprocesses=0",
            "-p",
            "no:cacheprovider",
            "-c",
            TESTS.parent / "pyproject.toml",
            "--basetemp",
            f"{home}/t",
        ]
        done = subprocess.run(
            [sys.executable, AS_USER, str(UID), home, sys.executable, "-m", "pytest", *pytest_words, TESTS / tests],
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert " passed" in done.stdout
