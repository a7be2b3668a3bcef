"""Invocations through a real Worker: boto3 in front, raw agents behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable

import botocore.exceptions
import pytest
from gateway_stage import (
    ACCOUNT,
    ARN,
    INVOCATIONS,
    KEY,
    OTHER_KEY,
    QUOTED_ARN,
    RUNTIME_ID,
    SESSION,
    SESSION_HEADER,
    STOP,
    Agent,
    Stage,
    echo,
    echo_heads,
    eventually,
    read_all,
    read_request,
    read_response,
    says,
    signed,
)

from freehold.auth.keys import AccessKey
from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason

OK = b"HTTP/1.1 200 OK\r\n"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def invoke(stage: Stage, payload: bytes = b"{}", *, key: AccessKey = KEY, **members: str) -> dict[str, object]:
    members = {"agentRuntimeArn": ARN, "runtimeSessionId": SESSION, **members}
    answer = stage.client(key=key).invoke_agent_runtime(payload=payload, **members)
    return {**answer, "body": answer["response"].read()}


def refusal(call: Callable[[], object]) -> tuple[int, str, str]:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


# -- what passes --------------------------------------------------------------------------------------------------


def test_boto3_gets_the_agents_answer_and_the_session_it_asked_for(stage: Stage) -> None:
    answer = invoke(stage, b'{"x": 1}')
    assert answer["body"] == b'{"x": 1}'
    assert answer["contentType"] == "application/json"
    assert answer["runtimeSessionId"] == SESSION
    assert answer["statusCode"] == 200
    key = stage.warden.claims[0]
    assert (key.account, key.runtime_id, key.endpoint, key.session_id) == (ACCOUNT, RUNTIME_ID, "DEFAULT", SESSION)
    assert key.owner == f"account:{ACCOUNT}"


def test_a_session_id_is_made_when_none_is_given(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(signed(session=None))
        _, headers, _ = read_response(sock)
    assert re.fullmatch(r"[0-9a-f-]{36}", headers[SESSION_HEADER.lower()])
    assert stage.warden.claims[0].session_id == headers[SESSION_HEADER.lower()]


def test_only_named_headers_reach_the_agent(stage: Stage) -> None:
    stage.agent = echo_heads
    stage.contract(1, ServerProtocol.HTTP, "x-tenant", "x-amzn-bedrock-agentcore-runtime-custom-color")
    unsigned = {
        "X-Tenant": "blue",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Color": "red",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Other": "no",
        "X-Other": "no",
        "Cookie": "no",
        "X-Forwarded-For": "no",
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "baggage": "a=b",
        "Accept": "text/event-stream",
        "Content-Type": "text/plain",
        "WorkloadAccessToken": "no",
        "Content_Length": "no",
    }
    with stage.connect() as sock:
        sock.sendall(signed(unsigned=unsigned))
        _, _, body = read_response(sock)
    first, *lines = body.decode().strip().split("\r\n")
    assert first == "POST /invocations HTTP/1.1"
    seen = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    request_id = seen.pop("x-amzn-bedrock-agentcore-runtime-request-id")
    assert len(request_id) == 36
    assert seen == {
        "host": "127.0.0.1:8080",
        "content-length": "8",
        "x-amzn-bedrock-agentcore-runtime-session-id": SESSION,
        "x-tenant": "blue",
        "x-amzn-trace-id": f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1",
        "x-amzn-bedrock-agentcore-runtime-custom-color": "red",
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "baggage": "a=b",
        "accept": "text/event-stream",
        "content-type": "text/plain",
    }


def test_json_is_said_to_be_sent_when_the_caller_says_nothing(stage: Stage) -> None:
    stage.agent = echo_heads
    assert b"content-type: application/json\r\n" in bytes(invoke(stage)["body"])  # pyright: ignore[reportArgumentType]


def test_an_allowed_header_that_is_too_long_is_refused(stage: Stage) -> None:
    stage.contract(1, ServerProtocol.HTTP, "x-tenant")
    with stage.connect() as sock:
        sock.sendall(signed(unsigned={"X-Tenant": "x" * 4096}))
        assert read_response(sock)[0] == 200
        sock.sendall(signed(unsigned={"X-Tenant": "x" * 4097}))
        assert read_response(sock)[0] == 400


def test_only_named_headers_reach_the_caller(stage: Stage) -> None:
    stage.agent = says(
        OK + b"Content-Type: text/x\r\nSet-Cookie: a\r\nServer: s\r\nX-Amzn-ErrorType: e\r\ntraceparent: t\r\n"
        b"X-Amzn-RequestId: forged\r\nContent-Length: 2\r\n\r\nok"
    )
    with stage.connect() as sock:
        sock.sendall(signed())
        _, headers, _ = read_response(sock)
    assert set(headers) == {
        "content-type", "traceparent", "content-length", "date", "x-amzn-requestid", SESSION_HEADER.lower(),
    }  # fmt: skip
    assert headers["x-amzn-requestid"] != "forged"


HELLO = OK + b"Content-Length: 6\r\n\r\nhello!"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "agent", "body"),
    [
        ("chunks", says(CHUNKED, b"5\r\nhello\r\n", b"1;x=y\r\n!\r\n0\r\nT: r\r\n\r\n"), b"hello!"),
        ("until close", says(OK + b"\r\n", b"hel", b"lo!", close=True), b"hello!"),
        ("HTTP/1.0", says(b"HTTP/1.0 200 OK\r\n\r\nhello!", close=True), b"hello!"),
        ("empty until close", says(OK + b"\r\n", close=True), b""),
        ("interim answers first", says(INTERIM + HELLO), b"hello!"),
        ("byte by byte", says(*[bytes([byte]) for byte in HELLO]), b"hello!"),
        ("no content", says(b"HTTP/1.1 204 No Content\r\n\r\n"), b""),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_every_way_to_frame_a_body_is_understood(
    stage: Stage, name: str, agent: Agent, body: bytes, version: str
) -> None:
    stage.agent = agent
    if version == "1.1":
        for _ in range(2):
            assert invoke(stage)["body"] == body, name
    else:
        answer = stage.exchange(signed(version="1.0"))
        head, _, got = answer.partition(b"\r\n\r\n")
        assert got == body
        assert b"transfer-encoding" not in head


def test_the_first_chunk_arrives_before_the_agent_has_ended(stage: Stage) -> None:
    go_on = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await writer.drain()

    stage.agent = agent
    answer = stage.client().invoke_agent_runtime(agentRuntimeArn=ARN, payload=b"{}")
    lines = answer["response"].iter_lines(chunk_size=1)
    assert next(lines) == b"data: 1"
    go_on.set()
    assert [line for line in lines if line] == [b"data: 2"]


def test_a_large_body_goes_there_and_back(stage: Stage) -> None:
    payload = bytes(range(256)) * 4096 * 20  # 20 MiB, of which all but one is on disk
    assert invoke(stage, payload)["body"] == payload


def test_a_body_of_the_largest_size_passes_and_one_byte_more_does_not(stages: Callable[..., Stage]) -> None:
    stage = stages(max_payload_bytes=3_000_000)
    assert len(bytes(invoke(stage, b"x" * 3_000_000)["body"])) == 3_000_000  # pyright: ignore[reportArgumentType]
    status, code, message = refusal(lambda: invoke(stage, b"x" * 3_000_001))
    assert (status, code) == (400, "ValidationException")
    assert "3000000 bytes" in message
    head = signed(body=b"x" * 3_000_001, framed=False, unsigned={"Transfer-Encoding": "chunked"})
    with stage.connect() as sock:
        sock.sendall(head + b"2DC6C1\r\n" + b"x" * 3_000_001 + b"\r\n0\r\n\r\n")
        assert read_response(sock)[0] == 400
    assert len(stage.warden.claims) == 1


@pytest.mark.slow
def test_a_hundred_megabytes_and_one_byte_are_refused_and_boto3_sees_why(stage: Stage) -> None:
    status, code, message = refusal(lambda: invoke(stage, b"x" * 100_000_001))
    assert (status, code) == (400, "ValidationException")
    assert "100000000" in message


def unnamed_files() -> list[int]:
    """Sizes of this process's open files that have no name."""
    sizes: list[int] = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)"):
                sizes.append(os.fstat(int(fd)).st_size)
    return sizes


