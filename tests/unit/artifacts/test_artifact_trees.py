"""Sealing and removing trees, as root and as an ordinary user, who is bound by what was sealed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.artifacts import trees

ORDINARY_UID = 54_321


def grow(root: Path) -> Path:
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "file").write_bytes(b"x")
    (root / "run").write_bytes(b"x")
    (root / "run").chmod(0o700)
    (root / "link").symlink_to("d")
    return root


def seal_rename_and_remove(place: Path) -> None:
    tree = grow(place / "tree")
    trees.seal(tree)
    modes = {path.relative_to(tree).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in tree.rglob("*")}
    del modes["link"]
    assert modes == {"d": 0o555, "d/e": 0o555, "d/e/file": 0o444, "run": 0o555}
    tree.rename(place / "renamed")
    trees.remove(place / "renamed")
    assert list(place.iterdir()) == []


def as_ordinary_user(work: Callable[[Path], None]) -> int:
    """Do `work` in a child process of another uid, in a directory of its own; the exit status."""
    place = Path(tempfile.mkdtemp(prefix="freehold-test-"))
    try:
        os.chown(place, ORDINARY_UID, ORDINARY_UID)
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                work(place)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        shutil.rmtree(place)


def test_a_sealed_tree_can_be_renamed_and_removed(tmp_path: Path) -> None:
    seal_rename_and_remove(tmp_path)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_can_rename_and_remove_a_sealed_tree() -> None:
    assert as_ordinary_user(seal_rename_and_remove) == 0


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = grow(tmp_path / "outside")
    tree = grow(tmp_path / "tree")
    (tree / "d" / "out").symlink_to(outside)
    (tmp_path / "alias").symlink_to(outside)
    trees.remove(tree)
    trees.remove(tmp_path / "alias")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
    assert (outside / "d" / "e" / "file").read_bytes() == b"x"
    assert stat.S_IMODE((outside / "run").stat().st_mode) == 0o700


def test_sealing_follows_no_link(tmp_path: Path) -> None:
    outside = grow(tmp_path / "outside")
    tree = grow(tmp_path / "tree")
    (tree / "file").symlink_to(outside / "run")
    trees.seal(tree)
    assert stat.S_IMODE((outside / "run").stat().st_mode) == 0o700


def test_what_has_gone_already_is_removed(tmp_path: Path) -> None:
    trees.remove(tmp_path / "nothing")
