"""MCP through a real Worker: what passes either way, and the one id that a client and a server's session share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from gateway_stage import (
    ACCOUNT,
    INVOCATIONS,
    RUNTIME_ID,
    SESSION,
    Stage,
    eventually,
    read_request,
    read_response,
    says,
    signed,
)

from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.bearers import Bearers
from freehold.warden import protocol as warden_protocol

BOTH = "application/json, text/event-stream"
SESSION_ID = "x-amzn-bedrock-agentcore-runtime-session-id"


def message(method: str, request_id: object = 1, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


@dataclass
class Server:
    """An MCP server, as far as its sessions go: it makes ids of its own when it is stateful, and knows no others."""

    stateful: bool
    made: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    chunked: bool = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            _, *lines = head.decode().strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            self.heads.append(headers)
            writer.write(self.answer(headers, json.loads(body)))
            await writer.drain()

    def answer(self, headers: dict[str, str], request: dict[str, object]) -> bytes:
        given = headers.get("mcp-session-id")
        named = b""
        if self.stateful and request["method"] == "initialize":
            if given is not None:
                return b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
            self.made.append(f"{len(self.made):032x}")
            named = f"Mcp-Session-Id: {self.made[-1]}\r\n".encode()
        elif self.stateful and given not in self.made:
            return b"HTTP/1.1 %s X\r\nContent-Length: 2\r\n\r\n{}" % (b"400" if given is None else b"404")
        result = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {}}).encode()
        begin = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + named
        if self.chunked:
            return begin + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(result), result)
        return begin + b"Content-Length: %d\r\n\r\n%b" % (len(result), result)


@pytest.fixture
def mcp(stage: Stage) -> Stage:
    stage.contract(1, ServerProtocol.MCP)
    return stage


@dataclass
class Told:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def session(self) -> str:
        """The one id, as it is told in both of its headers."""
        assert self.headers["mcp-session-id"] == self.headers[SESSION_ID]
        return self.headers["mcp-session-id"]

    @property
    def error(self) -> dict[str, object]:
        return json.loads(self.body)["error"]


def send(
    stage: Stage,
    body: bytes,
    session: str | None = None,
    *,
    runtime_session: str | None = None,
    **headers: str,
) -> Told:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Accept": BOTH, "Content-Type": "application/json", **named}
    if session is not None:
        named["Mcp-Session-Id"] = session
    with stage.connect() as sock:
        sock.sendall(signed(body=body, headers=named, session=runtime_session))
        return Told(*read_response(sock))


# -- what passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "path", "expected"),
    [
        (ServerProtocol.HTTP, None, "/invocations"),
        (ServerProtocol.MCP, None, "/mcp"),
        (ServerProtocol.A2A, None, "/"),
        (ServerProtocol.AGUI, None, "/invocations"),
        (ServerProtocol.MCP, "/a%2Fb/mcp/", "/a%2Fb/mcp/"),
        (ServerProtocol.AGUI, "/agent", "/agent"),
    ],
)
def test_invocations_go_where_the_protocol_or_the_configuration_says(
    stage: Stage, protocol: ServerProtocol, path: str | None, expected: str
) -> None:
    seen: list[bytes] = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(reader)
            seen.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    stage.agent = agent
    stage.contract(1, protocol, path=path)
    for given in (INVOCATIONS, f"{INVOCATIONS}/"):
        with stage.connect() as sock:
            sock.sendall(signed(given, message("x"), headers={"Accept": BOTH}))
            assert read_response(sock)[0] == 200
    assert {head.split(b"\r\n")[0].decode() for head in seen} == {f"POST {expected} HTTP/1.1"}


@pytest.mark.parametrize(
    ("protocol", "passing"),
    [
        (ServerProtocol.HTTP, set[str]()),
        (ServerProtocol.AGUI, set[str]()),
        (ServerProtocol.MCP, {"mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-region"}),
        (ServerProtocol.A2A, {"a2a-version", "a2a-extensions", "x-a2a-extensions"}),
    ],
)
def test_each_protocols_own_headers_reach_its_agents_and_no_others(
    stage: Stage, protocol: ServerProtocol, passing: set[str]
) -> None:
    server = Server(stateful=False)
    stage.agent = server
    stage.contract(1, protocol)
    names = ("Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Param-Region", "A2A-Version", "A2A-Extensions")
    headers = dict.fromkeys((*names, "X-A2A-Extensions", "Last-Event-ID", "X-Mcp-Method"), "2025-11-25")
    with stage.connect() as sock:
        sock.sendall(signed(body=message("x"), headers={"Accept": BOTH, **headers}))
        assert read_response(sock)[0] == 200
    assert {name for name, value in server.heads[0].items() if value == "2025-11-25"} == passing


@pytest.mark.parametrize("status", [200, 202, 400, 404, 405, 406, 415])
def test_statuses_of_the_transport_reach_an_mcp_client_with_their_bodies(mcp: Stage, status: int) -> None:
    mcp.agent = says(b"HTTP/1.1 %d X\r\nMcp-Protocol-Version: v\r\nContent-Length: 4\r\n\r\nbody" % status)
    told = send(mcp, message("tools/list"), SESSION)
    assert (told.status, told.body, told.session) == (status, b"body", SESSION)
    assert told.headers["mcp-protocol-version"] == "v"


def test_a_notification_is_answered_without_a_body(mcp: Stage) -> None:
    mcp.agent = says(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
    told = send(mcp, b'{"jsonrpc":"2.0","method":"notifications/initialized"}', SESSION)
    assert (told.status, told.body, told.headers["content-length"]) == (202, b"", "0")


def test_every_2xx_of_an_a2a_agent_passes_and_nothing_else(stage: Stage) -> None:
    stage.contract(1, ServerProtocol.A2A)
    for status, expected in ((201, 201), (202, 202), (400, 424), (404, 424), (405, 424)):
        stage.agent = says(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, close=True)
        with stage.connect() as sock:
            sock.sendall(signed(body=message("message/send"), session=f"session-{status}-" + "x" * 33))
            assert read_response(sock)[0] == expected


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("application/json, text/event-stream", True),
        ("text/event-stream,application/json;q=0.9", True),
        ("Application/JSON ; charset=utf-8, text/*", True),
        ("*/*", True),
        ("application/json", False),
        ("text/event-stream", False),
        ("application/json, text/event-stream;q=0", False),
        ("text/html", False),
    ],
)
def test_a_client_that_does_not_take_both_kinds_of_answers_is_not_acceptable(
    mcp: Stage, accept: str, taken: bool
) -> None:
    mcp.agent = Server(stateful=False)
    told = send(mcp, message("tools/list", "id\u2028"), SESSION, Accept=accept)
    if taken:
        assert told.status == 200
        return
    assert told.status == 406
    assert json.loads(told.body) == {
        "jsonrpc": "2.0",
        "id": "id\u2028",
        "error": {
            "code": -32011,
            "message": "Accept Header Error - MCP protocol requires Accept header: application/json, text/event-stream",
        },
    }
    assert mcp.warden.claims == [], "no session is started for it"


# -- sessions -------------------------------------------------------------------------------------------------------


def test_a_server_without_sessions_is_sent_the_id_that_its_client_gets(mcp: Stage) -> None:
    server = Server(stateful=False)
    mcp.agent = server
    opened = send(mcp, message("initialize"))
    assert re.fullmatch(r"[0-9a-f-]{36}", opened.session)
    assert send(mcp, message("tools/list"), opened.session).session == opened.session
    alone = send(mcp, message("tools/list"))
    assert alone.session != opened.session
    sent = [head.get("mcp-session-id") for head in server.heads]
    assert sent == [None, opened.session, alone.session]
    assert [key.session_id for key in mcp.warden.claims] == [opened.session, alone.session]


def test_a_server_with_sessions_and_its_client_each_have_an_id_of_the_same_session(mcp: Stage) -> None:
    server = Server(stateful=True)
    mcp.agent = server
    opened = send(mcp, message("initialize"))
    assert opened.status == 200
    assert opened.session not in server.made
    for _ in range(2):
        told = send(mcp, message("tools/list"), opened.session)
        assert (told.status, told.session) == (200, opened.session)
    assert [head.get("mcp-session-id") for head in server.heads] == [None, server.made[0], server.made[0]]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_the_answer_that_begins_a_session_arrives_whole_whatever_its_framing(mcp: Stage, version: str) -> None:
    mcp.agent = Server(stateful=True, chunked=True)
    headers = {"Accept": BOTH, "Connection": "close"}
    answer = mcp.exchange(signed(body=message("initialize"), headers=headers, session=None, version=version))
    result = b'{"jsonrpc": "2.0", "id": 1, "result": {}}'
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(result), result)
    assert answer.partition(b"\r\n\r\n")[2] == (chunked if version == "1.1" else result)


def test_two_clients_that_initialize_are_in_two_sandboxes(mcp: Stage) -> None:
    mcp.agent = Server(stateful=True)
    first, second = send(mcp, message("initialize")), send(mcp, message("initialize"))
    assert first.session != second.session
    assert {key.session_id for key in mcp.warden.claims} == {first.session, second.session}


@contextlib.contextmanager
def binding(mcp: Stage) -> Iterator[tuple[socket.socket, asyncio.Event]]:
    """A client that waits for its session to be bound, and what lets that happen."""
    asked, known = asyncio.Event(), asyncio.Event()

    async def before_bind() -> None:
        asked.set()
        await known.wait()

    mcp.warden.before_bind = before_bind
    mcp.agent = Server(stateful=True)
    with mcp.connect() as sock:
        sock.sendall(signed(body=message("initialize"), headers={"Accept": BOTH}, session=None))
        eventually(asked.is_set)
        yield sock, known


def test_no_client_has_its_id_before_the_warden_has_the_servers(mcp: Stage) -> None:
    with binding(mcp) as (sock, known):
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(10)
        mcp.call(known.set)
        assert read_response(sock)[0] == 200


def test_a_client_that_leaves_while_its_session_begins_costs_nothing(mcp: Stage) -> None:
    with binding(mcp) as (_sock, known):
        pass
    mcp.call(known.set)
    mcp.warden.before_bind = None
    assert send(mcp, message("initialize")).status == 200


def test_what_another_worker_has_bound_is_known_here(mcp: Stage) -> None:
    server = Server(stateful=True, made=["theirs"])
    mcp.agent = server
    assert send(mcp, message("tools/list"), SESSION).status == 404, "the server does not know it yet"
    (generation,) = mcp.warden.sessions.values()

    async def tell() -> None:
        for peer in mcp.warden.peers:
            await peer.call(warden_protocol.Bound(generation, "theirs"), timeout_s=10)

    mcp.run(tell())
    assert send(mcp, message("tools/list"), SESSION).status == 200
    assert server.heads[-1]["mcp-session-id"] == "theirs"


def test_a_worker_that_comes_later_is_told_what_the_session_is_bound_to(mcp: Stage) -> None:
    server = Server(stateful=True)
    mcp.agent = server
    opened = send(mcp, message("initialize"))
    # The link breaks as when a worker starts anew: all it knew of claims is gone.
    mcp.call(lambda: [peer.close() for peer in mcp.warden.peers])
    told = eventually(lambda: t if (t := send(mcp, message("tools/list"), opened.session)).status == 200 else None)
    assert told.session == opened.session
    assert server.heads[-1]["mcp-session-id"] == server.made[0]


def test_a_session_that_has_ended_is_not_found_until_its_client_initializes_again(mcp: Stage) -> None:
    mcp.agent = Server(stateful=True)
    opened = send(mcp, message("initialize"))
    (key,) = mcp.warden.sessions
    mcp.call(lambda: mcp.warden.end(warden_protocol.EndReason.IDLE_TIMEOUT))
    told = eventually(lambda: t if (t := send(mcp, message("tools/list", 7), opened.session)).status == 404 else None)
    assert json.loads(told.body)["id"] == 7
    assert told.error["code"] == -32004
    assert mcp.warden.sessions == {}, "nothing was started for it"
    again = send(mcp, message("initialize"), opened.session)
    assert (again.status, again.session) == (200, opened.session)
    assert mcp.warden.sessions.keys() == {key}
    assert send(mcp, message("tools/list"), opened.session).status == 200


def test_a_server_without_sessions_just_goes_on_in_new_compute(mcp: Stage) -> None:
    mcp.agent = Server(stateful=False)
    opened = send(mcp, message("initialize"))
    mcp.call(lambda: mcp.warden.end(warden_protocol.EndReason.IDLE_TIMEOUT))
    assert send(mcp, message("tools/list"), opened.session).status == 200


def test_a_runtime_session_id_selects_where_there_is_no_mcp_session(mcp: Stage) -> None:
    server = Server(stateful=True)
    mcp.agent = server
    opened = send(mcp, message("initialize"), runtime_session=SESSION)
    assert opened.session == SESSION
    assert send(mcp, message("tools/list"), runtime_session=SESSION).status == 200, "boto3 gives no other id"
    other = send(mcp, message("initialize"), runtime_session=SESSION)
    assert other.session != SESSION, "one that is taken is not taken over"
    assert send(mcp, message("tools/list"), other.session, runtime_session=SESSION).session == other.session
    assert len(server.made) == 2
    assert [head.get("mcp-session-id") for head in server.heads] == [None, server.made[0], None, server.made[1]]


def test_requests_of_versions_without_sessions_meet_in_one_of_their_caller_alone(mcp: Stage) -> None:
    mcp.agent = Server(stateful=False)
    modern = {"Mcp_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    first = send(mcp, message("tools/list"), **modern)
    assert send(mcp, message("tools/call"), **modern).session == first.session
    user = "X_Amzn_Bedrock_AgentCore_Runtime_User_Id"
    assert send(mcp, message("tools/list"), **modern, **{user: "someone"}).session != first.session
    assert send(mcp, message("tools/list"), runtime_session=SESSION, **modern).session == SESSION
    mcp.contract(2, ServerProtocol.MCP)
    mcp.control.routes[ACCOUNT, RUNTIME_ID, "DEFAULT"] = 2
    mcp.changed(runtime_ids=[RUNTIME_ID])
    assert send(mcp, message("tools/list"), **modern).session != first.session, "a new version is a new process"


def test_an_id_that_can_be_none_of_ours_is_refused_by_name(mcp: Stage) -> None:
    told = send(mcp, message("tools/list", 3), "short")
    assert (told.status, told.error["code"]) == (200, -32006)
    assert "mcpSessionId" in str(told.error["message"])
    assert json.loads(told.body)["id"] == 3


@pytest.mark.parametrize("in_two", [False, True])
def test_a_bearer_too_is_told_what_is_wrong_with_which_request(
    mcp: Stage, bearer: Callable[..., Told], in_two: bool
) -> None:
    told = bearer(message("tools/list", 3, x="y" * 3000 * in_two), lines=["Mcp-Method: " + "m" * 2000])
    assert (told.status, told.error["code"], json.loads(told.body)["id"]) == (200, -32006, 3)
    assert "mcpMethod" in str(told.error["message"])


@pytest.mark.parametrize("made", [b"x" * 1025, b"a b", b"\xc3\xa9"])
def test_a_server_whose_id_is_none_has_failed(mcp: Stage, made: bytes) -> None:
    mcp.agent = says(b"HTTP/1.1 200 OK\r\nMcp-Session-Id: %b\r\nContent-Length: 2\r\n\r\n{}" % made)
    told = send(mcp, message("initialize"))
    assert (told.status, told.error["code"]) == (200, -32010)


def test_several_requests_of_a_session_are_at_its_server_at_once(mcp: Stage) -> None:
    waiting: list[asyncio.StreamWriter] = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        waiting.append(writer)
        if len(waiting) == 3:
            for each in waiting:
                each.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read()

    mcp.agent = agent
    socks = [mcp.connect() for _ in range(3)]
    for sock in socks:
        sock.sendall(signed(body=message("tools/call"), headers={"Accept": BOTH, "Mcp-Session-Id": SESSION}))
    for sock in socks:
        with sock:
            assert read_response(sock)[0] == 200


def delete(stage: Stage, session: str | None, path: str = INVOCATIONS) -> Told:
    headers = {"Accept": BOTH} | ({} if session is None else {"Mcp-Session-Id": session})
    with stage.connect() as sock:
        sock.sendall(signed(path, b"", method="DELETE", headers=headers, session=None))
        return Told(*read_response(sock))


def test_a_client_ends_its_session_by_delete(mcp: Stage) -> None:
    mcp.agent = Server(stateful=True)
    opened = send(mcp, message("initialize"))
    ended = delete(mcp, opened.session)
    assert (ended.status, ended.body) == (200, b"")
    assert [key.session_id for key in mcp.warden.stopped] == [opened.session]
    assert send(mcp, message("tools/list"), opened.session).status == 404
    again = delete(mcp, opened.session)
    assert (again.status, again.error["code"]) == (404, -32004)


def test_delete_without_a_session_or_of_another_protocol_is_not_there(mcp: Stage) -> None:
    assert (delete(mcp, None).status, delete(mcp, None).headers["allow"]) == (405, "POST")
    mcp.contract(1, ServerProtocol.HTTP)
    mcp.changed(runtime_ids=[RUNTIME_ID])
    assert delete(mcp, SESSION).status == 405
    assert mcp.warden.stopped == []


def test_a_stranger_ends_nothing(mcp: Stage) -> None:
    answer = mcp.exchange(
        f"DELETE {INVOCATIONS} HTTP/1.1\r\nHost: a\r\nMcp-Session-Id: {SESSION}\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 403 ")


# -- bodies that stream ---------------------------------------------------------------------------------------------


@pytest.fixture
def bearer(mcp: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Sends a body as a bearer of a token does."""

    async def check(*_: object) -> Principal:
        return Principal(ACCOUNT, "arn", "jwt:one")

    monkeypatch.setattr(Bearers, "check", check)
    mcp.contract(1, ServerProtocol.MCP, takes_jwt=True)

    def send_body(body: bytes, *, chunked: bool = False, lines: Sequence[str] = ()) -> Told:
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        begin = [f"POST {INVOCATIONS} HTTP/1.1", "Host: x", "Authorization: Bearer t", f"Accept: {BOTH}", framing]
        with mcp.connect() as sock:
            sock.sendall("\r\n".join([*begin, *lines]).encode() + b"\r\n\r\n")
            for at in range(0, len(body), 1000):
                part = body[at : at + 1000]
                sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            sock.sendall(b"0\r\n\r\n" if chunked else b"")
            return Told(*read_response(sock))

    return send_body


