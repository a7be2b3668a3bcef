from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_server import RunningServer


@pytest.fixture(scope="session", params=[1, 2], ids=["one-worker", "two-workers"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server that all tests share, once with one gateway worker and once with two."""
    with RunningServer(workers=request.param) as running:
        yield running