def test_bodies_that_are_held_at_once_are_bounded(stages: Callable[..., Stage]) -> None:
    stage = stages(spool_bytes_per_key=1_000_000, memory_spool_bytes=1000)
    with stage.connect() as sock:
        sock.sendall(signed(body=b"x" * 800_000, claimed=True)[:-1])
        eventually(lambda: 799_999 in unnamed_files())
        assert refusal(lambda: invoke(stage, b"x" * 300_000))[:2] == (429, "ThrottlingException")
        sock.sendall(b"x")
        assert read_response(sock)[0] == 200
    assert invoke(stage, b"x" * 300_000)["statusCode"] == 200
    eventually(lambda: 799_999 not in unnamed_files())


# -- agents that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 503])
def test_an_agents_error_is_told_without_its_words(stage: Stage, status: int) -> None:
    stage.agent = says(b"HTTP/1.1 %d X\r\nContent-Length: 6\r\nLocation: x\r\n\r\nsecret" % status)
    assert refusal(lambda: invoke(stage)) == (
        424,
        "RuntimeClientError",
        f"Received error ({status}) from runtime. Please check your CloudWatch logs for more information.",
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 20\r\n\r\n", b"HTTP/1.1 101 Up\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told_as_the_agents_failure(stage: Stage, answer: bytes) -> None:
    stage.agent = says(answer, close=True)
    status, code, _ = refusal(lambda: invoke(stage))
    assert (status, code) == (424, "RuntimeClientError")
    stage.agent = echo
    assert invoke(stage, b"fine")["body"] == b"fine"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 10\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(stage: Stage, answer: bytes) -> None:
    stage.agent = says(answer, close=True)
    with pytest.raises((botocore.exceptions.BotoCoreError, botocore.exceptions.IncompleteReadError)):
        invoke(stage)
    got = stage.exchange(signed())
    assert not got.endswith(b"0\r\n\r\n")


def test_more_than_the_answer_is_not_given_to_the_next_request(stage: Stage) -> None:
    stage.agent = says(OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 6\r\n\r\npoison")
    for _ in range(3):
        assert invoke(stage)["body"] == b"ok"
    assert stage.connections == 3


def test_bytes_from_an_agent_that_nobody_asked_spoil_its_connection(stage: Stage) -> None:
    late = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.write(OK + b"Content-Length: 6\r\n\r\npoison")
        await writer.drain()
        late.set()
        await reader.read()

    stage.agent = agent
    for _ in range(5):
        late.clear()
        assert invoke(stage)["body"] == b"ok"
        assert late.wait(5)


def test_an_agent_that_closes_after_each_answer_without_saying_so_loses_no_request(stage: Stage) -> None:
    seen: list[bytes] = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await read_request(reader)
        seen.append(body)
        writer.write(OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    stage.agent = agent
    with stage.connect() as sock:
        for number in range(300):
            sock.sendall(signed(body=b"%d" % number))
            status, _, body = read_response(sock)
            assert (status, body) == (200, b"%d" % number)
    assert seen == [b"%d" % number for number in range(300)], "each exactly once"


def test_a_request_that_an_agent_took_and_did_not_answer_is_not_sent_again(stage: Stage) -> None:
    seen: list[bytes] = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await read_request(reader)
            seen.append(body)
            if body == b"crash":
                return
            writer.write(OK + b"Content-Length: 2\r\n\r\nok")
            await writer.drain()

    stage.agent = agent
    invoke(stage, b"first")
    assert refusal(lambda: invoke(stage, b"crash"))[1] == "RuntimeClientError"
    assert seen == [b"first", b"crash"]
    assert stage.connections == 1


def test_an_agent_that_says_nothing_is_given_up(stages: Callable[..., Stage]) -> None:
    stage = stages(first_byte_timeout_s=0.3, stream_timeout_s=0.3)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + b"Content-Length: 10\r\n\r\nhello")
        await reader.read()

    stage.agent = silent
    assert refusal(lambda: invoke(stage))[1] == "RuntimeClientError"
    eventually(lambda: not stage.handlers)
    stage.agent = endless
    with pytest.raises((botocore.exceptions.BotoCoreError, botocore.exceptions.IncompleteReadError)):
        invoke(stage)
    eventually(lambda: not stage.handlers)


@pytest.mark.parametrize("answering", [False, True])
@pytest.mark.parametrize("orderly", [False, True])
def test_a_client_that_goes_away_ends_the_agents_stream(stage: Stage, answering: bool, orderly: bool) -> None:
    gone = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if answering:
            writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await asyncio.gather(reader.read(), return_exceptions=True)
        gone.set()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        if answering:
            sock.recv(1)
        else:
            eventually(lambda: stage.handlers)
        if orderly:
            sock.shutdown(socket.SHUT_WR)
            assert gone.wait(5)
    assert gone.wait(5)


def test_an_agent_that_answers_before_the_body_has_been_sent_is_heard(stage: Stage) -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: 5\r\n\r\nearly")
        await writer.drain()
        await reader.read()

    stage.agent = agent
    assert invoke(stage, b"x" * 20_000_000)["body"] == b"early"


# -- AG-UI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (errors.QuotaExceeded("no room"), 429, "SERVICE_QUOTA_EXCEEDED"),
        (errors.RetryableConflict("Session operation in progress, please retry"), 409, "SESSION_BUSY"),
        (errors.StartFailed("it broke"), 200, "AGENT_ERROR"),
        (errors.Unavailable("away"), 500, "INTERNAL_ERROR"),
    ],
)
def test_ag_ui_callers_are_told_of_failures_as_events(
    stage: Stage, fault: errors.FreeholdError, status: int, code: str
) -> None:
    stage.contract(1, ServerProtocol.AGUI)
    stage.warden.faults = [fault]
    with stage.connect() as sock:
        sock.sendall(signed())
        got, headers, body = read_response(sock)
    assert (got, headers["content-type"]) == (status, "text/event-stream")
    assert body.startswith(b"data: ")
    assert body.endswith(b"\n\n")
    assert json.loads(body[6:]) == {"type": "RUN_ERROR", "code": code, "message": fault.message}


