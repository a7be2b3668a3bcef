from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from gateway_stage import Stage

from freehold.gateway import fast, sweeper, worker
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.connection import ClientConnection
from freehold.gateway.fast import Compiled


@pytest.fixture(scope="module", autouse=True)
def fine_timer() -> Iterator[None]:
    """Deadlines are noticed soon after they have passed: bounds of tests are shorter than a server's tick."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sweeper, worker):
            patch.setattr(module, "TICK_S", 0.02)
        yield


@pytest.fixture(autouse=True)
def faultless() -> Iterator[None]:
    """Whatever a test sends or an agent answers, nothing goes wrong that the gateway did not expect."""
    with structlog.testing.capture_logs() as captured:
        yield
    assert [entry for entry in captured if entry["log_level"] == "error"] == []


@pytest.fixture
def form() -> Compiled | None:
    """That of the short ways: as a server has them."""
    return fast.load()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that took the short way, whether it took it to its end."""
    ends: list[bool] = []
    under_way: dict[ClientConnection, Any] = {}

    def set_passage(connection: ClientConnection, passage: Any) -> None:
        if under_way.get(connection) is not None and passage is None:
            ends.append(True)
        under_way[connection] = connection.__dict__["passage"] = passage

    def widen_passage(connection: ClientConnection, *arguments: Any) -> None:
        was_passage = under_way.get(connection) is not None
        original(connection, *arguments)
        if was_passage:
            ends.pop()
        ends.append(False)

    original = ClientConnection.widen_passage
    monkeypatch.setattr(ClientConnection, "widen_passage", widen_passage)
    monkeypatch.setattr(ClientConnection, "passage", property(under_way.get, set_passage), raising=False)
    return ends


@pytest.fixture
def stages(faultless: None, tmp_path: Path, form: Compiled | None) -> Iterator[Callable[..., Stage]]:
    """Makes running stages; the arguments are bounds."""
    with contextlib.ExitStack() as stack:

        def make(**bounds: float) -> Stage:
            limits = GatewayLimits(**bounds)  # pyright: ignore[reportArgumentType]
            return stack.enter_context(Stage(tmp_path, limits))

        fast.choose(form)
        yield make
    fast.choose(fast.load())


@pytest.fixture
def stage(stages: Callable[..., Stage]) -> Stage:
    return stages()
