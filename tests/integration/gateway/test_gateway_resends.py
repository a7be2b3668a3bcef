"""Requests that are sent again, through a real Worker: what the warden is told of them, and what it has answered.

What the warden makes of it is tested with it (`test_warden_once`), both together with boto3 (`test_two_workers`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from gateway_stage import DEADLINE_S, Stage, echo, eventually, read_request, read_response, signed

from freehold.domain.errors import Conflict, RetryableConflict
from freehold.warden.protocol import MAX_KEPT_ANSWER_BYTES, Answered

ID = {"amz-sdk-invocation-id": "0b9f6d0e-8f6e-4a5e-9d8e-5a4a1a8d5b11", "amz-sdk-request": "attempt=1"}
TEXT = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.fixture
def stage(stages: Callable[..., Stage]) -> Stage:
    made = stages(asks_to_enter=True, knows_resends=True, runs_on=True)
    made.agent = echo
    return made


def told(stage: Stage, request: bytes) -> tuple[int, dict[str, str], bytes]:
    with stage.connect() as sock:
        sock.sendall(request)
        return read_response(sock)


def sized(size: int) -> bytes:
    return TEXT + b"Content-Length: %d\r\n\r\n" % size + b"x" * size


def onces(stage: Stage) -> list[bytes]:
    return [enter.once for enter in stage.warden.enters]


def test_a_request_is_the_same_one_by_its_id_and_its_body_and_other_headers_do_not_matter(stage: Stage):
    again = {**ID, "amz-sdk-request": "attempt=2"}
    other = {**ID, "amz-sdk-invocation-id": "another"}
    for headers, body in ((ID, b"body"), (again, b"body"), (ID, b"other"), (other, b"body"), ({}, b"body")):
        assert told(stage, signed(body=body, headers=headers))[0] == 200
    first, second, *others, without = onces(stage)
    assert first == second
    assert len({first, *others}) == 3
    assert without == b""


def test_a_body_that_comes_in_pieces_makes_the_same_request(stage: Stage):
    body = b"x" * 100_000
    request = signed(body=body, headers=ID)
    assert told(stage, request)[2] == body
    with stage.connect() as sock:
        sock.sendall(request[:-1000])
        eventually(lambda: len(stage.warden.enters) == 1)
        sock.sendall(request[-1000:])
        assert read_response(sock)[2] == body
    first, second = onces(stage)
    assert first == second


def test_what_the_warden_has_kept_is_answered_and_the_agent_hears_nothing(stage: Stage):
    assert told(stage, signed(body=b"hello", headers=ID))[2] == b"hello"
    eventually(lambda: stage.warden.leaves)
    leave = stage.warden.leaves[0]
    assert leave.reached
    assert leave.answer is not None
    assert leave.answer.body == b"hello"
    stage.warden.answered[leave.once] = Answered(200, leave.answer.lines, b"as before")
    requests = len(stage.warden.enters)
    status, headers, body = told(stage, signed(body=b"hello", headers=ID))
    assert (status, body) == (200, b"as before")
    assert headers["x-amzn-bedrock-agentcore-runtime-session-id"]
    assert headers["x-amzn-requestid"]
    assert len(stage.warden.enters) == requests + 1
    assert len(stage.warden.leaves) == 1, "it had not entered"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (RetryableConflict("This request is under way already, please retry"), "RetryableConflictException"),
        (Conflict("This request has been passed on to the agent already"), "ConflictException"),
    ],
)
def test_what_the_warden_refuses_is_told_in_the_services_codes(stage: Stage, fault: Exception, code: str):
    told(stage, signed())
    stage.warden.enter_faults.append(fault)  # pyright: ignore[reportArgumentType]
    status, headers, _ = told(stage, signed(headers=ID))
    assert (status, headers["x-amzn-errortype"]) == (409, code)


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (sized(MAX_KEPT_ANSWER_BYTES), True),
        (sized(0), True),
        (sized(MAX_KEPT_ANSWER_BYTES + 1), False),
        (TEXT + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n", False),
        (TEXT + b"Content-Length: 10\r\n\r\nbroken", False),
    ],
    ids=["largest", "empty", "too-large", "stream", "failure", "broken-off"],
)
def test_small_whole_answers_are_kept_and_no_others(stage: Stage, answer: bytes, is_kept: bool):
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    stage.agent = agent
    stage.exchange(signed(headers={**ID, "connection": "close"}))
    eventually(lambda: stage.warden.leaves)
    (leave,) = stage.warden.leaves
    assert leave.reached
    assert (leave.answer is not None) == is_kept
    if leave.answer is not None:
        assert leave.answer.body == answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("answering", [False, True])
def test_the_answer_of_an_agent_that_runs_on_without_its_client_is_kept(stage: Stage, answering: bool):
    has_it, gone = threading.Event(), asyncio.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if answering:
            writer.write(TEXT + b"Content-Length: 5\r\n\r\nal")
            await writer.drain()
        has_it.set()
        await gone.wait()
        writer.write(b"one" if answering else TEXT + b"Content-Length: 5\r\n\r\nalone")
        await writer.drain()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed(headers=ID))
        assert has_it.wait(DEADLINE_S)
        if answering:
            while not sock.recv(4096).endswith(b"al"):
                pass
    assert stage.warden.leaves == []
    stage.call(gone.set)
    eventually(lambda: stage.warden.leaves)
    (leave,) = stage.warden.leaves
    assert leave.answer is not None
    assert (leave.answer.status, leave.answer.body) == (200, b"alone")


def test_one_that_never_reached_the_agent_may_come_again(stage: Stage):
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(TEXT + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    stage.agent = agent
    told(stage, signed())
    stage.warden.dial_faults.append(RetryableConflict("Session operation in progress, please retry"))
    assert told(stage, signed(headers=ID))[0] == 409
    eventually(lambda: len(stage.warden.leaves) == 2)
    leave = stage.warden.leaves[1]
    assert leave.once
    assert not leave.reached
    assert leave.answer is None


def test_without_the_setting_nothing_is_told_of_it(stages: Callable[..., Stage]):
    made = stages(asks_to_enter=True)
    made.agent = echo
    told(made, signed(headers=ID))
    eventually(lambda: made.warden.leaves)
    assert onces(made) == [b""]
    assert made.warden.leaves[0].answer is None
