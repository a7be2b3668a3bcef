"""Backups as an enemy, or a bad disk, would have them; and what a restore leaves behind when it fails."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import first_release
import pytest

from freehold.datadir import custody
from freehold.datadir.backup import BackupFailed, backup
from freehold.datadir.restore import RestoreFailed, restore
from freehold.store import sqlite
from freehold.store.base import StoreRefused


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    first_release.make_data_dir(tmp_path / "data")
    version = tmp_path / "data" / "buckets" / ".versions" / "agents" / ("0" * 64)
    version.mkdir(parents=True)
    (version / ("a" * 32)).write_bytes(b"an older upload")
    (version / ("a" * 32)).chmod(0o400)
    return tmp_path / "data"


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock" and "state" not in path.parts
    }


def written(data_dir: Path, output: Path) -> Path:
    backup(data_dir, output, with_keys=True)
    return output


# -- the round trip ------------------------------------------------------------------------------------------------


def test_what_is_restored_is_what_was_there_closed_to_others(data_dir: Path, tmp_path: Path):
    file = written(data_dir, tmp_path / "b.tar")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = restore(file, tmp_path / "deep" / "new")
    assert (restored.objects, restored.has_keys) == (2, True)
    assert tree(tmp_path / "deep" / "new") == tree(data_dir)
    for path in [tmp_path / "deep" / "new", *(tmp_path / "deep" / "new").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    custody.check(tmp_path / "deep" / "new")


def test_what_is_made_again_is_left_out_and_so_is_what_is_no_object(data_dir: Path, tmp_path: Path):
    for name in ("artifacts/x", "sessions/x", "logs/x", "buckets/.uploads/x"):
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_text("x")
    (data_dir / "buckets" / "agents" / "link.zip").symlink_to("/etc/passwd")
    (data_dir / "buckets" / "agents" / "elsewhere").symlink_to("/etc")
    (data_dir / "buckets" / "README").write_text("no bucket")
    os.mkfifo(data_dir / "buckets" / "agents" / "fifo")
    done = backup(data_dir, tmp_path / "b.tar")
    assert [Path(path).name for path in done.skipped] == ["README", "elsewhere", "fifo", "link.zip"]
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert tar.getnames() == [
            "freehold-backup.json",
            "state/freehold.db",
            f"buckets/.versions/agents/{'0' * 64}/{'a' * 32}",
            "buckets/agents/greeter.zip",
        ]
        assert {(member.uid, member.uname, member.mode) for member in tar} == {(0, "", 0o600)}


def test_what_was_deleted_from_the_database_is_not_in_its_copy(data_dir: Path, tmp_path: Path):
    store = sqlite.open_store(data_dir / "state" / "freehold.db")
    store.close()
    sqlite.snapshot(data_dir / "state" / "freehold.db", tmp_path / "copy.db")
    sqlite.check(tmp_path / "copy.db")
    assert sqlite.revision(tmp_path / "copy.db") == sqlite.revision(data_dir / "state" / "freehold.db")


def test_a_backup_replaces_nothing_and_lies_outside(data_dir: Path, tmp_path: Path):
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(BackupFailed, match="exists already"):
        backup(data_dir, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "precious"
    with pytest.raises(BackupFailed, match="lies in the data directory"):
        backup(data_dir, data_dir / "buckets" / "b.tar")
    with pytest.raises(BackupFailed, match="can't be written"):
        backup(data_dir, tmp_path / "nowhere" / "b.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "data"]


def test_keys_that_are_asked_for_and_missing_fail_the_backup(data_dir: Path, tmp_path: Path):
    (data_dir / "keys" / "master.key").unlink()
    with pytest.raises(BackupFailed, match="no master key"):
        backup(data_dir, tmp_path / "b.tar", with_keys=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# -- where to ------------------------------------------------------------------------------------------------------


def test_only_an_empty_directory_is_restored_into(data_dir: Path, tmp_path: Path):
    file = written(data_dir, tmp_path / "b.tar")
    new = tmp_path / "new"
    (new / "lost+found").mkdir(parents=True)
    restore(file, new)
    with pytest.raises(RestoreFailed, match="is not empty"):
        restore(file, new)
    with custody.lock(new), pytest.raises(RestoreFailed, match="a server runs"):
        restore(file, new)


def test_a_restore_that_did_not_end_is_refused_by_servers_and_restores(data_dir: Path, tmp_path: Path):
    file = written(data_dir, tmp_path / "b.tar")
    new = tmp_path / "new"
    (new / custody.UNFINISHED_RESTORE).mkdir(parents=True)
    with pytest.raises(custody.DataDirRefused, match="did not end"):
        custody.prepare(new)
    with pytest.raises(RestoreFailed, match="is not empty"):
        restore(file, new)


def test_a_directory_that_others_write_to_is_not_restored_into(data_dir: Path, tmp_path: Path):
    file = written(data_dir, tmp_path / "b.tar")
    (tmp_path / "new").mkdir()
    (tmp_path / "new").chmod(0o777)
    with pytest.raises(custody.DataDirRefused, match="chmod -R go-w"):
        restore(file, tmp_path / "new")


# -- hostile files -------------------------------------------------------------------------------------------------

Change = Callable[[tarfile.TarFile], None]


def member(name: str, content: bytes = b"x", **values: object) -> Change:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in values.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content) if info.isreg() else None)

    return add


HOSTILE: dict[str, Change] = {
    "absolute": member("/tmp/freehold-escape"),
    "traversal": member("buckets/agents/../../../escape"),
    "traversal of versions": member(f"buckets/.versions/../{'0' * 64}/{'a' * 32}"),
    "above": member("../escape"),
    "dot": member("buckets/agents/./x"),
    "empty part": member("buckets/agents//x"),
    "another place": member("artifacts/x"),
    "the lock": member("lock"),
    "a socket's place": member("run/warden.sock"),
    "beside the database": member("state/freehold.db-wal"),
    "control characters": member("buckets/agents/x\ny"),
    "a bucket's name": member("buckets/UPPER/x"),
    "a long part": member(f"buckets/agents/{'x' * 256}"),
    "not UTF-8": member("buckets/agents/\udcff"),
    "a symbolic link": member("buckets/agents/l", b"", type=tarfile.SYMTYPE, linkname="/etc"),
    "a hard link": member("buckets/agents/l", b"", type=tarfile.LNKTYPE, linkname="keys/master.key"),
    "a device": member("buckets/agents/l", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=1),
    "a block device": member("buckets/agents/l", b"", type=tarfile.BLKTYPE),
    "a fifo": member("buckets/agents/l", b"", type=tarfile.FIFOTYPE),
    "a directory": member("buckets/agents/l", b"", type=tarfile.DIRTYPE),
    "contiguous": member("buckets/agents/l", b"", type=tarfile.CONTTYPE),
    "twice": member("buckets/agents/greeter.zip"),
    "a second database": member("state/freehold.db"),
    "through a file": member("buckets/agents/greeter.zip/x"),
    "a huge key": member("keys/master.key", b"x" * 100_000),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_backup_is_refused_and_leaves_nothing(change: Change, data_dir: Path, tmp_path: Path):
    file = tmp_path / "b.tar"
    backup(data_dir, file, with_keys=False)
    with tarfile.open(file, "a", errors="surrogateescape") as tar:
        change(tar)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RestoreFailed) as refused:
        restore(file, tmp_path / "new")
    assert "b.tar" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not Path("/tmp/freehold-escape").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RestoreFailed):
        restore(file, tmp_path / "empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] in ([], ["lock"])


def test_files_that_are_no_backups_are_refused(data_dir: Path, tmp_path: Path):
    good = written(data_dir, tmp_path / "b.tar").read_bytes()
    empty, foreign = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w"):
        pass
    with tarfile.open(fileobj=foreign, mode="w") as tar:
        member("buckets/agents/x")(tar)
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.PAX_FORMAT))
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 7 << 30
    files = {
        "text": b"this is no tar file" * 100,
        "nothing": b"",
        "empty": empty.getvalue(),
        "foreign": foreign.getvalue(),
        "cut in the database": good[: len(good) // 3],
        "cut at a member": good[:512],
        "only a header": bytes(header),
        "a header of 7 GiB": pax.tobuf(tarfile.PAX_FORMAT),
        "nested long names": nested_names(),
    }
    for name, content in files.items():
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(RestoreFailed):
            restore(tmp_path / "bad.tar", tmp_path / "new")
        assert not (tmp_path / "new").exists(), name


def nested_names() -> bytes:
    """A chain of GNU long names, which tarfile follows by recursion."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return (info.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 5000


