"""Every failure, as callers of each protocol are told of it: spec section 1.6, row by row, through a real Worker."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from gateway_stage import INVOCATIONS, SESSION, STOP, Stage, read_response, says, signed

from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.bearers import Bearers

ACCEPT = {"Accept": "application/json, text/event-stream"}
REQUEST = b'{"jsonrpc":"2.0","id":"seven","method":"tools/call","params":{}}'


@dataclass(frozen=True)
class Row:
    """A kind of failure: how HTTP tells of it (status, type), then MCP, A2A and AG-UI (status, code)."""

    http: tuple[int, str]
    mcp: tuple[int, int]
    a2a: tuple[int, int | None]
    agui: tuple[int, str]


UNAUTHORIZED = Row((401, "UnauthorizedException"), (401, -32001), (401, -32001), (401, "UNAUTHORIZED"))
DENIED = Row((403, "AccessDeniedException"), (403, -32002), (403, None), (403, "ACCESS_DENIED"))
VALIDATION = Row((400, "ValidationException"), (200, -32006), (400, -32052), (400, "VALIDATION_ERROR"))
NOT_FOUND = Row((404, "ResourceNotFoundException"), (200, -32004), (404, -32051), (500, "INTERNAL_ERROR"))
CONFLICT = Row((409, "ConflictException"), (200, -32005), (409, -32054), (409, "SESSION_BUSY"))
RETRYABLE = Row((409, "RetryableConflictException"), (200, -32005), (409, -32054), (409, "SESSION_BUSY"))
QUOTA = Row((402, "ServiceQuotaExceededException"), (200, -32003), (429, -32053), (429, "SERVICE_QUOTA_EXCEEDED"))
THROTTLED = Row((429, "ThrottlingException"), (200, -32003), (429, -32053), (429, "RATE_LIMIT_EXCEEDED"))
AGENT = Row((424, "RuntimeClientError"), (200, -32010), (424, -32055), (200, "AGENT_ERROR"))
AWAY = Row((503, "ServiceUnavailableException"), (200, -32603), (500, -32603), (500, "INTERNAL_ERROR"))
INTERNAL = Row((500, "InternalServerException"), (200, -32603), (500, -32603), (500, "INTERNAL_ERROR"))

FAULTS: list[tuple[Row, errors.FreeholdError]] = [
    (UNAUTHORIZED, errors.Unauthenticated("no good")),
    (DENIED, errors.AccessDenied("not you")),
    (VALIDATION, errors.ValidationFailed("at 'x': too long")),
    (CONFLICT, errors.Conflict("it is there already")),
    (RETRYABLE, errors.RetryableConflict("Session operation in progress, please retry")),
    (QUOTA, errors.QuotaExceeded("no room")),
    (THROTTLED, errors.Throttled("too many")),
    (AGENT, errors.StartFailed("An error occurred when starting the runtime")),
    (AGENT, errors.AgentFailed("The agent does not accept connections")),
    (AWAY, errors.Unavailable("away")),
    (INTERNAL, errors.FreeholdError("An internal error occurred")),
]

PROTOCOLS = list(ServerProtocol)


def check(protocol: ServerProtocol, row: Row, told: tuple[int, dict[str, str], bytes], message: str | None) -> None:
    """That `told` is the answer that `protocol` has for `row`. `message` of None: whatever says more than nothing."""
    status, headers, body = told
    assert headers["x-amzn-requestid"]
    assert headers["x-amzn-errortype"] == row.http[1]
    if protocol is ServerProtocol.AGUI:
        assert (status, headers["content-type"]) == (row.agui[0], "text/event-stream")
        assert body.startswith(b"data: ")
        assert body.endswith(b"\n\n")
        event = json.loads(body[6:])
        assert event == {"type": "RUN_ERROR", "code": row.agui[1], "message": message or event["message"]}
        assert event["message"]
        return
    document = json.loads(body)
    assert headers["content-type"] == "application/json"
    expected = {ServerProtocol.HTTP: row.http, ServerProtocol.MCP: row.mcp, ServerProtocol.A2A: row.a2a}[protocol]
    assert status == expected[0]
    code: Any = expected[1]
    if row is UNAUTHORIZED:
        # Seen at AWS for HTTP, too: JSON-RPC, without an id.
        assert document == {"jsonrpc": "2.0", "error": {"code": -32001, "message": message}}
        return
    if protocol is ServerProtocol.HTTP or code is None:
        assert document["message"] == (message or document["message"])
        assert document["message"]
        return
    said = document["error"]["message"]
    assert document == {"jsonrpc": "2.0", "id": "seven", "error": {"code": code, "message": message or said}}
    assert said


def invoke(stage: Stage, body: bytes = REQUEST, path: str = INVOCATIONS) -> tuple[int, dict[str, str], bytes]:
    with stage.connect() as sock:
        sock.sendall(signed(path, body, headers=ACCEPT))
        return read_response(sock)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_tells_of_every_failure_in_its_own_way(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    for row, fault in FAULTS:
        stage.warden.faults = [fault]
        message = None if row is INTERNAL else fault.message
        check(protocol, row, invoke(stage), message)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("status", [301, 401, 403, 418, 429, 500, 503])
def test_what_an_agent_fails_with_is_its_failure_and_its_words_stay(
    stage: Stage, protocol: ServerProtocol, status: int
) -> None:
    stage.contract(1, protocol)
    stage.agent = says(b"HTTP/1.1 %d X\r\nContent-Length: 6\r\n\r\nsecret" % status)
    message = f"Received error ({status}) from runtime. Please check your CloudWatch logs for more information."
    check(protocol, AGENT, invoke(stage), message)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_agent_that_breaks_off_or_takes_too_long_has_failed(stages: Any, protocol: ServerProtocol) -> None:
    stage = stages(first_byte_timeout_s=0.3)
    stage.contract(1, protocol)
    stage.agent = says(close=True)
    check(protocol, AGENT, invoke(stage), None)
    stage.agent = says()
    check(protocol, AGENT, invoke(stage), "The runtime did not complete its answer within 0.3 s.")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_wrong_with_a_request_is_told_with_its_id(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    with stage.connect() as sock:
        sock.sendall(signed(body=REQUEST, headers=ACCEPT, session="too-short"))
        told = read_response(sock)
    check(protocol, VALIDATION, told, None)
    assert b"runtimeSessionId" in told[2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_endpoint_that_is_not_there_is_told_as_its_runtime_speaks(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    told = invoke(stage, path=f"{INVOCATIONS}?qualifier=nowhere")
    check(protocol, NOT_FOUND, told, None)
    assert b"No endpoint or agent found with qualifier 'nowhere' for agent 'arn:" in told[2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_runtime_that_is_not_there_has_no_protocol(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    status, headers, body = invoke(stage, path=INVOCATIONS.replace("agent-0", "other-0"))
    assert (status, headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert "No endpoint or agent found" in json.loads(body)["message"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_operations_tell_of_failures_as_the_service_does(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    with stage.connect() as sock:
        sock.sendall(signed(STOP, b"{}", session=SESSION))
        status, headers, body = read_response(sock)
    assert (status, headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert SESSION in json.loads(body)["message"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_shows_no_good_token_is_told_so_as_the_runtime_speaks(
    stage: Stage, protocol: ServerProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check_token(*_: object) -> None:
        raise errors.Unauthenticated("Missing Authentication Token")

    monkeypatch.setattr(Bearers, "check", check_token)
    stage.contract(1, protocol, takes_jwt=True)
    with stage.connect() as sock:
        sock.sendall(
            b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\n\r\n%b"
            % (INVOCATIONS.encode(), len(REQUEST), REQUEST)
        )
        told = read_response(sock)
    check(protocol, UNAUTHORIZED, told, "Missing Authentication Token")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_post_invokes(stage: Stage, protocol: ServerProtocol) -> None:
    stage.contract(1, protocol)
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = stage.exchange(f"{method} {INVOCATIONS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 405 "), method
        assert b"\r\nallow: POST" in answer
        assert b'{"message":"Method Not Allowed. Use POST."}' in answer
