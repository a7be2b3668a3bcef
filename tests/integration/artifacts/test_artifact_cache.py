"""Bundles on disk: bounded, durable, and never gone while something uses them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from artifact_parts import Using, interpreters, opened_cache, preparer_of, zipped

from freehold.artifacts import trees
from freehold.artifacts.base import ArtifactRejected, CodeArtifact, Prepared, S3Object
from freehold.artifacts.cache import COLLECT_INTERVAL_S, RECORD_LIMIT_S, RETRY_INTERVAL_S, BundleCache
from freehold.artifacts.prepare import Preparer
from freehold.domain.errors import Unavailable

THIS = f"PYTHON_3_{sys.version_info.minor}"
INTERPRETERS = interpreters()
MIB = 1024 * 1024


class Place:
    """A cache that lasts for several runs of the server."""

    def __init__(self, tmp_path: Path) -> None:
        self.buckets = tmp_path / "buckets"
        (self.buckets / "code").mkdir(parents=True)
        self.root = tmp_path / "artifacts"
        self.using = Using()
        self.now = 0.0

    def run(self, max_mib: int = 1000) -> tuple[Preparer, BundleCache]:
        """What a start of the server makes."""
        cache = BundleCache(self.root, max_bytes=max_mib * MIB, in_use=self.using, clock=lambda: self.now)
        cache.open()
        return preparer_of(self.buckets, cache, INTERPRETERS), cache

    def artifact(self, name: str, mib: int = 0) -> CodeArtifact:
        """An agent of its own, that takes a little more than `mib` when it is unpacked."""
        files = {"main.py": name.encode(), "data": os.urandom(1024) * (mib * 1024)}
        (self.buckets / "code" / name).write_bytes(zipped({"main.py": b"#" + files["main.py"], "data": files["data"]}))
        return CodeArtifact(S3Object("code", name), THIS, ("main.py",))

    def bundles(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def name(prepared: Prepared) -> str:
    return Path(prepared.code_dir).name


def test_at_a_start_what_nothing_uses_is_removed(place: Place) -> None:
    async def scenario() -> None:
        preparer, _ = place.run()
        kept = await preparer.prepare(place.artifact("kept"))
        gone = await preparer.prepare(place.artifact("gone"))
        (place.root / "notes.txt").write_text("not a bundle")
        place.using.digests = {kept.digest}
        _, cache = place.run()
        assert await cache.collect() == [name(gone)]
        assert place.bundles() == {name(kept), "notes.txt"}

    asyncio.run(scenario())


def test_a_bundle_is_held_until_its_version_is_recorded_and_then_as_long_as_that_is_there(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        prepared = await preparer.prepare(place.artifact("agent"))
        assert await cache.collect() == []
        place.using.digests = {prepared.digest}
        assert await cache.collect() == []
        preparer.release(prepared)
        assert await cache.collect() == []
        place.using.digests = set()
        assert await cache.collect() == [name(prepared)]
        assert place.bundles() == set()

    asyncio.run(scenario())


def test_a_bundle_that_no_version_ever_records_is_given_up_after_a_while(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        prepared = await preparer.prepare(place.artifact("agent"))
        place.now = RECORD_LIMIT_S
        assert await cache.collect() == []
        place.now = RECORD_LIMIT_S + 1
        assert await cache.collect() == [name(prepared)]

    asyncio.run(scenario())


def test_a_bundle_that_is_asked_for_again_is_held_again(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        artifact = place.artifact("agent")
        preparer.release(await preparer.prepare(artifact))
        again, third = await preparer.prepare(artifact), await preparer.prepare(artifact)
        preparer.release(third)
        assert await cache.collect() == []
        assert Path(again.code_dir, "main.py").is_file()
        preparer.release(again)
        assert await cache.collect() == [name(again)]

    asyncio.run(scenario())


def test_a_bundle_whose_entry_point_is_refused_is_not_held(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        artifact = place.artifact("agent")
        prepared = await preparer.prepare(artifact)
        preparer.release(prepared)
        with pytest.raises(ArtifactRejected):
            await preparer.prepare(replace(artifact, entry_point=("other.py",)))
        assert await cache.collect() == [name(prepared)]

    asyncio.run(scenario())


def test_what_is_asked_for_while_it_is_found_out_what_is_in_use_is_not_removed(place: Place) -> None:
    async def scenario() -> None:
        preparer, _ = place.run()
        artifact = place.artifact("agent")
        await preparer.prepare(artifact)
        preparer, cache = place.run()
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow() -> frozenset[str]:
            asked.set()
            await answer.wait()
            return frozenset()

        cache._in_use = slow  # pyright: ignore[reportPrivateUsage]
        collecting = asyncio.create_task(cache.collect())
        await asked.wait()
        prepared = await preparer.prepare(artifact)
        # Recorded and released after it was found out what is in use.
        preparer.release(prepared)
        answer.set()
        assert await collecting == []
        assert Path(prepared.code_dir, "main.py").is_file()

    asyncio.run(scenario())


def test_what_is_held_by_another_thread_is_not_removed_and_what_is_removed_is_not_held(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        prepared = await preparer.prepare(place.artifact("agent"))
        preparer.release(prepared)
        assert await asyncio.to_thread(cache.hold, name(prepared))
        assert await cache.collect() == []
        await asyncio.to_thread(cache.release, name(prepared))
        assert await cache.collect() == [name(prepared)]
        assert not await asyncio.to_thread(cache.hold, name(prepared))

    asyncio.run(scenario())


def test_preparing_and_collecting_at_once_never_loses_what_was_handed_out(place: Place) -> None:
    async def scenario() -> None:
        preparer, cache = place.run()
        artifacts = [place.artifact(f"agent-{number}") for number in range(4)]

        async def prepare_and_forget(artifact: CodeArtifact) -> None:
            for _ in range(5):
                prepared = await preparer.prepare(artifact)
                place.using.digests.add(prepared.digest)
                preparer.release(prepared)
                assert Path(prepared.code_dir, "main.py").is_file()
                await cache.collect()
                assert Path(prepared.code_dir, "main.py").is_file()
                place.using.digests.discard(prepared.digest)
                await cache.collect()

        async with asyncio.timeout(60):
            await asyncio.gather(*(prepare_and_forget(artifact) for artifact in artifacts))
        await cache.collect()
        assert place.bundles() == set()

    asyncio.run(scenario())


def test_when_the_bound_is_passed_what_nothing_uses_makes_room(place: Place) -> None:
    async def scenario() -> None:
        preparer, _ = place.run(max_mib=10)
        first = await preparer.prepare(place.artifact("first", 4))
        second = await preparer.prepare(place.artifact("second", 4))
        for prepared in (first, second):
            preparer.release(prepared)
        place.using.digests = {first.digest}
        third = await preparer.prepare(place.artifact("third", 4))
        assert place.bundles() == {name(first), name(third)}

    asyncio.run(scenario())


def test_when_everything_is_in_use_a_new_version_fails_with_the_reason_and_nothing_is_removed(place: Place) -> None:
    async def scenario() -> None:
        preparer, _ = place.run()
        artifact = place.artifact("first", 4)
        first = await preparer.prepare(artifact)
        second = await preparer.prepare(place.artifact("second", 4))
        place.using.digests = {first.digest, second.digest}
        preparer, _ = place.run(max_mib=10)
        with pytest.raises(ArtifactRejected) as caught:
            await preparer.prepare(place.artifact("third", 4))
        assert "needs 5 MiB. Bundles that are in use take 9 MiB of the 10 MiB" in str(caught.value)
        assert "artifacts.max_cache_mib" in str(caught.value)
        assert place.bundles() == {name(first), name(second)}
        assert await preparer.prepare(artifact) == first, "what is there needs no room"

    asyncio.run(scenario())


def test_nothing_is_removed_when_it_can_not_be_known_what_is_in_use(place: Place) -> None:
    async def scenario() -> None:
        preparer, _ = place.run()
        first = await preparer.prepare(place.artifact("first", 4))
        preparer, cache = place.run(max_mib=6)
        place.using.faults = [Unavailable("the warden is away")] * 2
        with pytest.raises(Unavailable):
            await cache.collect()
        with pytest.raises(ArtifactRejected):
            await preparer.prepare(place.artifact("second", 4))
        assert place.bundles() == {name(first)}
        await preparer.prepare(place.artifact("third", 4))
        assert name(first) not in place.bundles()

    asyncio.run(scenario())


def test_collection_is_repeated_and_outlives_failures(place: Place) -> None:
    pauses: list[float] = []

    async def scenario() -> None:
        _, cache = place.run()
        bundle = place.root / f"{'0' * 64}-python_3_11"

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                bundle.mkdir()
            if len(pauses) == 4:
                assert not bundle.exists()
                raise asyncio.CancelledError

        place.using.faults = [Unavailable("not yet"), RuntimeError("a bug")]
        with pytest.raises(asyncio.CancelledError):
            await cache.keep_clean(sleep)

    asyncio.run(scenario())
    assert pauses == [RETRY_INTERVAL_S, COLLECT_INTERVAL_S, COLLECT_INTERVAL_S, COLLECT_INTERVAL_S]


def test_a_bundle_is_durable_before_it_has_its_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    recorded: list[tuple[str, Callable[[Path], object]]] = [
        ("sync files", trees.sync_file_system),
        ("sync names", trees.sync_directory),
    ]
    for what, real in recorded:

        def note(path: Path, what: str = what, real: Callable[[Path], object] = real) -> object:
            named = [path.name for path in place.root.iterdir() if not path.name.startswith(".")]
            order.append(f"{what}, {len(named)} named")
            return real(path)

        monkeypatch.setattr(trees, real.__name__, note)

    async def scenario() -> None:
        preparer, _ = place.run()
        await preparer.prepare(place.artifact("agent"))

    asyncio.run(scenario())
    assert order == ["sync files, 0 named", "sync names, 1 named"]


def test_the_room_that_a_tree_takes_is_what_du_says(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / "tree" / f"d{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(os.urandom(number * 3000))
    (tmp_path / "tree" / "link").symlink_to("d1")
    du = os.popen(f"du -s --block-size=1 {tmp_path / 'tree'}").read()
    assert trees.disk_bytes(tmp_path / "tree") == int(du.split()[0])


def test_an_empty_cache_is_opened_and_collected(tmp_path: Path) -> None:
    run: Callable[[Awaitable[list[str]]], list[str]] = asyncio.run  # type: ignore[assignment]
    assert run(opened_cache(tmp_path / "new").collect()) == []
