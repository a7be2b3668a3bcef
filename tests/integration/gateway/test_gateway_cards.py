"""Agent cards through a real Worker: boto3 in front, raw agents behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import botocore.exceptions
import pytest
from gateway_stage import (
    ACCOUNT,
    ARN,
    INVOCATIONS,
    PUBLIC_URL,
    QUOTED_ARN,
    RUNTIME_ID,
    SESSION,
    SESSION_HEADER,
    Stage,
    read_request,
    read_response,
    signed,
)

from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol

URL = f"{PUBLIC_URL}/runtimes/{QUOTED_ARN}/invocations/"
NEW, OLD = "/.well-known/agent-card.json", "/.well-known/agent.json"


class Agent:
    """Has cards at some paths, and remembers what it was asked."""

    def __init__(self, cards: dict[str, Any]) -> None:
        self.cards = {
            path: card if isinstance(card, bytes) else json.dumps(card).encode() for path, card in cards.items()
        }
        self.heads: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(reader)
            self.heads.append(head.decode())
            card = self.cards.get(head.split(b" ")[1].decode())
            if card is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a\r\n")
                writer.write(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(card), card))


@pytest.fixture
def a2a(stage: Stage) -> Stage:
    stage.contract(1, ServerProtocol.A2A)
    return stage


def get(stage: Stage, path: str = NEW, query: str = "") -> tuple[int, dict[str, str], bytes]:
    with stage.connect() as sock:
        sock.sendall(signed(f"{INVOCATIONS}{path}{query}", b"", method="GET", framed=False))
        return read_response(sock)


def refusal(stage: Stage, session: str = SESSION) -> tuple[int, str, str]:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        stage.client().get_agent_card(agentRuntimeArn=ARN, runtimeSessionId=session)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def test_boto3_gets_the_card_and_the_session_that_it_was_asked_in(a2a: Stage) -> None:
    card = {"name": "one", "url": URL, "skills": [{"id": "a"}]}
    agent = Agent({NEW: card})
    a2a.agent = agent
    answer = a2a.client().get_agent_card(agentRuntimeArn=ARN, runtimeSessionId=SESSION)
    assert (answer["agentCard"], answer["runtimeSessionId"], answer["statusCode"]) == (card, SESSION, 200)
    assert [key.session_id for key in a2a.warden.claims] == [SESSION]
    (head,) = agent.heads
    assert head.startswith(f"GET {NEW} HTTP/1.1\r\n")
    assert f"\r\n{SESSION_HEADER.lower()}: {SESSION}\r\n" in head
    assert "authorization" not in head


@pytest.mark.parametrize("asked", [NEW, OLD])
@pytest.mark.parametrize("has", [NEW, OLD])
def test_either_spelling_finds_a_card_of_either(a2a: Stage, asked: str, has: str) -> None:
    a2a.agent = Agent({has: {"name": "one"}})
    status, headers, body = get(a2a, asked)
    assert (status, json.loads(body)) == (200, {"name": "one"})
    assert headers["content-type"] == "application/json"
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    ("card", "reachable"),
    [
        ({"url": "http://localhost:8080/"}, {"url": URL}),
        ({"url": "http://0.0.0.0:8080"}, {"url": URL}),
        ({"url": "http://[::1]:8080/", "preferredTransport": "JSONRPC"}, {"url": URL, "preferredTransport": "JSONRPC"}),
        (
            {"additionalInterfaces": [{"url": "http://127.0.0.1:8080/", "transport": "JSONRPC"}, 1]},
            {"additionalInterfaces": [{"url": URL, "transport": "JSONRPC"}, 1]},
        ),
        (
            {"supportedInterfaces": [{"url": "http://127.8.8.8:8080/", "protocolBinding": "JSONRPC"}]},
            {"supportedInterfaces": [{"url": URL, "protocolBinding": "JSONRPC"}]},
        ),
        ({"url": "http://localhost:8080/", "preferredTransport": "GRPC"}, None),
        ({"url": "http://localhost:8080/other"}, None),
        ({"url": "http://localhost:9999/"}, None),
        ({"url": "http://localhost/"}, None),
        ({"url": "https://agent.example:8080/"}, None),
        ({"url": "http://localhost:8080/", "signatures": [{"protected": "a", "signature": "b"}]}, None),
        ({"url": "http://[oops:8080/"}, None),
        ({"url": 7, "supportedInterfaces": "none"}, None),
    ],
)
def test_an_address_that_only_the_agent_itself_can_reach_becomes_the_one_that_callers_can(
    a2a: Stage, card: dict[str, Any], reachable: dict[str, Any] | None
) -> None:
    sent = json.dumps(card, indent=1).encode()
    a2a.agent = Agent({NEW: sent})
    status, _, body = get(a2a)
    assert status == 200
    if reachable is None:
        assert body == sent, "byte for byte"
    else:
        assert json.loads(body) == reachable


def test_the_address_is_that_of_the_endpoint_and_of_the_path_that_is_configured(a2a: Stage) -> None:
    a2a.contract(1, ServerProtocol.A2A, path="/rpc")
    a2a.control.routes[ACCOUNT, RUNTIME_ID, "prod"] = 1
    a2a.agent = Agent({NEW: {"url": "http://localhost:8080/rpc"}})
    assert json.loads(get(a2a, query="?qualifier=prod")[2]) == {"url": f"{URL}?qualifier=prod"}


def test_what_goes_wrong_is_told_as_the_service_does(a2a: Stage) -> None:
    a2a.agent = Agent({})
    text = "Received error (404) from runtime. Please check your CloudWatch logs for more information."
    assert refusal(a2a) == (424, "RuntimeClientError", text)
    for body in (b"no", b"[]", b"[" * 100_000):
        a2a.agent = Agent({NEW: body})
        assert refusal(a2a) == (424, "RuntimeClientError", "The runtime's agent card is not a JSON object.")
    a2a.agent = Agent({NEW: b'{"name":"%b"}' % (b"x" * (1 << 20))})
    assert refusal(a2a)[:2] == (424, "RuntimeClientError")
    a2a.warden.faults = [errors.QuotaExceeded("no room")]
    assert refusal(a2a, "t" * 40) == (402, "ServiceQuotaExceededException", "no room")


def test_an_agent_that_does_not_answer_for_its_card_has_failed(stages: Any) -> None:
    stage = stages(first_byte_timeout_s=0.2)
    stage.contract(1, ServerProtocol.A2A)

    async def agent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    stage.agent = agent
    assert refusal(stage) == (424, "RuntimeClientError", "The runtime did not complete its answer within 0.2 s.")


def test_an_agent_that_speaks_another_protocol_has_no_card(stage: Stage) -> None:
    status, code, text = refusal(stage)
    assert (status, code) == (400, "ValidationException")
    assert "serverProtocol is HTTP" in text


def test_a_card_is_only_got_and_only_by_who_is_known(a2a: Stage) -> None:
    for path in (NEW, OLD):
        answer = a2a.exchange(f"POST {INVOCATIONS}{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nallow: GET\r\n" in answer
        answer = a2a.exchange(f"GET {INVOCATIONS}{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 ")
