"""Requests that are control's: handed on as they came, and answered as control answers."""

from __future__ import annotations

import asyncio
import json
import select
import threading
from collections.abc import Callable

import pytest
from gateway_stage import DEADLINE_S, Agent, Stage, eventually, read_all, read_request, read_response, says

OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"Connection: close\r\n"


def test_requests_reach_control_with_their_end_to_end_headers(stage: Stage) -> None:
    answer = stage.exchange(
        b"PUT /runtimes/a%2Fb/?x=%20y&z HTTP/1.1\r\nHost: example\r\nAuthorization: AWS4 x\r\nX-Amz-Date: d\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nForwarded: for=1\r\nX-Real-IP: 1\r\n"
        b"Connection: close, X-Hop, Authorization\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n"
        b"Proxy-Authorization: p\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert stage.control.http == [
        b"PUT /runtimes/a%2Fb/?x=%20y&z HTTP/1.1\r\nhost: example\r\nauthorization: AWS4 x\r\nx-amz-date: d\r\n"
        b"content-length: 5\r\n\r\nhello"
    ]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"control"
    assert b"\r\nx-control: yes\r\n" in head
    assert b"\r\nconnection: close" in head


def test_an_answer_has_the_request_id_that_control_gave_it(stage: Stage) -> None:
    given = b"x-amzn-requestid: abc\r\ndate: then\r\nserver: x\r\nContent-Length: 0\r\n\r\n"
    stage.control.http_agent = says(OK + given)
    answer = stage.exchange(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"x-amzn-requestid: ") == 1
    assert b"x-amzn-requestid: abc\r\n" in answer
    assert answer.count(b"date: ") == 1
    assert b"server: " not in answer


def test_many_requests_share_a_clients_connection(stage: Stage) -> None:
    with stage.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /runtimes/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(sock)[2] == b"control"


def counting(*served: int) -> tuple[list[int], Agent]:
    """How many requests came over each connection; each connection is closed after as many as `served` says."""
    counts: list[int] = []
    left = list(served)

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, most = len(counts), left.pop(0) if left else 1_000
        counts.append(0)
        while counts[number] < most:
            await read_request(reader)
            counts[number] += 1
            writer.write(OK + b"Content-Length: 7\r\n\r\ncontrol")
            await writer.drain()

    return counts, control


def test_requests_of_many_clients_share_a_connection_to_control(stage: Stage) -> None:
    counts, stage.control.http_agent = counting()
    for _ in range(3):
        assert stage.exchange(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"control")
    assert counts == [3]


def test_a_connection_that_control_closed_is_not_used_again(stage: Stage) -> None:
    counts, stage.control.http_agent = counting(1, 1)
    with stage.connect() as sock:
        for _ in range(3):
            sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            assert read_response(sock)[2] == b"control"
    assert counts == [1, 1, 1]


def breaking(reads: int) -> tuple[list[bytes], Agent]:
    """The requests that were answered. The first connection ends after one, when `reads` bytes of the next are read."""
    answered: list[bytes] = []

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        breaks = not answered
        while True:
            answered.append((await read_request(reader))[0].partition(b" HTTP")[0])
            writer.transport.pause_reading()
            writer.write(OK + b"Content-Length: 7\r\n\r\ncontrol")
            await writer.drain()
            if breaks:
                with writer.get_extra_info("socket").dup() as queue:
                    await asyncio.to_thread(select.select, [queue], [], [], DEADLINE_S)
                    if reads:
                        assert queue.recv(reads)
                return
            writer.transport.resume_reading()

    return answered, control


@pytest.mark.parametrize("reads", [0, 1, 70])
def test_a_request_that_control_has_not_read_to_its_end_is_sent_again_once(stage: Stage, reads: int) -> None:
    answered, stage.control.http_agent = breaking(reads)
    for name in (b"/a", b"/b", b"/c"):
        with stage.connect() as sock:
            sock.sendall(
                b"PUT %b HTTP/1.1\r\nHost: a\r\nX-Long: %b\r\nContent-Length: 5\r\n\r\nhello" % (name, b"x" * 50)
            )
            assert read_response(sock)[2] == b"control"
    assert answered == [b"PUT /a", b"PUT /b", b"PUT /c"]


def test_a_request_that_control_may_have_acted_on_is_not_sent_again(stage: Stage) -> None:
    answered, stage.control.http_agent = breaking(1 << 20)
    for name, status in ((b"/a", 200), (b"/b", 503), (b"/c", 200)):
        with stage.connect() as sock:
            sock.sendall(b"PUT %b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" % name)
            assert read_response(sock)[0] == status
    assert answered == [b"PUT /a", b"PUT /c"]


