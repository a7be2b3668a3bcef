"""Preparing artifacts end to end: real zips, real interpreters, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from artifact_parts import interpreters, opened_cache, preparer_of, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.artifacts import compile_driver, compiling, prepare, trees, unpack
from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared, S3Object
from freehold.artifacts.entry_points import NOT_FOUND
from freehold.artifacts.local_bucket import SMALL_BYTES, LocalBuckets
from freehold.artifacts.prepare import Preparer
from freehold.domain.errors import QuotaExceeded

THIS = f"PYTHON_3_{sys.version_info.minor}"
DEADLINE_S = 30.0
INTERPRETERS = interpreters()

AGENT = {
    "main.py": b"import json, sys\nimport pkg.helper\nprint(json.dumps([sys.argv, pkg.helper.__cached__]))\n",
    "pkg/__init__.py": b"",
    "pkg/helper.py": b"",
}


@pytest.fixture
def buckets(tmp_path: Path) -> Path:
    (tmp_path / "buckets" / "code").mkdir(parents=True)
    return tmp_path / "buckets"


@pytest.fixture
def preparer(tmp_path: Path, buckets: Path) -> Preparer:
    return new_preparer(buckets, tmp_path / "artifacts")


def new_preparer(buckets: Path, root: Path) -> Preparer:
    return preparer_of(buckets, opened_cache(root), INTERPRETERS)


def put(buckets: Path, contents: dict[str, bytes], key: str = "agent.zip") -> str:
    """Put a zip into the bucket, as an upload would; its digest."""
    data = zipped(contents)
    (buckets / "code" / key).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def artifact(*entry_point: str, key: str = "agent.zip", runtime: str = THIS) -> CodeArtifact:
    return CodeArtifact(S3Object("code", key), runtime, entry_point or ("main.py",))


def made(preparer: Preparer, *entry_point: str, runtime: str = THIS) -> Prepared:
    return asyncio.run(preparer.prepare(artifact(*entry_point, runtime=runtime)))


def refusal(preparer: Preparer, *entry_point: str, runtime: str = THIS) -> str:
    with pytest.raises(ArtifactRejected) as caught:
        made(preparer, *entry_point, runtime=runtime)
    return str(caught.value)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "artifacts").iterdir())


def run(prepared: Prepared) -> list[object]:
    """Start the program as a backend would, and read what it prints."""
    command = [prepared.program.interpreter.executable, *prepared.program.args]
    done = subprocess.run(
        command,
        cwd=prepared.code_dir,
        env={"PYTHONPATH": prepared.code_dir},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


# -- what is made --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", [name for name in INTERPRETERS.available() if name.startswith("PYTHON")])
def test_a_bundle_runs_on_every_python_of_this_host(preparer: Preparer, buckets: Path, runtime: str) -> None:
    digest = put(buckets, AGENT)
    prepared = made(preparer, runtime=runtime)
    assert prepared.digest == digest
    assert Path(prepared.code_dir).name == f"{digest}-{runtime.lower()}"
    argv, cached = run(prepared)
    assert argv == ["main.py"]
    assert Path(str(cached)).is_file()


def test_compiled_files_are_used_whatever_happens_to_the_times_of_the_sources(
    preparer: Preparer, buckets: Path
) -> None:
    put(buckets, AGENT)
    prepared = made(preparer)
    compiled = Path(prepared.code_dir, "pkg", "__pycache__", f"helper.cpython-3{sys.version_info.minor}.pyc")
    (flags,) = struct.unpack_from("<L", compiled.read_bytes(), 4)
    assert flags == 0b01, "PEP 552: a hash, not to be checked"
    done = subprocess.run(
        [prepared.program.interpreter.executable, "-v", "main.py"],
        cwd=prepared.code_dir,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"matches {prepared.code_dir}/pkg/helper.py" in done.stderr


def test_compiled_files_hold_no_path_of_the_server(preparer: Preparer, buckets: Path, tmp_path: Path) -> None:
    put(buckets, AGENT)
    for compiled in Path(made(preparer).code_dir).rglob("*.pyc"):
        assert str(tmp_path).encode() not in compiled.read_bytes()


def test_everyone_may_read_a_bundle_and_nobody_may_write_it(preparer: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    root = Path(made(preparer).code_dir)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()}
    assert modes == {0o555}
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()} == {0o444}


def test_source_that_does_not_compile_is_left_to_the_agent(preparer: Preparer, buckets: Path) -> None:
    hostile = {
        "old.py": b"print 'python 2'",
        "nul.py": b"a\0b",
        "latin.py": b"x = '\xe9'",
        "deep.py": b"(" * 5000,
        "deeper.py": b"x = " + b"-" * 100_000 + b"1",
        "__pycache__/main.cpython-311.pyc/x": b"a directory in the way",
    }
    put(buckets, AGENT | hostile)
    assert run(made(preparer))[0] == ["main.py"]


def test_nothing_of_the_bundle_is_executed(preparer: Preparer, buckets: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode()
    names = ["main.py", "sitecustomize.py", "usercustomize.py", "py_compile.py", "os.py", "encodings/__init__.py"]
    put(buckets, dict.fromkeys(names, trap) | {"x.pth": b"import main"})
    made(preparer)
    assert not (tmp_path / "ran").exists()


def test_a_console_script_of_the_bundle_is_run_by_the_interpreter(preparer: Preparer, buckets: Path) -> None:
    put(buckets, AGENT | {"bin/serve": b"#!/nowhere/python\nimport json, sys; print(json.dumps(sys.argv))\n"})
    assert run(made(preparer, "serve", "main:app")) == ["bin/serve", "main:app"]


# -- once per digest -----------------------------------------------------------------------------------------------


def test_a_bundle_is_made_once_however_many_ask_at_once(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    put(buckets, AGENT, key="copy.zip")
    unpacked: list[Path] = []
    real = unpack.unpack

    def counted(file: io.BufferedReader, size: int, target: Path, stop: threading.Event) -> None:
        unpacked.append(target)
        real(file, size, target, stop)

    monkeypatch.setattr(unpack, "unpack", counted)

    async def many() -> list[Prepared]:
        return await asyncio.gather(
            *(preparer.prepare(artifact(key=key)) for _ in range(8) for key in ("agent.zip", "copy.zip"))
        )

    assert len({prepared.code_dir for prepared in asyncio.run(many())}) == 1
    assert len(unpacked) == 1
    assert len(left(tmp_path)) == 1
    made(new_preparer(buckets, tmp_path / "artifacts"))
    assert len(unpacked) == 1


def test_another_process_that_made_it_first_is_no_failure(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(buckets, AGENT)
    bundle = tmp_path / "artifacts" / f"{digest}-{THIS.lower()}"
    real = compiling.compile_bundle

    async def overtaken(*args: object) -> None:
        bundle.mkdir()
        (bundle / "main.py").write_bytes(b"# theirs")
        await real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "compile_bundle", overtaken)
    assert made(preparer).code_dir == str(bundle)
    assert (bundle / "main.py").read_bytes() == b"# theirs"
    assert left(tmp_path) == [bundle.name]


def test_a_changed_object_is_another_bundle(preparer: Preparer, buckets: Path, tmp_path: Path) -> None:
    put(buckets, AGENT)
    first = made(preparer)
    put(buckets, AGENT | {"new.py": b""})
    assert made(preparer).code_dir != first.code_dir
    assert run(first)[0] == ["main.py"]


def test_the_entry_point_is_checked_in_a_bundle_that_is_there_already(preparer: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    made(preparer)
    assert refusal(preparer, "other.py") == NOT_FOUND


# -- what is known to be there, without reading the object -----------------------------------------------------------


@pytest.fixture
def settled(tmp_path: Path, buckets: Path) -> Preparer:
    """Objects count as settled: it is a minute later than their files say."""
    later = LocalBuckets(buckets, now_ns=lambda: time.time_ns() + 60_000_000_000)
    return Preparer(later, opened_cache(tmp_path / "artifacts"), INTERPRETERS)


def test_the_bundle_of_an_object_that_has_not_changed_is_known(settled: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    assert settled.look(artifact()) is None
    first = made(settled)
    assert settled.look(artifact()) == first
    assert settled.look(artifact("pkg/helper.py")) is None, "another entry point has not been looked for"


def test_a_small_object_that_changed_just_now_is_known_by_its_bytes(preparer: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    first = made(preparer)
    assert preparer.look(artifact()) == first
    put(buckets, AGENT)  # the same again, in another moment
    assert preparer.look(artifact()) == first


def test_a_large_object_that_changed_just_now_is_not_known(preparer: Preparer, buckets: Path) -> None:
    put(buckets, {**AGENT, "noise": os.urandom(SMALL_BYTES)})
    made(preparer)
    assert preparer.look(artifact()) is None


@pytest.mark.parametrize("change", ["in place", "replaced", "as old as before"])
@pytest.mark.parametrize("small_or_large", [0, SMALL_BYTES])
def test_an_object_that_changed_within_a_tick_is_not_known(
    preparer: Preparer, buckets: Path, change: str, small_or_large: int
) -> None:
    changes_are_seen(preparer, buckets, change, {**AGENT, "noise": os.urandom(small_or_large)})


@pytest.mark.parametrize("change", ["in place", "replaced", "as old as before"])
def test_an_object_that_changed_is_not_known(settled: Preparer, buckets: Path, change: str) -> None:
    changes_are_seen(settled, buckets, change, AGENT)


def changes_are_seen(preparer: Preparer, buckets: Path, change: str, agent: dict[str, bytes]) -> None:
    place = buckets / "code" / "agent.zip"
    put(buckets, agent)
    before = place.stat()
    made(preparer)
    data = bytearray(place.read_bytes())
    data[-1] ^= 1  # of the same size
    if change == "replaced":
        place.rename(place.with_name("old.zip"))
    place.write_bytes(data)
    if change == "as old as before":
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert preparer.look(artifact()) is None


def test_a_bundle_that_is_gone_is_not_known(settled: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    first = made(settled)
    trees.remove(Path(first.code_dir))
    assert settled.look(artifact()) is None
    assert made(settled).digest == first.digest


# -- what is refused, and what is left then ------------------------------------------------------------------------


def test_an_unreadable_object_is_told_at_once(preparer: Preparer, buckets: Path) -> None:
    put(buckets, AGENT)
    assert preparer.look(artifact()) is None
    with pytest.raises(ArtifactRejected, match=r"s3://code/other\.zip does not exist"):
        preparer.look(artifact(key="other.zip"))


def test_a_refused_artifact_leaves_nothing_behind(preparer: Preparer, buckets: Path, tmp_path: Path) -> None:
    put(buckets, AGENT)
    assert refusal(preparer, "other.py") == NOT_FOUND
    machine = 183 if os.uname().machine != "aarch64" else 62
    library = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<2H", 3, machine)
    put(buckets, AGENT | {"pkg/native.so": library})
    assert "The first is pkg/native.so" in refusal(preparer)
    (buckets / "code" / "agent.zip").write_bytes(b"no zip")
    assert "not a ZIP file" in refusal(preparer)
    assert "PYTHON_9_9 is not installed" in refusal(preparer, runtime="PYTHON_9_9")
    (buckets / "code" / "agent.zip").unlink()
    assert "does not exist" in refusal(preparer)
    assert left(tmp_path) == []


def test_an_object_that_is_too_large_is_refused_while_it_is_read(
    preparer: Preparer, buckets: Path, tmp_path: Path
) -> None:
    with (buckets / "code" / "agent.zip").open("wb") as sparse:
        sparse.truncate(300 * 1024 * 1024)
    assert "the maximum is 262144000" in refusal(preparer)
    assert left(tmp_path) == []


SEED = zipped(AGENT)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=4), cut=st.integers(0, 9))
def test_a_damaged_zip_is_refused_or_made_and_leaves_nothing_else(
    preparer: Preparer, buckets: Path, tmp_path: Path, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(SEED)
    for at, value in edits:
        data[at] = value
    (buckets / "code" / "agent.zip").write_bytes(data[: len(data) - cut])
    with contextlib.suppress(ArtifactRejected):
        made(preparer)
    assert not [name for name in left(tmp_path) if name.startswith(".")]
    for name in left(tmp_path):
        trees.remove(tmp_path / "artifacts" / name)


@pytest.mark.root
def test_a_full_disk_is_told_and_leaves_nothing_behind(buckets: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    root = tmp_path / "artifacts"
    root.mkdir()
    put(buckets, AGENT | {"large.bin": b"\0" * 3_000_000})
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        preparer = new_preparer(buckets, root)
        with pytest.raises(QuotaExceeded, match="disk is full"):
            made(preparer)
        assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_disk_that_fills_while_compiling_is_told(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    full = tmp_path / "full.py"
    full.write_text(
        "import errno, runpy, sys, py_compile\n"
        f"def compile(*args, **more): raise OSError({errno.ENOSPC}, 'full')\n"
        "py_compile.compile = compile\n"
        f"runpy.run_path({compile_driver.__file__!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(compile_driver, "__file__", str(full))
    with pytest.raises(QuotaExceeded):
        made(preparer)
    assert left(tmp_path) == []


# -- interrupted ---------------------------------------------------------------------------------------------------


def cancel_when(preparer: Preparer, reached: threading.Event, then: Callable[[], None] = lambda: None) -> None:
    """Cancel a preparation once `reached` is set."""

    async def scenario() -> None:
        task = asyncio.create_task(preparer.prepare(artifact()))
        assert await asyncio.to_thread(reached.wait, DEADLINE_S)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        then()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_cancelling_while_unpacking_waits_for_the_worker_and_leaves_nothing(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    reached, go_on = threading.Event(), threading.Event()
    real = unpack.unpack
    stopped: list[bool] = []

    def slow(file: io.BufferedReader, size: int, target: Path, stop: threading.Event) -> None:
        target.mkdir()
        (target / "half").write_bytes(b"x")
        target.chmod(0o555)
        reached.set()
        assert go_on.wait(DEADLINE_S)
        stopped.append(stop.is_set())
        real(file, size, target / "again", stop)

    monkeypatch.setattr(unpack, "unpack", slow)
    cancel_when(preparer, reached, then=go_on.set)
    assert stopped == [True]
    assert left(tmp_path) == []


def alive(pids: Path) -> list[str]:
    return [path.name for path in pids.iterdir() if Path("/proc", path.name).exists()]


def test_cancelling_while_compiling_ends_the_compilers_and_leaves_nothing(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    pids = tmp_path / "pids"
    driver = tmp_path / "hanging.py"
    pids.mkdir()
    driver.write_text(f"import os, time\nopen('{pids}/%d' % os.getpid(), 'w').close()\ntime.sleep(600)\n")
    monkeypatch.setattr(compile_driver, "__file__", str(driver))

    async def scenario() -> None:
        task = asyncio.create_task(preparer.prepare(artifact()))
        async with asyncio.timeout(DEADLINE_S):
            while not any(pids.iterdir()):
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert alive(pids) == []
    assert left(tmp_path) == []


def test_compiling_that_takes_too_long_is_given_up_and_the_bundle_still_runs(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    driver = tmp_path / "slow.py"
    driver.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(compile_driver, "__file__", str(driver))
    real = compiling.compile_bundle
    monkeypatch.setattr(prepare, "compile_bundle", lambda *args: real(*args, timeout_s=0.2))
    assert run(made(preparer))[0] == ["main.py"]


def test_compiling_that_crashes_does_not_stop_the_bundle(
    preparer: Preparer, buckets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(buckets, AGENT)
    driver = tmp_path / "crash.py"
    driver.write_text(f"import os\nos.kill(os.getpid(), {signal.SIGKILL})\n")
    monkeypatch.setattr(compile_driver, "__file__", str(driver))
    assert run(made(preparer))[0] == ["main.py"]


def test_a_compiler_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "hold.py"
    os.mkfifo(fifo)  # compiling it waits for a writer
    driver = subprocess.Popen(
        [sys.executable, "-I", "-S", compile_driver.__file__, str(tmp_path), "0", "1"], stdin=subprocess.PIPE
    )
    try:
        assert driver.poll() is None
        assert driver.stdin is not None
        driver.stdin.close()
        assert driver.wait(DEADLINE_S) == compile_driver.ABANDONED_STATUS
    finally:
        driver.kill()
        driver.wait()


# -- across runs ---------------------------------------------------------------------------------------------------


def test_what_an_earlier_run_left_unfinished_is_removed(preparer: Preparer, buckets: Path, tmp_path: Path) -> None:
    put(buckets, AGENT)
    bundle = Path(made(preparer).code_dir)
    half = tmp_path / "artifacts" / ".tmp-half" / "sealed"
    half.mkdir(parents=True)
    (half / "file").write_bytes(b"x")
    half.chmod(0o555)
    (tmp_path / "artifacts" / ".tmp-copy").write_bytes(b"x")
    (tmp_path / "artifacts" / ".tmp-link").symlink_to(bundle)
    opened_cache(tmp_path / "artifacts")
    assert left(tmp_path) == [bundle.name]
