"""What several files of clients share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_server import RunningServer


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    """A server of two workers, for one file of tests."""
    with RunningServer(workers=2) as server:
        yield server
