"""The wire to clients: what is read as a request, what is refused, and how connections live and end."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_stage import (
    INVOCATIONS,
    SESSION_HEADER,
    Stage,
    eventually,
    read_all,
    read_response,
    signed,
)

LIVE = b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /runtimes/x/invocations HTTP/1.1\r\nHost: a\r\n"


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split(b" ")[1])


def test_a_chunked_body_reaches_the_agent_with_its_length(stage: Stage) -> None:
    head = signed(body=b"hello, world", framed=False, unsigned={"Transfer-Encoding": "chunked"})
    with stage.connect() as sock:
        for part in (
            head[:30],
            head[30:],
            b"5\r",
            b"\nhel",
            b"lo\r\n7;a=b\r\n, wor",
            b"ld\r\n0\r\nTrai",
            b"ler: x\r\n\r\n",
        ):
            sock.sendall(part)
        status, _, body = read_response(sock)
    assert (status, body) == (200, b"hello, world")


def test_requests_sent_at_once_are_answered_in_order(stage: Stage) -> None:
    with stage.connect() as sock:
        bodies = [b"%d" % number for number in range(20)]
        sock.sendall(b"".join(signed(body=body) + LIVE for body in bodies))
        for body in bodies:
            assert read_response(sock)[2] == body
            assert json.loads(read_response(sock)[2]) == {"status": "ok"}
    assert stage.connections == 1, "one session, one connection, kept"
    assert len(stage.warden.claims) == 1


def test_a_thousand_pipelined_requests_do_not_recurse(stage: Stage) -> None:
    with stage.connect() as sock, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(sock.sendall, LIVE * 3000)
        for _ in range(3000):
            assert read_response(sock)[0] == 200
        sending.result()


def test_a_request_may_come_byte_by_byte(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in signed():
            sock.sendall(bytes([byte]))
        assert read_response(sock)[0] == 200


def test_http_1_0_ends_with_the_connection_unless_it_is_asked_to_stay(stage: Stage) -> None:
    answer = stage.exchange(b"GET /_freehold/live HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    with stage.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET /_freehold/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            _, headers, _ = read_response(sock)
            assert headers["connection"] == "keep-alive"


def test_connection_close_is_obeyed(stage: Stage) -> None:
    answer = stage.exchange(b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"connection: close" in answer


def test_expect_100_is_answered_only_once_the_caller_is_known_by_key(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert read_response(sock)[0] == 403
        assert read_all(sock) == b""
    with stage.connect() as sock:
        head = signed(body=b"hello", framed=False, unsigned={"Expect": "100-continue", "Content-Length": "5"})
        sock.sendall(head)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert read_response(sock)[2] == b"hello"
        sock.sendall(signed(body=b"again"))
        assert read_response(sock)[2] == b"again"


def test_a_head_that_is_too_large_is_refused_while_the_client_still_sends(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000)
        assert read_response(sock)[0] == 431


def test_a_head_and_a_body_that_do_not_come_are_given_up(stages: Callable[..., Stage]) -> None:
    stage = stages(head_timeout_s=0.3, body_progress_timeout_s=0.3, keep_alive_timeout_s=0.3)
    assert status_of(stage.exchange(b"GET / HTTP/1.1\r\nHo")) == 408
    assert status_of(stage.exchange(signed(body=b"hello")[:-2])) == 408
    assert stage.exchange(b"") == b"", "a connection without a request is closed"
    with stage.connect() as sock:
        sock.sendall(LIVE)
        read_response(sock)
        assert sock.recv(1) == b"", "and one that is idle between requests"
    assert stage.warden.claims == []


def test_a_refused_body_that_is_small_does_not_cost_the_connection(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(POST + b"Content-Length: 5\r\n\r\nhe")
        assert read_response(sock)[0] == 403
        sock.sendall(b"llo" + LIVE)
        assert read_response(sock)[0] == 200


def test_a_refused_body_that_is_large_is_read_so_that_the_client_sees_why(stage: Stage) -> None:
    size = 30_000_000
    with stage.connect() as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // 1_000_000):
            sock.sendall(b"x" * 1_000_000)
        status, headers, _ = read_response(sock)
        assert (status, headers["connection"]) == (403, "close")


def test_too_many_connections_are_told_so(stages: Callable[..., Stage]) -> None:
    stage = stages(max_connections=2)
    with stage.connect() as one, stage.connect() as two:
        for sock in (one, two):
            sock.sendall(LIVE)
            assert read_response(sock)[0] == 200
        assert status_of(stage.exchange(LIVE)) == 503
        one.close()
        eventually(lambda: status_of(stage.exchange(LAST)) == 200)
        two.sendall(LIVE)
        assert read_response(two)[0] == 200


def test_empty_lines_before_a_request_are_skipped(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(b"\r\n\r\n" + LIVE)
        assert read_response(sock)[0] == 200


def test_every_answer_has_a_request_id_and_a_date(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(LIVE)
        _, headers, _ = read_response(sock)
    assert len(headers["x-amzn-requestid"]) == 36
    assert headers["date"].endswith("GMT")


def test_another_method_on_invocations_is_told_which_it_is(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % INVOCATIONS.encode())
        status, headers, body = read_response(sock)
    assert (status, headers["allow"]) == (405, "POST")
    assert json.loads(body) == {"message": "Method Not Allowed. Use POST."}


def test_head_requests_have_no_body(stage: Stage) -> None:
    answer = stage.exchange(b"HEAD /_freehold/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 15" in answer


def test_a_slow_reader_is_cut_off_and_costs_little_memory(stages: Callable[..., Stage]) -> None:
    stage = stages(slow_reader_timeout_s=0.5)
    sent = 0

    async def pour(reader, writer):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.set_write_buffer_limits(65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    stage.agent = pour
    with stage.connect(receive_buffer=16384) as sock:
        sock.sendall(signed())
        sock.recv(1)
        eventually(lambda: not stage.handlers)
        assert sent < 40_000_000, "kernel buffers and a little of ours"
        assert len(read_all(sock)) < 40_000_000


@pytest.mark.parametrize(
    ("session", "told"),
    [
        ("short", "greater than or equal to 33"),
        ("s" * 257, "less than or equal to 256"),
        ("-" * 40, "regular expression pattern"),
        ("s" * 20 + "/" + "s" * 20, "regular expression pattern"),
    ],
)
def test_a_session_id_that_breaks_the_rules_is_refused_in_the_services_words(
    stage: Stage, session: str, told: str
) -> None:
    with stage.connect() as sock:
        sock.sendall(signed(session=session))
        status, headers, body = read_response(sock)
    assert (status, headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert "Value at 'runtimeSessionId' failed to satisfy constraint" in json.loads(body)["message"]
    assert told in json.loads(body)["message"]
    assert stage.warden.claims == []


def test_two_session_ids_are_refused(stage: Stage) -> None:
    request = signed(session=None, unsigned={SESSION_HEADER: "t" * 40 + f"\r\n{SESSION_HEADER}: " + "u" * 40})
    with stage.connect() as sock:
        sock.sendall(request)
        assert read_response(sock)[0] in (400, 403)
    assert stage.warden.claims == []


def test_garbage_is_answered_or_dropped_and_the_next_client_is_served(stage: Stage) -> None:
    chance = random.Random(7)
    good = signed(body=b"hello")
    for _ in range(200):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        with stage.connect() as sock:
            sock.sendall(bytes(data))
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.1 2"))
        assert not answer.startswith(b"HTTP/1.1 500"), bytes(data)
    with stage.connect() as sock:
        sock.sendall(good)
        assert read_response(sock)[2] == b"hello"
