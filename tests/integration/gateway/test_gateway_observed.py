"""What is told of WebSockets, through a real Worker: counts for metrics, and lines of the access log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_stage import ACCOUNT, DEADLINE_S, RUNTIME_ID, SESSION, Stage, eventually, read_response
from web_socket_peers import AgentSide, Client, accepting, echo, goodbye, opening, upgrade_headers
from websockets.frames import Close

from freehold.control import protocol
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.worker import Watch
from freehold.observe.access_log import AccessLog
from freehold.observe.counts import Series

OPERATION = "InvokeAgentRuntimeWithWebSocketStream"


class Observed:
    """A stage whose access log can be read. What is told is told of what has happened since `since_now`."""

    def __init__(self, stage: Stage, written: list[str]) -> None:
        self.stage = stage
        self._written = written
        self._before = Series("", "", "", "")

    def since_now(self) -> None:
        self._before = self.series()
        self._written.clear()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for text in list(self._written) for line in text.splitlines()]

    def line(self) -> dict[str, Any]:
        """The one of the connection that has ended."""
        eventually(self.lines)
        (line,) = self.lines()
        assert line["operation"] == OPERATION
        assert line["method"] == "GET"
        return line

    def series(self) -> Series:
        asked = asyncio.run_coroutine_threadsafe(self._counts(), self.stage.loop)
        found = [one for one in asked.result(DEADLINE_S).series if one.operation == OPERATION and one.runtime_id]
        return found[0] if found else Series(OPERATION, "", "", "")

    async def _counts(self) -> protocol.GatewayCounts:
        answer, _ = await self.stage.control.peers[-1].call(protocol.GetCounts(0), timeout_s=15)
        assert isinstance(answer, protocol.GatewayCounts)
        return answer

    def counted(self, name: str) -> int:
        return getattr(self.series(), name) - getattr(self._before, name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    written: list[str] = []
    watch = Watch(AccessLog(process="gateway-0", json_lines=True, write=written.append))
    with Stage(tmp_path_factory.mktemp("stage"), GatewayLimits(claim_linger_s=0.0), watch=watch) as stage:
        yield Observed(stage, written)


@pytest.fixture
def observed(faultless: None, shared: Observed) -> Observed:
    eventually(lambda: not shared.stage.warden.held)
    shared.since_now()
    shared.stage.agent = accepting(echo)
    return shared


def test_a_websocket_is_told_of_once_when_it_has_ended_with_its_close_code(observed: Observed) -> None:
    with Client(observed.stage) as client:
        assert client.said(b"hello") == b"hello"
        assert observed.lines() == []
        client.send(goodbye(4321, "enough"))
        assert client.closed() == (4321, "enough")
    line = observed.line()
    assert (line["status"], line["close_code"]) == (101, 4321)
    assert (line["account"], line["runtime_id"], line["endpoint"]) == (ACCOUNT, RUNTIME_ID, "DEFAULT")
    assert line["session_id"] == SESSION
    assert line["request_id"] == client.headers["x-amzn-requestid"]
    assert line["duration_ms"] >= line["first_byte_ms"] > 0
    assert line["bytes_in"] >= len(b"hello")
    assert line["bytes_out"] >= len(b"hello")
    assert "error" not in line
    assert "broken_off" not in line
    series = observed.series()
    assert (series.account, series.runtime_id, series.endpoint) == (ACCOUNT, RUNTIME_ID, "DEFAULT")
    assert [observed.counted(name) for name in ("invocations", "user_errors", "system_errors")] == [1, 0, 0]
    assert observed.counted("streamed_bytes_in") == line["bytes_in"]
    assert observed.counted("streamed_bytes_out") == line["bytes_out"]


def test_a_websocket_whose_client_vanishes_is_told_of_as_broken_off(observed: Observed) -> None:
    with Client(observed.stage) as client:
        assert client.said(b"hello") == b"hello"
    line = observed.line()
    assert (line["status"], line["error"], line["broken_off"]) == (101, "ClientGone", True)
    assert (observed.counted("invocations"), observed.counted("broken_off")) == (1, 1)


def test_a_websocket_that_the_agent_closes_has_the_agents_code(observed: Observed) -> None:
    async def leaves(side: AgentSide) -> None:
        await side.close(4001, "no more")
        await side.frame()

    observed.stage.agent = accepting(leaves)
    with Client(observed.stage) as client:
        assert client.frame().data == Close(4001, "no more").serialize()
        client.send(goodbye(4001))
    assert observed.line()["close_code"] == 4001
    assert observed.counted("invocations") == 1


def test_a_handshake_that_is_refused_is_an_error_of_the_user_without_a_close_code(observed: Observed) -> None:
    with observed.stage.connect() as sock:
        sock.sendall(opening(handshake=upgrade_headers(upgrade=None)))
        assert read_response(sock)[0] == 426
    line = observed.line()
    assert line["status"] == 426
    assert "close_code" not in line
    assert "runtime_id" not in line, "nobody has been recognised yet"