@pytest.mark.parametrize("chunked", [False, True])
def test_a_bearers_initialize_opens_a_session_however_it_comes(
    mcp: Stage, bearer: Callable[..., Told], chunked: bool
) -> None:
    server = Server(stateful=True)
    mcp.agent = server
    told = bearer(message("initialize", note="x" * 3000), chunked=chunked)
    assert (told.status, server.heads[0].get("mcp-session-id")) == (200, None)
    assert told.session not in server.made


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
@pytest.mark.parametrize("last", [False, True])
def test_a_failures_id_is_that_of_the_request_however_large(
    mcp: Stage, bearer: Callable[..., Told], size: int, last: bool
) -> None:
    mcp.agent = says(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", close=True)
    parts = ['"id": "a\\"b"', '"method":"tools/call"', '"params":{"id":1,"x":"%s"}' % ("y" * size)]
    body = ('{"jsonrpc":"2.0",' + ", ".join(reversed(parts) if last else parts) + "}").encode()
    for told in (bearer(body), send_signed(mcp, body)):
        assert (told.status, told.error["code"]) == (200, -32010)
        assert json.loads(told.body)["id"] == 'a"b'


def send_signed(stage: Stage, body: bytes) -> Told:
    stage.contract(1, ServerProtocol.MCP)
    stage.changed(runtime_ids=[RUNTIME_ID])
    return send(stage, body, SESSION)
