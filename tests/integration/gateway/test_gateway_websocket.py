"""WebSockets through a real Worker: handshakes, frames both ways, and how connections end."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import websockets.sync.client
from gateway_stage import (
    ARN,
    INVOCATIONS,
    OTHER_KEY,
    RUNTIME_ID,
    SESSION,
    SESSION_HEADER,
    Stage,
    eventually,
    read_all,
    read_response,
    signed,
)
from web_socket_peers import (
    WS,
    AgentSide,
    Client,
    accepting,
    echo,
    goodbye,
    masked,
    opening,
    tell_head,
    text,
    upgrade_headers,
)
from websockets.frames import Close, Frame, Opcode
from websockets.utils import accept_key

from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason
from freehold.gateway.bounds import GatewayLimits

LIVE = b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage"), GatewayLimits(claim_linger_s=0.0)) as running:
        yield running


@pytest.fixture
def stage(faultless: None, shared: Stage) -> Stage:
    """One that other tests have used, and in which nothing runs any more."""
    eventually(lambda: not shared.warden.held)
    shared.warden.claims.clear()
    shared.warden.released.clear()
    shared.connections = 0
    return shared


@pytest.fixture
def sockets(stage: Stage) -> Stage:
    """A stage whose agent echoes frames."""
    stage.agent = accepting(echo)
    return stage


def refused(stage: Stage, request: bytes) -> tuple[int, str, str]:
    """Status, code and message of a handshake that is not answered with 101. The connection ends."""
    with stage.connect() as sock:
        sock.sendall(request)
        status, headers, body = read_response(sock)
        assert headers["connection"] == "close"
        assert read_all(sock) == b""
    return status, headers["x-amzn-errortype"], json.loads(body)["message"]


# -- handshakes -----------------------------------------------------------------------------------------------------


def test_a_client_of_websockets_talks_to_the_agent_and_closes(sockets: Stage) -> None:
    lines = opening().decode().split("\r\n")[1:]
    told = dict(line.split(": ", 1) for line in lines if line)
    signed_headers = {name: told[name] for name in ("X-Amz-Date", "Authorization", SESSION_HEADER)}
    with websockets.sync.client.connect(
        f"ws://127.0.0.1:2673{WS}", sock=sockets.connect(), additional_headers=signed_headers, proxy=None
    ) as client:
        assert client.response is not None
        assert client.response.headers[SESSION_HEADER] == SESSION
        assert client.response.headers["x-amzn-requestid"]
        assert client.response.headers["x-amzn-trace-id"]
        assert client.protocol.extensions == [], "compression is offered and not taken"
        for message in ("hello", "ünïcode", b"\x00\xff", "x" * 65_536, ""):
            client.send(message)
            assert client.recv(timeout=10) == message
        client.send(["frag", "men", "ted"])
        assert client.recv(timeout=10) == "fragmented"
        assert client.ping(b"are you there").wait(10)
    assert (client.protocol.close_rcvd, client.protocol.close_rcvd_then_sent) == (Close(1000, ""), False)
    assert sockets.warden.claims[0].session_id == SESSION


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"upgrade": None}, 426, "Upgrade: websocket"),
        ({"upgrade": "h2c"}, 426, "Upgrade: websocket"),
        ({"connection": None}, 400, "Connection: Upgrade"),
        ({"connection": "keep-alive"}, 400, "Connection: Upgrade"),
        ({"sec_websocket_version": None}, 426, "version 13"),
        ({"sec_websocket_version": "12"}, 426, "version 13"),
        ({"sec_websocket_version": "13, 12"}, 426, "version 13"),
        ({"sec_websocket_key": None}, 400, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": base64.b64encode(b"x" * 15).decode()}, 400, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": base64.b64encode(b"x" * 17).decode()}, 400, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": "!" * 24}, 400, "Sec-WebSocket-Key"),
    ],
)
def test_what_is_no_handshake_is_refused_and_told_why(
    sockets: Stage, changed: dict[str, str | None], status: int, said: str
) -> None:
    with sockets.connect() as sock:
        sock.sendall(opening(handshake=upgrade_headers(**changed)) + LIVE)
        answered, headers, body = read_response(sock)
        assert read_all(sock) == b"", "what was sent for a WebSocket is never read as a request"
    assert answered == status
    assert headers["x-amzn-errortype"] == "ValidationException"
    assert said in json.loads(body)["message"]
    if status == 426:
        assert (headers["upgrade"], headers["sec-websocket-version"]) == ("websocket", "13")
    assert sockets.warden.claims == []


def test_a_handshake_has_no_body_is_http_1_1_and_is_a_get(sockets: Stage) -> None:
    assert refused(sockets, opening(more={"Content-Length": "3"}) + b"abc")[0] == 400
    assert refused(sockets, opening(more={"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n")[0] == 400
    assert refused(sockets, opening(version="1.0"))[0] == 426
    with sockets.connect() as sock:
        sock.sendall(opening(method="POST"))
        status, headers, _ = read_response(sock)
    assert (status, headers["allow"]) == (405, "GET")
    assert sockets.warden.claims == []


def test_headers_that_come_twice_from_the_sdk_count_once(sockets: Stage) -> None:
    first = upgrade_headers()
    request = opening(handshake=first).removesuffix(b"\r\n")
    for name, value in upgrade_headers().items():
        request += f"{name}: {value}\r\n".encode()
    with Client(sockets, request + b"\r\n") as client:
        assert client.headers["sec-websocket-accept"] == accept_key(first["Sec-WebSocket-Key"])
    assert refused(sockets, request + b"Sec-WebSocket-Version: 12\r\n\r\n")[0] == 426
    assert refused(sockets, request + b"Sec-WebSocket-Key: x\r\n\r\n")[0] == 400


def test_names_in_the_handshakes_headers_are_members_of_lists_in_any_case(sockets: Stage) -> None:
    told = upgrade_headers(upgrade="h2c, WebSocket", connection="keep-alive, UPGRADE")
    with Client(sockets, opening(handshake=told)) as client:
        assert client.said(b"hi") == b"hi"


@pytest.mark.parametrize(
    "path",
    [
        f"/runtimes/{ARN}/ws",
        f"/runtimes/{ARN.replace(':', '%3A')}/ws",
        f"/runtimes/{ARN.replace('/', '%2f')}/ws",
        f"/runtimes/{RUNTIME_ID}/ws?accountId=111122223333",
        f"{WS}?qualifier=DEFAULT",
    ],
)
def test_the_runtime_may_be_named_plainly_too(sockets: Stage, path: str) -> None:
    with Client(sockets, opening(path)) as client:
        assert client.said(b"hi") == b"hi"


@pytest.mark.parametrize("path", [f"/runtimes/x/{ARN}/ws", f"/runtimes/{ARN}/x/ws", f"/runtimes/{ARN}/invocations"])
def test_other_paths_with_a_plain_arn_are_not_the_data_planes(sockets: Stage, path: str) -> None:
    with sockets.connect() as sock:
        sock.sendall(opening(path))
        assert read_response(sock)[2] == b"control"


def test_who_may_not_is_told_as_on_http_whatever_the_agent_speaks(stages: Callable[..., Stage]) -> None:
    sockets = stages()
    sockets.contract(1, ServerProtocol.AGUI)
    tampered = opening().replace(b"Signature=", b"Signature=0")
    assert refused(sockets, tampered)[:2] == (403, "InvalidSignatureException")
    unsigned = "\r\n".join(
        [f"GET {WS} HTTP/1.1", "Host: a", *[f"{name}: {value}" for name, value in upgrade_headers().items()], "", ""]
    )
    assert refused(sockets, unsigned.encode())[:2] == (403, "MissingAuthenticationTokenException")
    assert refused(sockets, opening(f"{WS}?qualifier=none"))[:2] == (404, "ResourceNotFoundException")
    assert refused(sockets, opening(key=OTHER_KEY))[:2] == (404, "ResourceNotFoundException")
    assert refused(sockets, opening(session="short"))[:2] == (400, "ValidationException")
    assert sockets.warden.claims == []


def test_what_the_warden_says_is_told_before_the_upgrade(sockets: Stage) -> None:
    for fault, status, code in (
        (errors.QuotaExceeded("full"), 402, "ServiceQuotaExceededException"),
        (errors.RetryableConflict("Session operation in progress, please retry"), 409, "RetryableConflictException"),
        (errors.StartFailed("did not start"), 424, "RuntimeClientError"),
        (errors.Unavailable("away"), 503, "ServiceUnavailableException"),
    ):
        sockets.warden.faults.append(fault)
        assert refused(sockets, opening())[:2] == (status, code)


def test_agents_of_protocols_without_websockets_are_named(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.contract(1, ServerProtocol.MCP)
    status, code, message = refused(stage, opening())
    assert (status, code) != (101, "")
    assert "MCP" in message


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret", "Received error (403) from runtime."),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "Received error (404) from runtime."),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "Received error (500) from runtime."),
        (b"HTTP/1.1 302 Go\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "Received error (302) from runtime."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "did not open the WebSocket"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "other than a WebSocket"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "broke off"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            "did not prove",
        ),
        (b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "broke off"),
        (b"nonsense\r\n\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
def test_an_agent_that_does_not_open_is_the_agents_failure_and_its_words_stay_here(
    stage: Stage, answer: bytes, said: str
) -> None:
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    stage.agent = agent
    status, code, message = refused(stage, opening())
    assert (status, code) == (424, "RuntimeClientError")
    assert said in message
    assert "secret" not in message
    eventually(lambda: stage.warden.released)


@pytest.mark.parametrize("header", [b"Sec-WebSocket-Protocol: chat\r\n", b"Sec-WebSocket-Extensions: x\r\n"])
def test_an_agent_that_chooses_what_was_not_offered_is_refused(stage: Stage, header: bytes) -> None:
    stage.agent = accepting(echo, header)
    assert refused(stage, opening())[:2] == (424, "RuntimeClientError")


def test_an_agent_that_is_silent_is_given_up(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_handshake_timeout_s=0.2)

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    stage.agent = silent
    status, code, message = refused(stage, opening())
    assert (status, code) == (424, "RuntimeClientError")
    assert "in time" in message


def head_of(client: Client) -> tuple[str, dict[str, str]]:
    """The first line and the headers of the agent's handshake, which it tells first."""
    first, *lines = bytes(client.frame().data).decode("latin-1").rstrip("\r\n").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines)


