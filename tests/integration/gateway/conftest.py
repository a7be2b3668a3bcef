from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog.testing
from gateway_stage import Stage

from freehold.gateway.bounds import GatewayLimits


@pytest.fixture(autouse=True)
def faultless() -> Iterator[None]:
    """Whatever a test sends or an agent answers, nothing goes wrong that the gateway did not expect."""
    with structlog.testing.capture_logs() as captured:
        yield
    assert [entry for entry in captured if entry["log_level"] == "error"] == []


@pytest.fixture
def stages(faultless: None, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes running stages; the arguments are bounds."""
    with contextlib.ExitStack() as stack:

        def make(**bounds: float) -> Stage:
            return stack.enter_context(Stage(tmp_path, GatewayLimits(**bounds)))  # pyright: ignore[reportArgumentType]

        yield make


@pytest.fixture
def stage(stages: Callable[..., Stage]) -> Stage:
    return stages()
