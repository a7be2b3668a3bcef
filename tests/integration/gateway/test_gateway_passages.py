"""Requests of a session in use that turn out to be more than was thought: each ends as it would have anyway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import compiled_forms
import pytest
from gateway_stage import INVOCATIONS, Stage, eventually, read_all, read_request, read_response, signed

from freehold.domain import errors
from freehold.gateway import claims, upstream
from freehold.gateway.fast import Compiled
from freehold.gateway.upstream import Upstream

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


async def obeys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request as its body says."""
    while True:
        _head, body = await read_request(reader)
        match body.split(b" ")[0]:
            case b"plain":
                parts = [PLAIN]
            case b"pieces":
                parts = [PLAIN[at : at + 1] for at in range(len(PLAIN))]
            case b"head-first":
                parts = [PLAIN[:-5], b"hello"]
            case b"chunked":
                parts = [CHUNKED]
            case b"until-close":
                parts = [b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello", None]
            case b"failure":
                parts = [b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nwhy"]
            case b"truncated":
                parts = [PLAIN[:-2], None]
            case b"no-http":
                parts = [b"SSH-2.0-OpenSSH\r\n\r\n"]
            case b"more":
                parts = [PLAIN + b"HTTP/1.1 200 OK\r\n"]
            case b"interim":
                parts = [b"HTTP/1.1 102 Processing\r\n\r\n" + PLAIN]
            case b"dies":
                parts = [None]
            case _:
                await asyncio.sleep(3600)
                return
        for part in parts:
            if part is None:
                return
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)


@pytest.fixture(params=compiled_forms.FORMS)
def form(request: pytest.FixtureRequest) -> Compiled | None:
    """Of the short ways: both."""
    return compiled_forms.of(request.param)


@pytest.fixture
def warm(passed: list[bool]) -> Callable[[Stage], contextlib.AbstractContextManager[socket.socket]]:
    """A client's connection over which requests are passages by now."""

    @contextlib.contextmanager
    def connected(stage: Stage) -> Generator[socket.socket]:
        stage.agent = obeys
        with stage.connect() as sock:
            for _ in range(4):
                sock.sendall(signed(INVOCATIONS, b"plain"))
                assert read_response(sock)[0] == 200
            assert passed[-1], "nothing is passed on"
            yield sock

    return connected


def told(stage: Stage, kind: str) -> int:
    """What has been counted of the agent's endpoint."""
    counted = stage.run(_counted(stage))
    return sum(getattr(series, kind) for series in counted if series.runtime_id)


async def _counted(stage: Stage) -> list[Any]:
    from freehold.control import protocol

    answer, _ = await stage.control.peers[-1].call(protocol.GetCounts(0), timeout_s=15)
    return list(answer.series)


@pytest.mark.parametrize("what", ["plain", "pieces", "head-first", "chunked", "interim"])
def test_however_the_answer_comes_it_is_the_same(stage: Stage, warm: Any, what: str) -> None:
    with warm(stage) as sock:
        for _ in range(3):
            sock.sendall(signed(INVOCATIONS, what.encode()))
            if what == "chunked":
                told_raw = b""
                while not told_raw.endswith(b"0\r\n\r\n"):
                    told_raw += sock.recv(4096)
                assert told_raw.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            else:
                assert read_response(sock)[::2] == (200, b"hello")
    eventually(lambda: told(stage, "invocations") == 7)
    assert told(stage, "system_errors") == told(stage, "broken_off") == 0
    assert told(stage, "bytes_out") == 4 * 5 + 3 * (15 if what == "chunked" else 5)


def test_an_answer_until_the_connections_end_is_framed(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock:
        sock.sendall(signed(INVOCATIONS, b"until-close", headers={"Connection": "keep-alive"}))
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += sock.recv(4096)
    assert raw.endswith(b"5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("what", ["failure", "no-http", "dies"])
def test_a_failure_of_the_agent_is_told_and_counted(stage: Stage, warm: Any, what: str) -> None:
    with warm(stage) as sock:
        sock.sendall(signed(INVOCATIONS, what.encode()))
        status, headers, _ = read_response(sock)
        assert (status, headers["x-amzn-errortype"]) == (424, "RuntimeClientError")
        sock.sendall(signed(INVOCATIONS, b"plain"))
        assert read_response(sock)[0] == 200
    assert told(stage, "user_errors") + told(stage, "system_errors") == 1


def test_a_truncated_answer_breaks_the_connection_off(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock:
        sock.sendall(signed(INVOCATIONS, b"truncated"))
        assert read_all(sock).endswith(b"hel")
    eventually(lambda: told(stage, "broken_off") == 1)


def test_after_more_than_was_asked_for_the_agents_connection_is_not_used_again(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock:
        before = stage.connections
        sock.sendall(signed(INVOCATIONS, b"more"))
        assert read_response(sock)[::2] == (200, b"hello")
        sock.sendall(signed(INVOCATIONS, b"plain"))
        assert read_response(sock)[::2] == (200, b"hello")
        assert stage.connections == before + 1


def test_a_client_that_leaves_takes_its_connection_to_the_agent_with_it(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock:
        sock.sendall(signed(INVOCATIONS, b"hangs"))
        eventually(lambda: stage.run(_in_flight(stage)) == 1)
    eventually(lambda: told(stage, "broken_off") == 1)
    assert stage.run(_in_flight(stage)) == 0


async def _in_flight(stage: Stage) -> int:
    from freehold.control import protocol

    answer, _ = await stage.control.peers[-1].call(protocol.GetCounts(0), timeout_s=15)
    return int(answer.requests_in_flight)


def test_an_agent_that_does_not_answer_in_time_has_failed(stages: Callable[..., Stage], warm: Any) -> None:
    with warm(stages(first_byte_timeout_s=0.3)) as sock:
        sock.sendall(signed(INVOCATIONS, b"hangs"))
        status, _, body = read_response(sock)
    assert (status, b"within 0.3 s" in body) == (424, True)


def test_requests_that_wait_behind_one_are_answered_in_order(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock:
        requests = [signed(INVOCATIONS, body) for body in (b"plain", b"head-first", b"failure", b"plain")]
        sock.sendall(requests[0])
        sock.sendall(b"".join(requests[1:]))
        assert [read_response(sock)[0] for _ in requests] == [200, 200, 424, 200]


def test_a_worker_that_stops_lets_it_end_and_closes(stage: Stage, warm: Any, passed: list[bool]) -> None:
    with warm(stage) as sock:
        sock.sendall(signed(INVOCATIONS, b"hangs"))
        eventually(lambda: stage.run(_in_flight(stage)) == 1)
        stage.ask_to_stop()
        for task in list(stage.handlers):
            stage.loop.call_soon_threadsafe(task.cancel)  # the agent goes
        status, headers, _ = read_response(sock)
        assert (status, headers["connection"]) == (424, "close")
        assert read_all(sock) == b""


# -- requests that meet in one session ----------------------------------------------------------------------------


@contextlib.contextmanager
def taken(stage: Stage) -> Generator[None]:
    """The session's one connection has a request under way."""
    with stage.connect() as other:
        other.sendall(signed(INVOCATIONS, b"hangs"))
        eventually(lambda: stage.run(_in_flight(stage)) == 1)
        yield


def test_a_request_that_meets_another_in_its_session_gets_a_connection_of_its_own(
    stage: Stage, warm: Any, passed: list[bool]
) -> None:
    with warm(stage) as sock, taken(stage):
        claims, dials = len(stage.warden.claims), stage.warden.dials
        for body in (b"plain", b"plain", b"plain"):
            sock.sendall(signed(INVOCATIONS, body))
            status, headers, answered = read_response(sock)
            assert (status, answered, "x-amzn-requestid" in headers) == (200, b"hello", True)
        assert (len(stage.warden.claims), stage.warden.dials) == (claims, dials + 1)
        assert passed[-3:] == [False, True, True], "only the first of them had to wait for one"


def test_a_session_that_turns_out_to_have_ended_is_made_up_for_by_another(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock, taken(stage):
        claims = len(stage.warden.claims)
        stage.warden.dial_faults.append(errors.NotFound("it has ended"))
        requests = [signed(INVOCATIONS, b"plain"), signed(INVOCATIONS, b"failure")]
        sock.sendall(requests[0])
        sock.sendall(requests[1])
        assert read_response(sock)[::2] == (200, b"hello")
        assert read_response(sock)[0] == 424
        assert len(stage.warden.claims) == claims + 1


@pytest.mark.parametrize(("closed", "status"), [(1, 200), (2, 200), (3, 503)])
def test_a_connection_that_was_closed_at_once_is_made_up_for_by_another(
    stage: Stage, warm: Any, monkeypatch: pytest.MonkeyPatch, closed: int, status: int
) -> None:
    """As by an agent that dies: whether its session has ended is for the warden to say."""
    made: list[Upstream] = []

    async def attach(*arguments: Any) -> Upstream:
        connection = await upstream.attach(*arguments)
        made.append(connection)
        if len(made) <= closed:
            connection.abort()
        return connection

    with warm(stage) as sock, taken(stage):
        monkeypatch.setattr(claims, "attach", attach)
        sock.sendall(signed(INVOCATIONS, b"plain"))
        assert read_response(sock)[0] == status
    assert len(made) == min(closed + 1, 3)


def test_a_session_that_cannot_be_reached_is_told_of_and_counted_once(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock, taken(stage):
        stage.warden.dial_faults.append(errors.Unavailable("just now"))
        sock.sendall(signed(INVOCATIONS, b"plain"))
        status, headers, _ = read_response(sock)
        assert (status, headers["x-amzn-errortype"]) == (503, "ServiceUnavailableException")
        sock.sendall(signed(INVOCATIONS, b"plain"))
        assert read_response(sock)[::2] == (200, b"hello")
    eventually(lambda: stage.run(_in_flight(stage)) == 0)


def test_a_client_that_leaves_before_it_has_a_connection_holds_nothing(stage: Stage, warm: Any) -> None:
    with warm(stage) as sock, taken(stage):
        stage.warden.before_dial = asyncio.Event().wait
        sock.sendall(signed(INVOCATIONS, b"plain"))
        eventually(lambda: stage.run(_in_flight(stage)) == 2)
        sock.close()
        eventually(lambda: stage.run(_in_flight(stage)) == 1)
