"""A whole control on a loopback port, in a thread of its own, for tests that call it with real clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import boto3
import uvicorn
from botocore.config import Config
from control_parts import HERE, REGION, ReadingPreparer, RecordingWarden

from freehold import ipc
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.auth.keys import AccessKey
from freehold.control import service
from freehold.control.buckets import Buckets
from freehold.control.wire import Wire
from freehold.store.sqlite import open_store
from freehold.store.vault import open_vault

T = TypeVar("T")
WIRE = Wire.load()


class ControlServer:
    """`run` it; everything else works while it runs."""

    def __init__(self, data_dir: Path, **limits: int) -> None:
        self.data_dir = data_dir
        self.buckets = data_dir / "buckets"
        self.limits = limits
        self.clock_error = timedelta(0)
        """How far the server's clock is ahead of the client's."""
        self.preparer = ReadingPreparer(self.buckets)
        self.warden = RecordingWarden()
        self.url = ""
        self.control: service.Control
        self.key: AccessKey
        self._loop: asyncio.AbstractEventLoop

    @contextmanager
    def run(self) -> Iterator[ControlServer]:
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._main(started)))
        thread.start()
        try:
            assert started.wait(20), "control did not start"
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(20)
            assert not thread.is_alive()

    def in_loop(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(20)

    def client(self, key: AccessKey | None = None, *, service: str = "bedrock-agentcore-control", **more: Any) -> Any:
        """A real boto3 client, of the control plane unless told, that tries once."""
        key = key or self.key
        arguments = {
            "region_name": REGION,
            "endpoint_url": self.url,
            "aws_access_key_id": key.access_key_id,
            "aws_secret_access_key": key.secret,
            "config": Config(retries={"total_max_attempts": 1}, parameter_validation=False),
            **more,
        }
        return boto3.client(service, **arguments)

    def _now(self) -> datetime:
        return service.utc_now() + self.clock_error

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        for name in ("db", "run"):
            (self.data_dir / name).mkdir(parents=True, exist_ok=True)
        database = self.data_dir / "db" / "freehold.sqlite"
        store = open_store(database)
        vault = open_vault(self.data_dir / "keys" / "master.key", database, store)
        uploads = Buckets(self.buckets)
        uploads.open()
        self.control = service.build(
            store=store,
            vault=vault,
            preparer=self.preparer,
            bundles=self.data_dir / "artifacts",
            uploads=uploads,
            warden=self.warden,
            region=REGION,
            wire=WIRE,
            data_plane={},
            logs_root=self.data_dir / "logs",
            holds_bucket=LocalBuckets(self.buckets).has,
            now=self._now,
            **self.limits,
        )
        self.key = self.control.keys.first_key(HERE)
        feed = ipc.listen(self.data_dir / "run" / "feed.sock")
        web = socket.create_server(("127.0.0.1", 0))
        # asyncio does this only for sockets that name their protocol; without it each answer takes 40 ms.
        web.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{web.getsockname()[1]}"
        server = _Server(uvicorn.Config(self.control.app, log_config=None, lifespan="off", http="httptools"))
        working = asyncio.create_task(self.control.run(feed))
        serving = asyncio.create_task(server.serve(sockets=[web]))
        started.set()
        await self._stop.wait()
        server.stop.set()
        await serving
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        feed.close()
        store.close()


class _Server(uvicorn.Server):
    """Ends when it is told, and when what is under way has ended; uvicorn's own looks a few times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        while state.connections or state.tasks:
            await asyncio.sleep(0.001)