@pytest.mark.parametrize(
    "request_of_its_own",
    [
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PROPFIND /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_nothing_follows_a_request_whose_end_may_be_misread(stage: Stage, request_of_its_own: bytes) -> None:
    for _ in range(2):
        with stage.connect() as sock:
            sock.sendall(request_of_its_own)
            assert read_response(sock)[2] == b"control"
    assert all(b"\r\nconnection: close\r\n" in request for request in stage.control.http)


def test_a_chunked_body_is_passed_on_as_it_is(stage: Stage) -> None:
    chunks = b"5;x=y\r\nhello\r\n0\r\n\r\n"
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks[:9])
        sock.sendall(chunks[9:])
        assert read_response(sock)[2] == b"control"
    assert stage.control.http[0].endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" + chunks)


def test_a_chunked_body_that_is_none_ends_the_request_at_control(stage: Stage) -> None:
    ended = threading.Event()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.gather(reader.read(), return_exceptions=True)
        ended.set()

    stage.control.http_agent = control
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\nhello\r\n")
        assert read_response(sock)[0] == 400
        assert ended.wait(5)


def test_a_body_is_passed_on_while_it_comes_and_with_backpressure(stage: Stage) -> None:
    size = 50_000_000
    go_on = asyncio.Event()
    taken = 0

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        while taken < size:
            taken += len(await reader.read(1 << 20))
        writer.write(OK + b"Content-Length: 4\r\n\r\ndone")
        await writer.drain()

    stage.control.http_agent = control
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sock.setblocking(False)
        sent = 0
        while True:
            try:
                sent += sock.send(b"x" * min(1 << 20, size - sent))
            except BlockingIOError:
                sock.settimeout(0.5)
                try:
                    sent += sock.send(b"x")
                except TimeoutError:
                    break
                sock.setblocking(False)
        assert sent < 30_000_000, "the gateway does not take in what control does not take"
        stage.call(go_on.set)
        sock.settimeout(15)
        sock.sendall(b"x" * (size - sent))
        assert read_response(sock)[2] == b"done"
    assert taken == size


def test_control_may_answer_before_the_body_has_come(stage: Stage) -> None:
    stage.control.http_agent = says(b"")

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
        await writer.drain()

    stage.control.http_agent = control
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        status, headers, body = read_response(sock)
        assert (status, body, headers["connection"]) == (413, b"no!", "close")
        sock.sendall(b"x" * 1_000_000)
        assert read_all(sock) == b""


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_keep_the_connection(stage: Stage, status: int) -> None:
    stage.control.http_agent = says(b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % status)
    with stage.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            got, headers, _ = read_response(sock)
            assert got == status
            assert "transfer-encoding" not in headers


def test_head_is_answered_with_the_length_and_no_body(stage: Stage) -> None:
    stage.control.http_agent = says(OK + b"Content-Length: 1000\r\n\r\n")
    answer = stage.exchange(b"HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"\r\ncontent-length: 1000\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_stream_from_control_comes_as_it_is_made(stage: Stage) -> None:
    go_on = asyncio.Event()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        await go_on.wait()
        writer.write(b"5\r\nhello\r\n0\r\n\r\n")
        await writer.drain()

    stage.control.http_agent = control
    with stage.connect() as sock:
        sock.sendall(b"GET /logs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += sock.recv(1)
        stage.call(go_on.set)
        assert read_all(sock) == b"5\r\nhello\r\n0\r\n\r\n"


def test_a_request_waits_for_control_to_start_again(stage: Stage) -> None:
    stage.run(stage.kill("feed", "http"))
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        stage.run(stage.start_control())
        assert read_response(sock)[2] == b"control"
    assert len(stage.control.http) == 1


def test_control_that_stays_away_is_told_as_unavailable(stages: Callable[..., Stage]) -> None:
    stage = stages(away_timeout_s=0.2)
    stage.run(stage.kill("feed", "http"))
    with stage.connect() as sock:
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        status, headers, body = read_response(sock)
        assert (status, headers["x-amzn-errortype"]) == (503, "ServiceUnavailableException")
        assert json.loads(body)["message"]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200"])
def test_control_that_goes_away_before_it_answers_is_told_as_unavailable(stage: Stage, answer: bytes) -> None:
    stage.control.http_agent = says(answer, close=True)
    with stage.connect() as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = read_response(sock)
    assert (status, headers["x-amzn-errortype"]) == (503, "ServiceUnavailableException")


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n"])
def test_control_that_breaks_off_is_told_as_an_internal_error(stage: Stage, answer: bytes) -> None:
    stage.control.http_agent = says(answer, close=True)
    with stage.connect() as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, _ = read_response(sock)
    assert (status, headers["x-amzn-errortype"]) == (500, "InternalServerException")


def test_control_that_does_not_answer_is_given_up(stages: Callable[..., Stage]) -> None:
    stage = stages(control_answer_timeout_s=0.2)
    stage.control.http_agent = says(b"")
    with stage.connect() as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_response(sock)[0] == 503


def test_an_unencoded_arn_is_not_the_data_planes(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(
            b"POST /runtimes/arn:aws:bedrock-agentcore:r:1:runtime/x/invocations HTTP/1.1\r\nHost: a\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        assert read_response(sock)[2] == b"control"


def test_liveness_and_readiness_differ(stage: Stage) -> None:
    def ask(path: bytes) -> tuple[int, dict[str, object]]:
        with stage.connect() as sock:
            sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            status, _, body = read_response(sock)
            return status, json.loads(body)

    eventually(lambda: ask(b"/_freehold/health") == (200, {"status": "ok", "warden": True, "control": True}))
    stage.run(stage.kill("warden"))
    eventually(lambda: ask(b"/_freehold/health") == (503, {"status": "unavailable", "warden": False, "control": True}))
    assert ask(b"/_freehold/live") == (200, {"status": "ok"})
