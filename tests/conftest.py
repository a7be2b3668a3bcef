"""What every test may use, and how `./dev test` spreads the tests over the machine's processors.

Invariant: the tests of a file run in one process, one after the other, so that they may share fixtures of the module;
the exception are those that use `server`, which run in one process for each of its parameters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import RunningServer
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

WORKERS = {"one-worker": 1, "two-workers": 2}
_OF_A_SHARED_SERVER = re.compile(rf"\[(?:.*-)?({'|'.join(WORKERS)})(?:-.*)?\]$")
MAX_PROCESSES = 8


@pytest.fixture(scope="session", params=WORKERS.values(), ids=list(WORKERS))
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server that all tests share, once with one gateway worker and once with two."""
    with RunningServer(workers=request.param) as running:
        yield running


class TogetherWithTheirServer(LoadScopeScheduling):
    """Hands out whole files, in the order of their collection; but the tests of one shared server as if one file."""

    def _split_scope(self, nodeid: str) -> str:
        shared = _OF_A_SHARED_SERVER.search(nodeid)
        return shared[1] if shared else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TogetherWithTheirServer:
    return TogetherWithTheirServer(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each processor; none of their own for the tests of one file, for which they start too slowly."""
    if len(config.args) == 1 and not Path(config.args[0].partition("::")[0]).is_dir():
        return 0
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