def test_an_ag_ui_agents_error_is_an_event_in_an_answer_that_succeeds(stage: Stage) -> None:
    stage.contract(1, ServerProtocol.AGUI)
    stage.agent = says(b"HTTP/1.1 500 X\r\nContent-Length: 6\r\n\r\nsecret")
    with stage.connect() as sock:
        sock.sendall(signed())
        status, _, body = read_response(sock)
        assert (status, json.loads(body[6:])["code"]) == (200, "AGENT_ERROR")
        sock.sendall(signed(key=AccessKey(KEY.access_key_id, ACCOUNT, "wrong")))
        status, headers, _ = read_response(sock)
    assert (status, headers["content-type"]) == (403, "application/json"), "a stranger does not learn the protocol"


# -- who may ----------------------------------------------------------------------------------------------------


def test_callers_who_can_not_sign_learn_nothing_about_runtimes(stage: Stage) -> None:
    wrong = AccessKey(KEY.access_key_id, ACCOUNT, "wrong")
    unknown = AccessKey("AKIAFHZZZZZZZZZZZZZZ", ACCOUNT, "wrong")
    for arn in (ARN, ARN[:-1] + "x", "nonsense"):
        told = refusal(lambda arn=arn: invoke(stage, key=wrong, agentRuntimeArn=arn))
        assert told[:2] == (403, "InvalidSignatureException")
        told = refusal(lambda arn=arn: invoke(stage, key=unknown, agentRuntimeArn=arn))
        assert told[:2] == (403, "UnrecognizedClientException")
        quoted = arn.replace(":", "%3A").replace("/", "%2F")
        answer = stage.exchange(
            f"POST /runtimes/{quoted}/invocations HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"x-amzn-errortype: MissingAuthenticationTokenException\r\n" in answer
    assert stage.warden.claims == []


@pytest.mark.parametrize(
    ("arn", "qualifier"),
    [
        (ARN, "other"),
        (ARN[:-1] + "x", "DEFAULT"),
        (ARN.replace("eu-central-1", "us-east-1"), "DEFAULT"),
        (ARN + " ", "DEFAULT"),
        (ARN.replace("bedrock-agentcore", "s3"), "DEFAULT"),
    ],
)
def test_what_is_not_there_is_not_found_in_the_services_words(stage: Stage, arn: str, qualifier: str) -> None:
    message = f"No endpoint or agent found with qualifier '{qualifier}' for agent '{arn}'"
    told = refusal(lambda: invoke(stage, agentRuntimeArn=arn, qualifier=qualifier))
    assert told == (404, "ResourceNotFoundException", message)


def test_another_accounts_runtime_is_not_found(stage: Stage) -> None:
    message = f"No endpoint or agent found with qualifier 'DEFAULT' for agent '{ARN}'"
    assert refusal(lambda: invoke(stage, key=OTHER_KEY)) == (404, "ResourceNotFoundException", message)
    told = refusal(lambda: invoke(stage, key=OTHER_KEY, agentRuntimeArn=RUNTIME_ID, accountId=ACCOUNT))
    assert told[:2] == (404, "ResourceNotFoundException")
    assert stage.warden.claims == []


def test_a_runtime_may_be_named_by_its_id_and_account(stage: Stage) -> None:
    assert invoke(stage, agentRuntimeArn=RUNTIME_ID, accountId=ACCOUNT)["statusCode"] == 200
    assert refusal(lambda: invoke(stage, agentRuntimeArn=RUNTIME_ID))[:2] == (400, "ValidationException")


def test_a_body_other_than_the_signed_one_never_reaches_the_agent(stage: Stage) -> None:
    for request in (signed(body=b"aaaa"), signed(body=b"aaaa", claimed=True)):
        with stage.connect() as sock:
            sock.sendall(request[:-4] + b"bbbb")
            assert read_response(sock)[0] == 403
    assert stage.warden.claims == []


def test_a_key_is_asked_for_once_and_forgotten_when_it_changes(stage: Stage) -> None:
    for _ in range(3):
        invoke(stage)
    assert stage.control.asked["GetAccessKey"] == 1
    assert stage.control.asked["ResolveEndpoint"] == 1
    assert stage.control.asked["GetContract"] == 1
    del stage.control.keys[KEY.access_key_id]
    stage.changed(access_key_ids=[KEY.access_key_id])
    assert refusal(lambda: invoke(stage))[1] == "UnrecognizedClientException"


def test_a_route_is_forgotten_when_it_changes(stage: Stage) -> None:
    invoke(stage)
    stage.control.routes.clear()
    assert invoke(stage)["statusCode"] == 200
    stage.changed(runtime_ids=[RUNTIME_ID])
    assert refusal(lambda: invoke(stage))[1] == "ResourceNotFoundException"


# -- sessions -----------------------------------------------------------------------------------------------------


def test_claims_are_kept_for_a_moment_and_then_released_with_their_age(stages: Callable[..., Stage]) -> None:
    stage = stages(claim_linger_s=0.5)
    for _ in range(3):
        invoke(stage)
    assert len(stage.warden.claims) == 1
    assert stage.warden.released == []
    eventually(lambda: stage.warden.released)
    assert 0.5 <= stage.warden.released[0].last_activity_age_s < 5
    eventually(lambda: not stage.handlers)
    invoke(stage)
    assert len(stage.warden.claims) == 2


def test_a_claim_is_held_as_long_as_a_request_is_under_way(stages: Callable[..., Stage]) -> None:
    stage = stages(claim_linger_s=0.1)
    go_on = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read()

    stage.agent = agent
    other = "o" * 40
    with stage.connect() as sock:
        sock.sendall(signed())
        eventually(lambda: stage.handlers)
        stage.agent = echo
        invoke(stage, runtimeSessionId=other)
        eventually(lambda: stage.warden.released)
        assert [r.generation for r in stage.warden.released] == [2], "only the other one's"
        go_on.set()
        assert read_response(sock)[2] == b"ok"
    eventually(lambda: len(stage.warden.released) == 2)


def test_requests_for_a_session_that_starts_share_one_claim(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.warden.before_claim = gate.wait
    socks = [stage.connect() for _ in range(5)]
    for number, sock in enumerate(socks):
        sock.sendall(signed(body=b"%d" % number))
    eventually(lambda: stage.warden.claims)
    stage.call(gate.set)
    for number, sock in enumerate(socks):
        assert read_response(sock)[2] == b"%d" % number
        sock.close()
    assert len(stage.warden.claims) == 1


def test_a_caller_that_gives_up_on_a_start_leaves_it_to_the_others(stages: Callable[..., Stage]) -> None:
    stage = stages(claim_linger_s=0.3)
    gate = asyncio.Event()
    stage.warden.before_claim = gate.wait
    with stage.connect() as sock:
        sock.sendall(signed())
        eventually(lambda: stage.warden.claims)
    stage.call(gate.set)
    eventually(lambda: stage.warden.released)
    assert len(stage.warden.claims) == 1


def test_a_start_that_fails_is_told_with_its_reason(stage: Stage) -> None:
    told = "An error occurred when starting the runtime: exit code 1. Its last output was:\nImportError: x"
    stage.warden.faults = [errors.StartFailed(told, exit_code=1, output_tail="ImportError: x")]
    assert refusal(lambda: invoke(stage)) == (424, "RuntimeClientError", told)
    assert invoke(stage)["statusCode"] == 200


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (errors.QuotaExceeded("x"), 402, "ServiceQuotaExceededException"),
        (errors.RetryableConflict("x"), 409, "RetryableConflictException"),
        (errors.Throttled("x"), 429, "ThrottlingException"),
        (errors.Unavailable("x"), 503, "ServiceUnavailableException"),
    ],
)
def test_the_wardens_refusals_are_told_in_the_services_codes(
    stage: Stage, fault: errors.FreeholdError, status: int, code: str
) -> None:
    stage.warden.faults = [fault]
    assert refusal(lambda: invoke(stage)) == (status, code, "x")


