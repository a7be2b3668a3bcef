"""Crowds of clients with large bodies and no right to send them: bounded, and served around.

The long form, with a real server, is `./dev soak --bodies`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_stage import Stage
from signed_requests import KEY, KEYS, sign
from tools.flood import Flood

from freehold.auth.keys import AccessKey
from freehold.gateway.bounds import GatewayLimits

MB = 1_000_000
ANNOUNCED = 100 * MB
LIMITS = GatewayLimits(
    spool_unknown_bytes_per_source=16 * MB,
    spool_unknown_bytes_total=24 * MB,
    memory_spool_bytes_total=4 * MB,
    body_grace_s=1.0,
    linger_timeout_s=0.2,
)
WRONG = AccessKey(KEY.access_key_id, KEY.account, "wrong")


@pytest.fixture(scope="module")
def others() -> int:
    """What is on disk before anything is sent: other tests of this process may have left files open."""
    return on_disk()


@pytest.fixture(scope="module")
def stage(others: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(Path(tmp_path_factory.mktemp("stage")), LIMITS) as made:
        made.control.keys = {key.access_key_id: key for key in KEYS}
        yield made


def head(key: AccessKey) -> bytes:
    wire = sign(dt.datetime.now(dt.UTC), key=key, body=b"")
    return wire.to_bytes().replace(b"Content-Length: 0", b"Content-Length: %d" % ANNOUNCED)


def on_disk() -> int:
    """Bytes of this process's files that have no name."""
    size = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)"):
                size += os.fstat(int(fd)).st_size
    return size


async def served(stage: Stage, body: bytes) -> int:
    """The status of a request that is right."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    try:
        writer.write(sign(dt.datetime.now(dt.UTC), body=body).to_bytes())
        return int((await reader.readline()).split(b" ")[1])
    finally:
        writer.transport.abort()


def test_callers_are_served_while_two_hundred_strangers_send_what_nobody_wants(stage: Stage):
    async def main() -> None:
        flood = Flood("127.0.0.1", stage.port)
        wrong = flood.add(100, head(WRONG), size=ANNOUNCED, piece=b"\0" * 16_384, pause_s=0.02)
        slow = flood.add(100, head(KEY), size=ANNOUNCED, piece=b"\0", pause_s=0.2)
        most = 0
        small: list[int] = []
        large: list[int] = []
        # The slow ones are told so, or give way to the quick: which of both comes first is the machine's to say.
        while len(large) < 10 or wrong.sent_bytes <= 2 * LIMITS.spool_unknown_bytes_total or slow.answers.total() < 100:
            most = max(most, on_disk())
            small.append(await served(stage, b"{}"))
            small.append(await served(stage, b"x" * 50_000))
            large.append(await served(stage, b"x" * MB))
        await flood.aclose()
        assert set(small) == {200}
        assert set(large) <= {200, 429}
        assert large.count(200) >= 0.8 * len(large), large
        assert most <= LIMITS.spool_unknown_bytes_total
        assert set(wrong.answers) <= {403, 408, 429}
        assert wrong.answers[429]
        assert set(slow.answers) <= {408, 429}
        assert stage.warden.claims, "somebody was served"

    asyncio.run(asyncio.wait_for(main(), 120))


def test_afterwards_nothing_is_left(others: int, stage: Stage):
    async def main() -> None:
        for _ in range(1000):
            if on_disk() <= others:
                break
            await asyncio.sleep(0.01)
        assert on_disk() <= others
        assert await served(stage, b"x" * 15 * MB) == 200

    asyncio.run(main())
