"""The reconciler brings every runtime to rest, across faults and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from control_parts import ACCOUNT, HERE, NOW, REGION, ReadingPreparer, RecordingWarden, configuration, put_zip, stored

from freehold.control.feed import Feed
from freehold.control.reconciler import RETRY_PAUSES_S, SCAN_INTERVAL_S, Reconciler
from freehold.domain.errors import NotFound, Unavailable
from freehold.domain.runtimes import RuntimeStatus, ServerProtocol
from freehold.store.base import NewVersion, RuntimeKey, RuntimeRow
from freehold.store.sqlite import SqliteStore, open_store


class NoKeys:
    async def get(self, access_key_id: str) -> None:
        raise AssertionError("nobody asks for keys here")


class House:
    """A reconciler on a store, with time that passes only when told."""

    def __init__(self, store: SqliteStore, buckets: Path) -> None:
        self.store = store
        self.buckets = buckets
        self.preparer = ReadingPreparer(buckets)
        self.warden = RecordingWarden()
        self.pauses: list[float] = []
        self.scan = asyncio.Event()
        feed = Feed(store, NoKeys(), region=REGION, data_plane={})
        self.reconciler = Reconciler(store, self.preparer, feed, self.warden, now=lambda: NOW, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        if seconds == SCAN_INTERVAL_S:
            await self.scan.wait()
            self.scan.clear()
        else:
            self.pauses.append(seconds)

    async def rested(self, key: RuntimeKey) -> RuntimeRow:
        """Wait until the runtime is at rest."""
        while True:
            row, _ = self.store.get_runtime(key)
            moving = row.status in (RuntimeStatus.CREATING, RuntimeStatus.UPDATING, RuntimeStatus.DELETING)
            if not moving and key not in self.reconciler._working:
                return row
            await asyncio.sleep(0.001)

    async def gone(self, key: RuntimeKey) -> None:
        with pytest.raises(NotFound):
            while True:
                self.store.get_runtime(key)
                await asyncio.sleep(0.001)


def run(tmp_path: Path, story: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        store = open_store(tmp_path / "freehold.sqlite")
        house = House(store, tmp_path / "buckets")
        put_zip(house.buckets)
        working = asyncio.create_task(house.reconciler.run())
        try:
            async with asyncio.timeout(20):
                await story(house)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            store.close()

    asyncio.run(main())


def test_a_new_version_becomes_ready_with_everything_a_session_needs(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        house.reconciler.wake(key)
        assert (await house.rested(key)).status is RuntimeStatus.READY
        launch = house.store.get_launch(key, 1)
        assert launch is not None
        assert (launch.protocol, launch.port) == (ServerProtocol.AGUI, 8080)
        assert (launch.idle_timeout_s, launch.max_lifetime_s) == (60, 600)
        assert launch.environment == {"K": "v"}
        assert launch.program.args == ("main.py",)
        digest = house.store.get_runtime(key)[1].digest
        assert digest is not None
        assert launch.code_dir.endswith(digest)
        assert house.preparer.released == [digest]

    run(tmp_path, story)


def test_a_broken_artifact_fails_at_once_with_its_own_reason(tmp_path: Path):
    async def story(house: House) -> None:
        (house.buckets / "code/broken.zip").write_bytes(b"not a zip")
        key = stored(house.store, **configuration("broken.zip"))
        house.reconciler.wake(key)
        row = await house.rested(key)
        assert row.status is RuntimeStatus.CREATE_FAILED
        assert row.failure_reason is not None
        assert "not a zip" in row.failure_reason
        assert house.preparer.calls == 1
        assert house.pauses == []

    run(tmp_path, story)


def test_a_failed_update_leaves_the_old_version_serving(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        house.reconciler.wake(key)
        await house.rested(key)
        (house.buckets / "code/broken.zip").write_bytes(b"not a zip")
        house.store.update_runtime(key, NewVersion({}, configuration("broken.zip")), once=None, max_versions=9, now=NOW)
        house.reconciler.wake(key)
        assert (await house.rested(key)).status is RuntimeStatus.UPDATE_FAILED
        endpoint = house.store.resolve_endpoint(key, "DEFAULT")
        assert endpoint is not None
        assert endpoint.live_version == 1

    run(tmp_path, story)


def test_a_fault_of_the_server_is_tried_again(tmp_path: Path):
    async def story(house: House) -> None:
        house.preparer.faults = [OSError(5, "Input/output error"), RuntimeError("bug")]
        key = stored(house.store)
        house.reconciler.wake(key)
        assert (await house.rested(key)).status is RuntimeStatus.READY
        assert house.pauses == list(RETRY_PAUSES_S[:2])

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(28, "No space left on device", "/secret/path"), "No space left on device"),
        (RuntimeError("secret"), "internal error"),
    ],
)
def test_a_fault_that_stays_ends_in_a_reason_without_innards(tmp_path: Path, fault: Exception, told: str):
    async def story(house: House) -> None:
        house.preparer.faults = [fault] * 5
        key = stored(house.store)
        house.reconciler.wake(key)
        row = await house.rested(key)
        assert row.status is RuntimeStatus.CREATE_FAILED
        assert row.failure_reason is not None
        assert told in row.failure_reason
        assert "reference" in row.failure_reason
        assert "secret" not in row.failure_reason
        assert house.pauses == list(RETRY_PAUSES_S)

    run(tmp_path, story)


def test_a_deletion_ends_sessions_before_the_rows_go(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        house.reconciler.wake(key)
        await house.rested(key)
        house.store.begin_delete(key, once=None, now=NOW)
        house.warden.faults = [Unavailable("the other process has gone")]
        house.reconciler.wake(key)
        await house.gone(key)
        assert house.warden.stopped == [(ACCOUNT, key.runtime_id)]
        assert house.pauses == list(RETRY_PAUSES_S[:1])

    run(tmp_path, story)


def test_a_deletion_that_can_not_be_done_fails_with_a_reason_and_can_be_repeated(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        house.reconciler.wake(key)
        await house.rested(key)
        house.store.begin_delete(key, once=None, now=NOW)
        house.warden.faults = [Unavailable("the other process has gone")] * 5
        house.reconciler.wake(key)
        row = await house.rested(key)
        assert row.status is RuntimeStatus.DELETE_FAILED
        assert row.failure_reason is not None
        assert "the other process has gone" in row.failure_reason
        house.store.begin_delete(key, once=None, now=NOW)
        house.reconciler.wake(key)
        await house.gone(key)

    run(tmp_path, story)


def test_what_an_earlier_run_left_is_taken_up_without_being_woken(tmp_path: Path):
    first = open_store(tmp_path / "freehold.sqlite")
    creating, deleting = stored(first, "creating"), stored(first, "deleting")
    first.version_failed(deleting, 1, reason="x", now=NOW)
    first.begin_delete(deleting, once=None, now=NOW)
    first.close()

    async def story(house: House) -> None:
        assert (await house.rested(creating)).status is RuntimeStatus.READY
        await house.gone(deleting)
        assert house.warden.stopped == [(ACCOUNT, deleting.runtime_id)]

    run(tmp_path, story)


def test_a_run_that_is_cut_short_leaves_work_for_the_next(tmp_path: Path):
    key = RuntimeKey(HERE, "agent-0123456789")

    async def cut_short(house: House) -> None:
        house.preparer.gate = asyncio.Event()
        stored(house.store)
        house.reconciler.wake(key)
        await house.preparer.entered.wait()

    async def next_run(house: House) -> None:
        assert (await house.rested(key)).status is RuntimeStatus.READY

    run(tmp_path, cut_short)
    run(tmp_path, next_run)


def test_work_that_nobody_woke_us_for_is_found_by_the_next_scan(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        house.scan.set()
        assert (await house.rested(key)).status is RuntimeStatus.READY

    run(tmp_path, story)


def test_one_runtime_is_worked_on_by_one_task_at_a_time(tmp_path: Path):
    async def story(house: House) -> None:
        house.preparer.gate = asyncio.Event()
        key = stored(house.store)
        house.reconciler.wake(key)
        await house.preparer.entered.wait()
        for _ in range(3):
            house.reconciler.wake(key)
            await asyncio.sleep(0)
        assert house.preparer.calls == 1
        house.preparer.gate.set()
        assert (await house.rested(key)).status is RuntimeStatus.READY
        assert house.preparer.calls == 1

    run(tmp_path, story)