def test_a_request_whose_session_ends_is_told_so(stage: Stage) -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        eventually(lambda: stage.handlers)
        stage.call(lambda: stage.warden.end(EndReason.MAX_LIFETIME))
        status, headers, body = read_response(sock)
    assert (status, headers["x-amzn-errortype"]) == (424, "RuntimeClientError")
    assert "maximum lifetime" in json.loads(body)["message"]


def test_a_session_that_ended_unnoticed_is_claimed_again_before_anything_is_sent(stage: Stage) -> None:
    invoke(stage)
    stage.agent = echo
    stage.warden.sessions.clear()
    stage.warden.dial_faults = [errors.NotFound("The session has ended")]
    for task in list(stage.handlers):
        stage.call(task.cancel)
    eventually(lambda: not stage.handlers)
    assert invoke(stage, b"again")["body"] == b"again"
    assert len(stage.warden.claims) == 2


def test_an_older_sessions_own_contract_counts(stage: Stage) -> None:
    stage.contract(2, ServerProtocol.HTTP)
    stage.contract(1, ServerProtocol.HTTP, "x-tenant")
    stage.control.routes[(ACCOUNT, RUNTIME_ID, "DEFAULT")] = 2
    stage.warden.version = 1
    stage.agent = echo_heads
    with stage.connect() as sock:
        sock.sendall(signed(unsigned={"X-Tenant": "blue"}))
        assert b"x-tenant: blue" in read_response(sock)[2]


