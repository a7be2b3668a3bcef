"""Launches whose bundle or interpreter is no longer where it was, with the real store and a preparer that is told."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared
from freehold.control.launches import Launches
from freehold.control.retention import DELETED_VERSION_KEPT, Retention
from freehold.domain import limits
from freehold.domain.errors import NotFound, StartFailed, Unavailable
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.store.base import NewRuntime, NewVersion, RuntimeKey, Scope
from freehold.store.sqlite import SqliteStore, open_store

NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEY = RuntimeKey(Scope("111122223333", "eu-central-1"), "agent-0123456789")
CONFIGURATION = {
    "agentRuntimeArtifact": {
        "codeConfiguration": {
            "code": {"s3": {"bucket": "agents", "prefix": "a.zip"}},
            "runtime": "PYTHON_3_11",
            "entryPoint": ["main.py"],
        }
    }
}
HERE = Program(Interpreter(sys.executable), ("main.py",))
LAUNCH = LaunchSpec(
    account="111122223333",
    region="eu-central-1",
    runtime_id=KEY.runtime_id,
    runtime_name="agent",
    version=1,
    protocol=ServerProtocol.HTTP,
    port=8080,
    code_dir="/elsewhere/artifacts/d1-python_3_11",
    program=HERE,
    idle_timeout_s=900,
    max_lifetime_s=28800,
    environment={"A": "b"},
)


class Makers:
    """Makes the bundle of digest `d1` below `root`, once `gate` is set; or raises what it is told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[CodeArtifact] = []
        self.digest = "d1"
        self.error: Exception | None = None

    def look(self, artifact: CodeArtifact) -> Prepared | None:
        raise AssertionError("nobody asks")

    async def prepare(self, artifact: CodeArtifact) -> Prepared:
        self.asked.append(artifact)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        bundle = self.root / f"{self.digest}-python_3_11"
        bundle.mkdir(parents=True)
        return Prepared(self.digest, str(bundle), HERE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = open_store(tmp_path / "freehold.sqlite")
    made = NewRuntime(KEY.runtime_id, "agent", "arn:of:it", KEY.runtime_id, NewVersion({}, CONFIGURATION))
    opened.create_runtime(KEY.scope, made, once=None, max_runtimes=9, now=NOW)
    opened.version_ready(KEY, 1, digest="d1", launch=LAUNCH, now=NOW)
    yield opened
    opened.close()


@asynccontextmanager
async def launches_over(store: SqliteStore, root: Path) -> AsyncIterator[tuple[Launches, Makers]]:
    makers = Makers(root)
    launches = Launches(store, makers, root)
    try:
        async with asyncio.timeout(10):
            yield launches, makers
    finally:
        await launches.aclose()


def test_a_bundle_that_is_there_is_found_where_the_data_directory_is_now(store: SqliteStore, tmp_path: Path):
    async def main() -> None:
        bundle = tmp_path / "artifacts" / "d1-python_3_11"
        bundle.mkdir(parents=True)
        async with launches_over(store, tmp_path / "artifacts") as (launches, makers):
            assert await launches.get(KEY, 1) == dataclasses.replace(LAUNCH, code_dir=str(bundle))
            assert makers.asked == []
            with pytest.raises(NotFound):
                await launches.get(KEY, 2)

    asyncio.run(main())


def test_a_missing_bundle_is_made_once_for_all_who_ask_and_recorded(store: SqliteStore, tmp_path: Path):
    async def main() -> None:
        async with launches_over(store, tmp_path / "artifacts") as (launches, makers):
            makers.gate.clear()
            asking = [asyncio.create_task(launches.get(KEY, 1)) for _ in range(5)]
            while not makers.asked:
                await asyncio.sleep(0)
            asking[0].cancel()
            makers.gate.set()
            first, *others = await asyncio.gather(*asking, return_exceptions=True)
            assert isinstance(first, asyncio.CancelledError)
            expected = dataclasses.replace(LAUNCH, code_dir=str(tmp_path / "artifacts" / "d1-python_3_11"))
            assert others == [expected] * 4
            assert len(makers.asked) == 1
            assert store.get_launch(KEY, 1) == expected

    asyncio.run(main())


def test_an_interpreter_that_has_gone_is_found_anew(store: SqliteStore, tmp_path: Path):
    async def main() -> None:
        gone = dataclasses.replace(LAUNCH, program=Program(Interpreter("/opt/gone/python3.11"), ("main.py",)))
        store.replace_launch(KEY, 1, gone)
        async with launches_over(store, tmp_path / "artifacts") as (launches, _):
            assert (await launches.get(KEY, 1)).program == HERE

    asyncio.run(main())


def test_other_bytes_are_never_run_and_the_reason_is_recorded(store: SqliteStore, tmp_path: Path):
    async def main() -> None:
        async with launches_over(store, tmp_path / "artifacts") as (launches, makers):
            makers.digest = "d2"
            with pytest.raises(StartFailed, match=r"s3://agents/a\.zip is not the one"):
                await launches.get(KEY, 1)
            assert "is not the one" in (store.get_runtime(KEY)[1].failure_reason or "")
            makers.error = ArtifactRejected("There is no such object.")
            with pytest.raises(StartFailed, match="There is no such object"):
                await launches.get(KEY, 1)
            makers.error = OSError(28, "No space left on device")
            with pytest.raises(Unavailable, match="No space left"):
                await launches.get(KEY, 1)
            makers.error, makers.digest = None, "d1"
            await launches.get(KEY, 1)
            assert store.get_runtime(KEY)[1].failure_reason is None

    asyncio.run(main())


def test_what_is_served_is_looked_after_at_the_start_whatever_fails(store: SqliteStore, tmp_path: Path):
    async def main() -> None:
        async with launches_over(store, tmp_path / "artifacts") as (launches, makers):
            makers.error = ArtifactRejected("There is no such object.")
            await launches.run()
            makers.error = ValueError("a bug")
            await launches.run()
            makers.error = None
            await launches.run()
            assert len(makers.asked) == 3
            await launches.run()
            assert len(makers.asked) == 3

    asyncio.run(main())


def test_a_deleted_version_is_kept_as_long_as_a_session_can_run_it(store: SqliteStore):
    store.update_runtime(KEY, NewVersion({}, CONFIGURATION), once=None, max_versions=9, now=NOW)
    store.version_ready(KEY, 2, digest="d1", launch=LAUNCH, now=NOW)
    store.delete_version(KEY, 1, keep=frozenset({"agentRuntimeArtifact"}), once=None, now=NOW)
    assert timedelta(seconds=limits.MAX_LIFECYCLE_S) < DELETED_VERSION_KEPT
    assert Retention(store, now=lambda: NOW + DELETED_VERSION_KEPT).forget() == 0
    assert Retention(store, now=lambda: NOW + DELETED_VERSION_KEPT + timedelta(seconds=1)).forget() == 1