def test_the_agent_is_asked_with_a_key_of_our_own_and_nothing_of_the_callers_credentials(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    stage.agent = accepting(tell_head)
    stage.contract(1, ServerProtocol.HTTP, "x-tenant")
    told = upgrade_headers()
    more = {
        "Sec-WebSocket-Extensions": "permessage-deflate",
        "Sec-WebSocket-Protocol": "chat",
        "X-Tenant": "blue",
        "X-Other": "no",
        "Origin": "https://example.com",
        "Cookie": "a=b",
    }
    with Client(stage, opening(f"{WS}?a=b%20c&qualifier=DEFAULT&d&X-Amz-Foo=1", handshake=told, more=more)) as client:
        first, headers = head_of(client)
        assert "sec-websocket-protocol" not in client.headers
        assert "sec-websocket-extensions" not in client.headers
        request_id = client.headers["x-amzn-requestid"]
    assert first == "GET /ws?a=b%20c&d HTTP/1.1"
    assert headers.pop("sec-websocket-key") != told["Sec-WebSocket-Key"]
    assert headers.pop("x-amzn-trace-id")
    assert headers.pop("traceparent")
    assert headers == {
        "host": "127.0.0.1:8080",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        SESSION_HEADER.lower(): SESSION,
        "x-amzn-bedrock-agentcore-runtime-request-id": request_id,
        "x-tenant": "blue",
    }


def test_custom_query_parameters_are_headers_in_lower_case_for_the_agent(stage: Stage) -> None:
    stage.agent = accepting(tell_head)
    prefix = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-"
    path = f"{WS}?{prefix}TestHeader=a%20b+c%3D&x=1&{prefix.lower()}other=%C3%BC"
    with Client(stage, opening(path)) as client:
        first, headers = head_of(client)
    assert first == "GET /ws?x=1 HTTP/1.1"
    assert headers[f"{prefix.lower()}testheader"] == "a b c="
    assert headers[f"{prefix.lower()}other"].encode("latin-1") == "ü".encode()


@pytest.mark.parametrize(
    "query",
    [
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A=b%0d%0aX-Evil:%201",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A=%00",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A%0d%0aX=1",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A%20B=1",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-=1",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A=1&X-Amzn-Bedrock-AgentCore-Runtime-Custom-a=1",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A=" + "x" * 4097,
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-" + "a" * 300 + "=1",
        f"{SESSION_HEADER}={SESSION}&{SESSION_HEADER}={SESSION}",
        f"{SESSION_HEADER}={'t' * 40}",
        f"{SESSION_HEADER}=short",
        f"{SESSION_HEADER}=",
    ],
)
def test_query_parameters_that_make_no_header_are_refused(sockets: Stage, query: str) -> None:
    status, code, message = refused(sockets, opening(f"{WS}?{query}"))
    assert (status, code) == (400, "ValidationException")
    assert "\r" not in message
    assert sockets.warden.claims == []


def test_a_custom_header_given_in_the_query_and_as_one_is_refused(sockets: Stage) -> None:
    name = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-A"
    assert refused(sockets, opening(f"{WS}?{name}=1", more={name: "2"}))[0] == 400


def test_the_session_is_named_by_header_or_query_or_made(stage: Stage) -> None:
    stage.agent = accepting(tell_head)
    other = "q" * 40
    with Client(stage, opening(f"{WS}?{SESSION_HEADER}={other}", session=None)) as client:
        assert client.headers[SESSION_HEADER.lower()] == other
        assert head_of(client)[1][SESSION_HEADER.lower()] == other
    with Client(stage, opening(f"{WS}?{SESSION_HEADER.lower()}={SESSION}")) as client:
        assert client.headers[SESSION_HEADER.lower()] == SESSION
    with Client(stage, opening(session=None)) as client:
        made = client.headers[SESSION_HEADER.lower()]
        assert head_of(client)[1][SESSION_HEADER.lower()] == made
    assert [key.session_id for key in stage.warden.claims] == [other, SESSION, made]
    assert len(made) >= 33


def test_requests_before_a_handshake_are_answered_on_the_same_connection(sockets: Stage) -> None:
    with sockets.connect() as sock:
        sock.sendall(LIVE)
        assert read_response(sock)[0] == 200
        sock.sendall(opening() + text(b"early") + text(b"bird"))
        status, headers, _ = read_response(sock)
        assert (status, headers["upgrade"], headers["connection"]) == (101, "websocket", "Upgrade")
        assert sock.recv(1) == b"\x81"


def test_a_handshake_joins_a_session_that_answers_requests_meanwhile(stage: Stage) -> None:
    stage.agent = both
    with Client(stage) as one, Client(stage) as two, stage.connect() as sock:
        sock.sendall(signed(INVOCATIONS, b"body"))
        assert read_response(sock)[2] == b"body"
        assert (one.said(b"1"), two.said(b"2"), one.said(b"3")) == (b"1", b"2", b"3")
        # An idle connection is left to requests: an agent may be about to close it.
        with Client(stage) as three:
            assert three.said(b"4") == b"4"
        sock.sendall(signed(INVOCATIONS, b"again"))
        assert read_response(sock)[2] == b"again"
        assert len(stage.warden.claims) == 1
        assert stage.connections == 4
    assert eventually(lambda: stage.warden.released)[0].requests == 5


async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes requests, and frames once asked to switch."""
    head = await reader.readuntil(b"\r\n\r\n")
    again = asyncio.StreamReader()
    again.feed_data(head)
    if head.startswith(b"GET"):
        await accepting(echo)(_Rest(again, reader), writer)  # pyright: ignore[reportArgumentType]
        return
    while True:
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body))
        head = await reader.readuntil(b"\r\n\r\n")


class _Rest:
    """A reader whose first head has been read."""

    def __init__(self, first: asyncio.StreamReader, then: asyncio.StreamReader) -> None:
        self._first = first
        self._then = then

    async def readuntil(self, mark: bytes) -> bytes:
        return await self._first.readuntil(mark)

    async def readexactly(self, count: int) -> bytes:
        return await self._then.readexactly(count)


# -- frames ---------------------------------------------------------------------------------------------------------


def test_frames_pass_as_they_are_in_any_pieces(sockets: Stage) -> None:
    sent = [
        masked(Opcode.TEXT, b"a" * 3, fin=False),
        masked(Opcode.PING, b"ping"),
        masked(Opcode.CONT, b"b" * 300, fin=False),
        masked(Opcode.CONT, b""),
        masked(Opcode.BINARY, bytes(range(256)) * 256),
        masked(Opcode.PONG, b"unasked"),
    ]
    with Client(sockets) as client:
        data = b"".join(sent)
        for start in range(0, 700, 3):
            client.send(data[start : start + 3])
        client.send(data[702:])
        back = [client.frame() for _ in sent]
    assert [(f.opcode, f.fin, len(f.data)) for f in back] == [
        (Opcode.TEXT, False, 3),
        (Opcode.PONG, True, 4),
        (Opcode.CONT, False, 300),
        (Opcode.CONT, True, 0),
        (Opcode.BINARY, True, 65536),
        (Opcode.PONG, True, 7),
    ]


def test_an_agents_frames_are_bounded_neither_in_size_nor_in_rate(stage: Stage) -> None:
    async def lavish(side: AgentSide) -> None:
        await side.say(b"x" * 3_000_000)
        for number in range(2000):
            await side.say(b"%d" % number)
        await echo(side)

    stage.agent = accepting(lavish)
    with Client(stage) as client:
        assert len(client.frame().data) == 3_000_000
        assert [int(client.frame().data) for _ in range(2000)] == list(range(2000))
        assert client.said(b"thanks") == b"thanks"


@pytest.mark.parametrize(
    ("bad", "code", "reason"),
    [
        (masked(Opcode.BINARY, b"x" * 65_537), 1009, "a frame has more than 65536 bytes"),
        (Frame(Opcode.TEXT, b"plain").serialize(mask=False), 1002, "must be masked"),
        (b"\xc1\x80abcd", 1002, "reserved bit"),
        (b"\x83\x80abcd", 1002, "opcode"),
        (b"\x80\x80abcd", 1002, "goes on that has not begun"),
        (b"\x09\x80abcd", 1002, "control frame is fragmented"),
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", 1002, "code that may not be sent"),
        (b"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1007, "not UTF-8"),
    ],
)
def test_a_client_that_breaks_a_rule_is_told_which_and_the_agent_that_it_has_gone(
    stage: Stage, bad: bytes, code: int, reason: str
) -> None:
    seen: list[Frame] = []
    ended: list[bool] = []

    async def watching(side: AgentSide) -> None:
        seen.append(await side.frame())
        seen.append(await side.frame())
        ended.append(await side.ended())

    stage.agent = accepting(watching)
    with Client(stage) as client:
        client.send(text(b"fine") + bad + text(b"after"))
        told = client.closed()
        assert told[0] == code
        assert reason in told[1]
    eventually(lambda: ended)
    assert ended == [True]
    assert bytes(seen[0].data) == b"fine"
    assert Close.parse(seen[1].data).code == 1001
    assert eventually(lambda: stage.warden.released)


def test_more_frames_than_a_second_allows_close_the_connection(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_frames_per_s=20)
    stage.agent = accepting(echo)
    with Client(stage) as client:
        client.send(b"".join(text(b"%02d" % number) for number in range(20)))
        assert [int(client.frame().data) for _ in range(20)] == list(range(20))
        client.send(b"".join(text(b"more") for _ in range(20)))
        while (frame := client.frame()).opcode is Opcode.TEXT:
            pass
        assert Close.parse(frame.data) == Close(1008, "more than 20 frames a second")


def test_a_connection_ends_when_it_was_open_for_as_long_as_it_may(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_timeout_s=0.3)
    stage.agent = accepting(echo)
    with Client(stage) as client:
        assert client.said(b"hi") == b"hi"
        assert client.closed() == (1008, "the connection was open for 0.3 s")


def test_a_frame_of_the_agent_that_is_under_way_is_finished_before_the_connection_is_closed(
    stages: Callable[..., Stage],
) -> None:
    stage = stages()
    go_on = threading.Event()
    whole = Frame(Opcode.BINARY, b"x" * 1000).serialize(mask=False)

    async def slow(side: AgentSide) -> None:
        await side.send(whole[:500])
        await asyncio.to_thread(go_on.wait, 10)
        await side.send(whole[500:] + whole)
        await side.ended()

    stage.agent = accepting(slow)
    with Client(stage) as client:
        assert client.exactly(500) == whole[:500]
        stage.ask_to_stop()
        eventually(lambda: not_listening(stage))
        client.send(text(b"nobody reads this any more"))
        go_on.set()
        assert client.exactly(len(whole) - 500) == whole[500:]
        assert client.closed() == (1001, "the server is restarting")
    stage.stop()


def test_a_frame_that_does_not_end_does_not_keep_a_connection(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_timeout_s=0.1, web_socket_close_timeout_s=0.1, claim_linger_s=0.0)

    async def stuck(side: AgentSide) -> None:
        await side.send(Frame(Opcode.BINARY, b"x" * 1000).serialize(mask=False)[:500])
        await side.ended()

    stage.agent = accepting(stuck)
    with Client(stage) as client:
        client.exactly(500)
        assert read_all(client.sock) == b"", "broken off: half a frame is not ended with a Close frame"
    eventually(lambda: stage.warden.released)


def not_listening(stage: Stage) -> bool:
    try:
        stage.connect().close()
    except ConnectionError:
        return True  # refused, or reset: it waited to be taken when the last of the listening socket went
    return False


# -- ends -----------------------------------------------------------------------------------------------------------


def test_either_side_closes_and_both_hear_its_code(stage: Stage) -> None:
    heard: list[Close] = []

    async def agent(side: AgentSide) -> None:
        frame = await side.frame()
        if frame.opcode is Opcode.CLOSE:
            heard.append(Close.parse(frame.data))
            await side.close(heard[-1].code, heard[-1].reason)
            return
        await side.close(3001, "had enough")
        heard.append(Close.parse((await side.frame()).data))

    stage.agent = accepting(agent)
    with Client(stage) as client:
        client.send(goodbye(4000, "bye"))
        assert client.closed() == (4000, "bye")
    with Client(stage) as client:
        client.send(text(b"go on"))
        frame = client.frame()
        assert Close.parse(frame.data) == Close(3001, "had enough")
        client.send(goodbye(3001))
        assert read_all(client.sock) == b""
    eventually(lambda: len(heard) == 2)
    assert heard == [Close(4000, "bye"), Close(3001, "")]


def test_an_agent_that_vanishes_closes_with_1011(stage: Stage) -> None:
    async def leaves(side: AgentSide) -> None:
        await side.frame()

    stage.agent = accepting(leaves)
    with Client(stage) as client:
        client.send(text(b"hi"))
        assert client.closed() == (1011, "the agent closed the connection")


def test_an_agent_that_vanishes_in_the_middle_of_a_frame_breaks_the_connection_off(stage: Stage) -> None:
    async def leaves(side: AgentSide) -> None:
        await side.send(Frame(Opcode.TEXT, b"x" * 100).serialize(mask=False)[:50])

    stage.agent = accepting(leaves)
    with Client(stage) as client, pytest.raises(ConnectionError):
        client.frame()


def test_an_agent_that_speaks_something_else_closes_with_1011_and_is_told(stage: Stage) -> None:
    told: list[Close] = []

    async def masks(side: AgentSide) -> None:
        await side.say(b"good")
        await side.send(masked(Opcode.TEXT, b"bad"))
        told.append(Close.parse((await side.frame()).data))

    stage.agent = accepting(masks)
    with Client(stage) as client:
        assert client.frame().data == b"good"
        assert client.closed()[0] == 1011
    eventually(lambda: told)
    assert told[0].code == 1002


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (EndReason.STOPPED, 1001),
        (EndReason.MAX_LIFETIME, 1001),
        (EndReason.RUNTIME_DELETED, 1001),
        (EndReason.AGENT_EXITED, 1011),
    ],
)
def test_the_end_of_the_session_is_told(sockets: Stage, reason: EndReason, code: int) -> None:
    with Client(sockets) as client:
        assert client.said(b"hi") == b"hi"
        sockets.call(lambda: sockets.warden.end(reason))
        assert client.closed() == (code, f"the session ended: {reason.value}")


def test_a_client_that_vanishes_takes_the_agents_connection_with_it(stage: Stage) -> None:
    ended: list[bool] = []

    async def agent(side: AgentSide) -> None:
        await side.frame()
        ended.append(await side.ended())

    stage.agent = accepting(agent)
    with Client(stage) as client:
        client.send(text(b"hi"))
    eventually(lambda: ended)
    assert ended == [True], "no Close frame is made up for a client that sent none"
    with Client(stage) as client:
        client.send(text(b"hi"))
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    eventually(lambda: len(ended) == 2)
    eventually(lambda: stage.warden.released)


def test_an_agent_that_does_not_answer_a_goodbye_is_left(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_close_timeout_s=0.2, claim_linger_s=0.0)
    gone = threading.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def handle(_side: AgentSide) -> None:
            await writer.wait_closed()

        try:
            await accepting(handle)(reader, writer)
        finally:
            gone.set()

    stage.agent = deaf
    with Client(stage) as client:
        client.send(goodbye(4321))
        assert client.closed()[0] == 4321
    eventually(lambda: stage.warden.released)


def test_a_client_that_does_not_answer_a_goodbye_is_left(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_close_timeout_s=0.2, linger_timeout_s=0.2, claim_linger_s=0.0)

    async def leaves(side: AgentSide) -> None:
        await side.close(1000)
        await side.ended()

    stage.agent = accepting(leaves)
    with Client(stage) as client:
        assert client.closed()[0] == 1000
        eventually(lambda: stage.warden.released)


def test_a_worker_that_stops_closes_with_1001(stages: Callable[..., Stage]) -> None:
    stage = stages()
    stage.agent = accepting(echo)
    with Client(stage) as client:
        assert client.said(b"hi") == b"hi"
        stage.ask_to_stop()
        assert client.closed() == (1001, "the server is restarting")
    stage.stop()


def test_a_session_is_in_flight_while_a_websocket_is_open(stages: Callable[..., Stage]) -> None:
    stage = stages(claim_linger_s=0.0)
    stage.agent = accepting(echo)
    with Client(stage) as one, Client(stage) as two:
        one.send(goodbye())
        one.closed()
        assert two.said(b"hi") == b"hi"
        assert stage.warden.released == []
    eventually(lambda: stage.warden.released)


# -- backpressure ---------------------------------------------------------------------------------------------------


def test_an_agent_that_takes_nothing_stops_its_client_and_loses_nothing(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_frames_per_s=1e6)
    go_on = threading.Event()
    counted: list[int] = []

    async def reluctant(side: AgentSide) -> None:
        await asyncio.to_thread(go_on.wait, 10)
        for _ in range(1000):
            counted.append(len((await side.frame()).data))
        await side.say(b"all")
        await echo(side)

    stage.agent = accepting(reluctant)
    frame = masked(Opcode.BINARY, b"x" * 65_536)
    with Client(stage) as client:
        client.sock.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000 * len(frame):
                sent += client.sock.send(frame[sent % len(frame) :])
        assert sent < 900 * len(frame), "the rest is held back at the client"
        client.sock.settimeout(10)
        go_on.set()
        while sent < 1000 * len(frame):
            sent += client.sock.send(frame[sent % len(frame) :])
        assert client.frame().data == b"all"
    assert counted == [65_536] * 1000


def test_a_client_that_vanishes_while_the_agent_takes_nothing_is_noticed(stages: Callable[..., Stage]) -> None:
    stage = stages(web_socket_frames_per_s=1e6, web_socket_close_timeout_s=0.1, claim_linger_s=0.0)

    async def stuck(side: AgentSide) -> None:
        await asyncio.Event().wait()

    stage.agent = accepting(stuck)
    frame = masked(Opcode.BINARY, b"x" * 65_536)
    with Client(stage) as client:
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while True:
                client.sock.sendall(frame)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    eventually(lambda: stage.warden.released)


def test_a_client_that_takes_nothing_stops_its_agent_and_is_left(stages: Callable[..., Stage]) -> None:
    stage = stages(slow_reader_timeout_s=0.5, web_socket_close_timeout_s=0.1, claim_linger_s=0.0)
    said: list[float] = []

    async def pours(side: AgentSide) -> None:
        while True:
            await side.say(b"x" * 65_536)
            said.append(time.monotonic())

    stage.agent = accepting(pours)
    with Client(stage, receive_buffer=4096):
        held_back = eventually(lambda: said and time.monotonic() - said[-1] > 0.2 and len(said))
        eventually(lambda: stage.warden.released)
    assert held_back < 1000