def test_a_warden_that_comes_back_is_used_again(stage: Stage) -> None:
    invoke(stage)
    stage.run(stage.kill("warden"))
    eventually(lambda: not stage.handlers)
    with stage.connect() as sock:
        sock.sendall(signed(body=b"waits"))
        stage.run(stage.start_warden())
        assert read_response(sock)[2] == b"waits"
    assert len(stage.warden.claims) == 2


def test_a_warden_that_stays_away_is_told_as_unavailable(stages: Callable[..., Stage]) -> None:
    stage = stages(away_timeout_s=0.2)
    stage.run(stage.kill("warden"))
    eventually(lambda: refusal(lambda: invoke(stage))[:2] == (503, "ServiceUnavailableException"))


def test_control_may_be_away_while_agents_are_invoked(stage: Stage) -> None:
    invoke(stage)
    stage.run(stage.kill("feed", "http"))
    assert invoke(stage)["statusCode"] == 200


def status_of_invoke(stage: Stage) -> int:
    with stage.connect() as sock:
        sock.sendall(signed())
        return read_response(sock)[0]


def test_what_control_said_is_forgotten_when_it_comes_back(stage: Stage) -> None:
    invoke(stage)
    stage.run(stage.kill("feed", "http"))
    stage.control.routes.clear()
    stage.run(stage.start_control())
    eventually(lambda: stage.control.asked["Hello"] == 2)
    eventually(lambda: status_of_invoke(stage) == 404)


