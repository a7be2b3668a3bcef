"""Bodies on their way to control: bounded together, and not waited for without end."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from freehold.control import exchange
from freehold.control.exchange import Exchange, Waiting
from freehold.domain.errors import PayloadTooLarge, Throttled, TooSlow


class Client:
    """Sends parts when told."""

    def __init__(self, waiting: Waiting, **headers: str) -> None:
        if "content_length" not in headers:
            headers["transfer_encoding"] = "chunked"
        self.parts: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        scope = {
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        self.exchange = Exchange(scope, self.parts.get, self._send, waiting)

    async def _send(self, _message: MutableMapping[str, Any]) -> None:
        raise AssertionError("nobody answers here")

    def says(self, part: bytes, *, more: bool = True) -> None:
        self.parts.put_nowait({"type": "http.request", "body": part, "more_body": more})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_when_bodies_are_too_large_together_the_largest_gives_way():
    async def main() -> None:
        waiting = Waiting(max_bytes=1000)
        clients = [Client(waiting) for _ in range(3)]
        tasks = [asyncio.create_task(client.exchange.body(5000)) for client in clients]
        for client, size in zip(clients, (600, 300, 50), strict=True):
            client.says(b"x" * size)
        await settle()
        clients[2].says(b"x" * 100)
        await settle()
        clients[2].says(b"", more=False)
        assert await tasks[2] == b"x" * 150
        clients[0].says(b"", more=False)
        with pytest.raises(Throttled):
            await tasks[0]
        clients[1].says(b"x", more=False)
        assert await tasks[1] == b"x" * 301
        alone = Client(waiting)
        alone.says(b"x" * 1001, more=False)
        with pytest.raises(Throttled):
            await alone.exchange.body(5000)
        small = Client(waiting)
        small.says(b"x" * 1000, more=False)
        assert len(await small.exchange.body(5000)) == 1000

    asyncio.run(main())


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        client = Client(Waiting())
        task = asyncio.create_task(client.exchange.body(5_000_000))
        client.says(b"x" * 20_000)
        await settle()
        now += exchange.GRACE_S + 15
        client.says(b"x")
        await settle()
        assert not task.done()
        now += 10
        client.says(b"x")
        with pytest.raises(TooSlow, match="1024 bytes/s"):
            await task

    asyncio.run(main())


def test_a_body_that_is_too_large_is_refused_as_soon_as_that_is_known():
    async def main() -> None:
        with pytest.raises(PayloadTooLarge):
            await Client(Waiting(), content_length="101").exchange.body(100)
        client = Client(Waiting())
        client.says(b"x" * 101)
        with pytest.raises(PayloadTooLarge):
            await client.exchange.body(100)

    asyncio.run(main())