def test_a_damaged_or_newer_database_is_not_restored(data_dir: Path, tmp_path: Path):
    database = data_dir / "state" / "freehold.db"
    sqlite.open_store(database).close()
    with contextlib.closing(sqlite3.connect(database)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RestoreFailed, match=r"9999.*newer release"):
        restore(written(data_dir, tmp_path / "newer.tar"), tmp_path / "new")
    content = bytearray((tmp_path / "newer.tar").read_bytes())
    middle = content.index(b"SQLite format 3") + 8192
    content[middle : middle + 4096] = b"\xff" * 4096
    (tmp_path / "damaged.tar").write_bytes(content)
    with pytest.raises(RestoreFailed, match="can't be used"):
        restore(tmp_path / "damaged.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- custody -------------------------------------------------------------------------------------------------------


def test_the_lock_is_one_programs_at_a_time(tmp_path: Path):
    assert not custody.is_locked(tmp_path)
    with custody.lock(tmp_path) as fd:
        assert custody.is_locked(tmp_path)
        with pytest.raises(custody.InUse, match="another Freehold server"), custody.lock(tmp_path, wait_s=0):
            pass
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not custody.is_locked(tmp_path)


def test_a_new_data_directory_is_closed_and_an_open_one_is_closed(tmp_path: Path):
    made = custody.prepare(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == stat.S_IMODE((made / "run").stat().st_mode) == 0o700
    made.chmod(0o755)
    custody.prepare(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_part_that_others_could_have_written_to_is_refused(tmp_path: Path):
    made = custody.prepare(tmp_path / "data")
    (made / "buckets").mkdir()
    (made / "buckets").chmod(0o777)
    custody.prepare(made)  # the data directory itself shuts them out, and did
    made.chmod(0o755)
    with pytest.raises(custody.DataDirRefused, match="buckets can be written by others"):
        custody.prepare(made)
    made.chmod(0o700)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    (made / "artifacts").symlink_to(tmp_path / "disk")
    with pytest.raises(custody.DataDirRefused, match="artifacts can be written by others"):
        custody.prepare(made)


def test_a_database_that_is_none_cannot_be_backed_up(data_dir: Path, tmp_path: Path):
    (data_dir / "state" / "freehold.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreRefused):
        backup(data_dir, tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