# -- StopRuntimeSession -------------------------------------------------------------------------------------------


def test_boto3_stops_a_session_and_requests_under_way_are_told(stage: Stage) -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        eventually(lambda: stage.handlers)
        answer = stage.client().stop_runtime_session(agentRuntimeArn=ARN, runtimeSessionId=SESSION)
        assert (answer["statusCode"], answer["runtimeSessionId"]) == (200, SESSION)
        assert read_response(sock)[0] == 424
    assert stage.warden.stopped[0].session_id == SESSION
    told = refusal(lambda: stage.client().stop_runtime_session(agentRuntimeArn=ARN, runtimeSessionId=SESSION))
    assert told[:2] == (404, "ResourceNotFoundException")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 200), (b"{}", 200), (b'{"clientToken": null}', 200), (b"[]", 400), (b"{", 400), (b'{"clientToken": 1}', 400),
     (b'{"clientToken": "short"}', 400), (b"\xff", 400), (b"[" * 60_000, 400), (b" " * 70_000, 400)],
)  # fmt: skip
def test_the_body_of_a_stop_may_be_empty_but_not_anything(stage: Stage, body: bytes, status: int) -> None:
    invoke(stage)
    with stage.connect() as sock:
        sock.sendall(signed(STOP, body))
        assert read_response(sock)[0] == status


