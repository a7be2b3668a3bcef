"""The feed over real sockets: what gateway workers and the warden are told, and what they never remember."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from control_parts import ACCOUNT, HERE, NOW, REGION, stored

from freehold import ipc
from freehold.auth.keys import AccessKey
from freehold.control import protocol
from freehold.control.feed import Feed
from freehold.domain.errors import AccessDenied, NotFound, Unavailable
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.store.base import NewVersion, RuntimeKey
from freehold.store.sqlite import SqliteStore, open_store

ID = "agent-0123456789"
RESOLVE = protocol.ResolveEndpoint(ACCOUNT, ID, "DEFAULT")


class Keys:
    def __init__(self, *known: AccessKey) -> None:
        self.known = {key.access_key_id: key for key in known}

    async def get(self, access_key_id: str) -> AccessKey | None:
        return self.known.get(access_key_id)


class House:
    """A feed being served, and links to it."""

    def __init__(self, store: SqliteStore, feed: Feed, path: Path) -> None:
        self.store = store
        self.feed = feed
        self.path = path
        self.links: list[ipc.Link] = []

    async def worker(self, forgotten: Callable[[protocol.Changed], Awaitable[None]] | None = None) -> ipc.Link:
        async def on_connect(peer: ipc.Peer) -> None:
            await peer.call(protocol.Hello(1), timeout_s=5)

        async def told(_peer: ipc.Peer, body: Any, _fds: list[int]) -> ipc.Body:
            assert isinstance(body, protocol.Changed)
            if forgotten is not None:
                await forgotten(body)
            return ipc.Done()

        link = ipc.Link(str(self.path), protocol.REPLIES, handler=told, on_connect=on_connect)
        self.links.append(link)
        return link


def run(tmp_path: Path, story: Callable[[House], Awaitable[None]], *, confirm_timeout_s: float = 2.0) -> None:
    @asynccontextmanager
    async def house() -> AsyncIterator[House]:
        store = open_store(tmp_path / "freehold.sqlite")
        keys = Keys(AccessKey("AKIAFH1", ACCOUNT, "geheim"))
        feed = Feed(store, keys, region=REGION, data_plane={"a": 1}, confirm_timeout_s=confirm_timeout_s)
        listener = ipc.listen(tmp_path / "feed.sock")
        serving = asyncio.create_task(feed.serve(listener))
        made = House(store, feed, tmp_path / "feed.sock")
        try:
            yield made
        finally:
            for link in made.links:
                await link.aclose()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()
            store.close()

    async def main() -> None:
        async with asyncio.timeout(20), house() as made:
            await story(made)

    asyncio.run(main())


def launch(version: int) -> LaunchSpec:
    program = Program(Interpreter("/usr/bin/python3"), ("main.py",))
    return LaunchSpec(
        ACCOUNT, REGION, ID, "agent", version, ServerProtocol.AGUI, 8080, "/srv/c", program, 60, 600, {"K": "v"}
    )


def serve_version(store: SqliteStore, key: RuntimeKey, version: int) -> None:
    store.version_ready(key, version, digest="d", launch=launch(version), now=NOW)


async def ask(link: ipc.Link, body: ipc.Body) -> Any:
    return (await link.call(body, timeout_s=5))[0]


def test_a_worker_is_welcomed_with_the_data_planes_model(tmp_path: Path):
    async def story(house: House) -> None:
        link = ipc.Link(str(house.path), protocol.REPLIES)
        house.links.append(link)
        assert await ask(link, protocol.Hello(1)) == protocol.Welcome({"a": 1})

    run(tmp_path, story)


def test_a_route_exists_only_while_its_version_is_ready(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        link = await house.worker()
        with pytest.raises(NotFound, match="No endpoint or agent found with qualifier 'DEFAULT'"):
            await ask(link, RESOLVE)
        serve_version(house.store, key, 1)
        assert await ask(link, RESOLVE) == protocol.EndpointRoute(ACCOUNT, ID, "DEFAULT", 1)
        for other in (
            protocol.ResolveEndpoint("444455556666", ID, "DEFAULT"),
            protocol.ResolveEndpoint(ACCOUNT, ID, "other"),
            protocol.ResolveEndpoint(ACCOUNT, "other-0123456789", "DEFAULT"),
        ):
            with pytest.raises(NotFound):
                await ask(link, other)
        house.store.begin_delete(key, once=None, now=NOW)
        with pytest.raises(NotFound):
            await ask(link, RESOLVE)

    run(tmp_path, story)


def test_contracts_launches_and_keys_are_told_as_stored(tmp_path: Path):
    async def story(house: House) -> None:
        headers = {"requestHeaderConfiguration": {"requestHeaderAllowlist": ["X-One", "Authorization"]}}
        key = stored(house.store, **headers)
        link = await house.worker()
        with pytest.raises(NotFound):
            await ask(link, protocol.GetContract(ACCOUNT, ID, 1))
        serve_version(house.store, key, 1)
        contract = await ask(link, protocol.GetContract(ACCOUNT, ID, 1))
        assert contract == protocol.Contract(1, ServerProtocol.AGUI, 8080, ["x-one"])
        assert await ask(link, protocol.GetLaunch(ACCOUNT, ID, 1)) == protocol.Launch(launch(1))
        with pytest.raises(NotFound):
            await ask(link, protocol.GetLaunch(ACCOUNT, ID, 2))
        found = await ask(link, protocol.GetAccessKey("AKIAFH1"))
        assert (found.account, found.secret) == (ACCOUNT, "geheim")
        with pytest.raises(NotFound):
            await ask(link, protocol.GetAccessKey("AKIAFH2"))

    run(tmp_path, story)


def test_who_has_not_said_hello_is_told_launches_only(tmp_path: Path):
    async def story(house: House) -> None:
        serve_version(house.store, stored(house.store), 1)
        link = ipc.Link(str(house.path), protocol.REPLIES)
        house.links.append(link)
        for body in (RESOLVE, protocol.GetContract(ACCOUNT, ID, 1), protocol.GetAccessKey("AKIAFH1")):
            with pytest.raises(AccessDenied):
                await ask(link, body)
        assert await ask(link, protocol.GetLaunch(ACCOUNT, ID, 1)) == protocol.Launch(launch(1))

    run(tmp_path, story)


def test_a_change_is_told_to_every_worker_before_it_returns(tmp_path: Path):
    async def story(house: House) -> None:
        heard: list[tuple[int, protocol.Changed]] = []
        for number in range(3):

            async def forgotten(body: protocol.Changed, number: int = number) -> None:
                heard.append((number, body))

            link = await house.worker(forgotten)
            with pytest.raises(NotFound):
                await ask(link, RESOLVE)  # connected
        await house.feed.changed(runtime_ids=[ID], access_key_ids=["AKIAFH1"])
        assert sorted(number for number, _ in heard) == [0, 1, 2]
        assert {tuple(body.runtime_ids) + tuple(body.access_key_ids) for _, body in heard} == {(ID, "AKIAFH1")}

    run(tmp_path, story)


def test_a_worker_that_does_not_confirm_is_cut_off_and_the_others_are_not(tmp_path: Path):
    async def story(house: House) -> None:
        never = asyncio.Event()

        async def hang(_body: protocol.Changed) -> None:
            await never.wait()

        hung, fine = await house.worker(hang), await house.worker()
        for link in (hung, fine):
            with pytest.raises(NotFound):
                await ask(link, RESOLVE)
        lost = asyncio.Event()
        hung._on_disconnect = lost.set
        await house.feed.changed(runtime_ids=[ID])
        await asyncio.wait_for(lost.wait(), 5)
        assert fine.connected
        assert len(house.feed._workers) == 1

    run(tmp_path, story, confirm_timeout_s=0.05)


def test_an_answer_that_was_read_before_a_change_is_not_given_after_it(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        serve_version(house.store, key, 1)
        link = await house.worker()
        await ask(link, RESOLVE)
        loop = asyncio.get_running_loop()
        reading, told = asyncio.Event(), threading.Event()
        real = house.store.resolve_endpoint
        answers = 0

        def slow(asked: RuntimeKey, name: str) -> Any:
            nonlocal answers
            answers += 1
            found = real(asked, name)
            if answers == 1:
                loop.call_soon_threadsafe(reading.set)
                assert told.wait(10)
            return found

        house.store.resolve_endpoint = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(ask(link, RESOLVE))
        await reading.wait()
        house.store.begin_delete(key, once=None, now=NOW)
        await house.feed.changed(runtime_ids=[ID])
        told.set()
        with pytest.raises(NotFound):
            await asking
        assert answers == 2

    run(tmp_path, story)


def test_who_shows_a_status_waits_until_it_is_true_at_the_gateways(tmp_path: Path):
    async def story(house: House) -> None:
        confirm, heard = asyncio.Event(), asyncio.Event()

        async def slowly(_body: protocol.Changed) -> None:
            heard.set()
            await confirm.wait()

        link = await house.worker(slowly)
        with pytest.raises(NotFound):
            await ask(link, RESOLVE)

        async def change() -> None:
            async with house.feed.changing(ID):
                pass

        changing = asyncio.create_task(change())
        await heard.wait()
        await house.feed.settled(["other-0123456789"])
        waiting = asyncio.create_task(house.feed.settled([ID]))
        await asyncio.sleep(0)
        assert not waiting.done()
        confirm.set()
        await asyncio.gather(changing, waiting)
        await house.feed.settled([ID])

    run(tmp_path, story)


def test_a_change_that_failed_half_way_is_told_too(tmp_path: Path):
    async def story(house: House) -> None:
        heard: list[protocol.Changed] = []

        async def forgotten(body: protocol.Changed) -> None:
            heard.append(body)

        link = await house.worker(forgotten)
        with pytest.raises(NotFound):
            await ask(link, RESOLVE)
        with pytest.raises(Unavailable):
            async with house.feed.changing(ID):
                raise Unavailable("the disk is slow")
        assert [body.runtime_ids for body in heard] == [[ID]]

    run(tmp_path, story)


def test_a_running_sessions_contract_outlives_its_deleted_version(tmp_path: Path):
    async def story(house: House) -> None:
        key = stored(house.store)
        serve_version(house.store, key, 1)
        house.store.update_runtime(
            key,
            NewVersion({}, {"protocolConfiguration": {"serverProtocol": "HTTP"}}),
            once=None,
            max_versions=9,
            now=NOW,
        )
        serve_version(house.store, key, 2)
        keep = frozenset({"protocolConfiguration", "requestHeaderConfiguration"})
        house.store.delete_version(key, 1, keep=keep, once=None, now=NOW)
        link = await house.worker()
        contract = await ask(link, protocol.GetContract(HERE.account, ID, 1))
        assert contract.protocol is ServerProtocol.AGUI
        with pytest.raises(NotFound):
            await ask(link, protocol.GetLaunch(ACCOUNT, ID, 1))

    run(tmp_path, story)