def test_a_stop_names_its_session(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(signed(STOP, b"", session=None))
        status, _, body = read_response(sock)
    assert status == 400
    assert "runtimeSessionId" in json.loads(body)["message"]


# -- everything else ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/runtimes/{QUOTED_ARN}/commands"),
        ("POST", "/identities/GetWorkloadAccessToken"),
    ],
)
def test_operations_that_are_not_there_yet_are_named_to_those_who_sign(stage: Stage, method: str, path: str) -> None:
    with stage.connect() as sock:
        sock.sendall(signed(path, b"", method=method))
        status, headers, body = read_response(sock)
        assert (status, headers["x-amzn-errortype"]) == (400, "UnknownOperationException")
        assert "does not have the operation" in json.loads(body)["message"]
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert read_response(sock)[0] == 403


def test_an_invocation_with_a_slash_at_the_end_is_one(stage: Stage) -> None:
    with stage.connect() as sock:
        sock.sendall(signed(INVOCATIONS + "/"))
        assert read_response(sock)[0] == 200


def test_a_worker_that_stops_lets_requests_end_and_takes_no_more(stage: Stage) -> None:
    go_on = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()

    stage.agent = agent
    with stage.connect() as idle, stage.connect() as busy:
        idle.sendall(b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\n\r\n")
        read_response(idle)
        busy.sendall(signed())
        eventually(lambda: stage.handlers)
        stage.ask_to_stop()
        assert read_all(idle) == b""
        go_on.set()
        status, headers, body = read_response(busy)
        assert (status, body) == (200, b"ok")
        assert headers.get("connection") != "keep-alive"
        assert read_all(busy) == b""
    stage.stop()


def test_a_worker_that_stops_breaks_off_what_does_not_end(stages: Callable[..., Stage]) -> None:
    stage = stages(drain_timeout_s=0.2)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        eventually(lambda: stage.handlers)
        stage.stop()
        assert read_all(sock) == b""
