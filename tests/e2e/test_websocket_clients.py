"""WebSockets of agents written with the SDK of AWS, opened by its helpers, by `websockets`, and by Node.js."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import boto3
import botocore.auth
import node_packages
import pytest
import websockets.exceptions
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from packages import bundle_of
from running_server import RunningServer, agent, session_id, wait_until
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.slow
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
CUSTOM = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Tenant"
WITHOUT = "from bedrock_agentcore.runtime import BedrockAgentCoreApp\nBedrockAgentCoreApp().run()\n"
"""An agent that has no WebSocket."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(workers=2, settings="") as made:
        yield made


@pytest.fixture(scope="module")
def artifact(server: RunningServer) -> dict[str, Any]:
    """One zip of the SDK and both agents."""
    return server.artifact({**bundle_of("bedrock-agentcore"), **agent("sockets"), "none.py": WITHOUT})


@pytest.fixture(scope="module")
def arn(server: RunningServer, artifact: dict[str, Any]) -> str:
    return server.deployed_from(
        artifact, "main.py", "HTTP", requestHeaderConfiguration={"requestHeaderAllowlist": ["X-Listed"]}
    )


@pytest.fixture(scope="module")
def sdk(server: RunningServer) -> AgentCoreRuntimeClient:
    found = server.exported
    keys = {"aws_access_key_id": found["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": found["AWS_SECRET_ACCESS_KEY"]}
    return AgentCoreRuntimeClient(session=boto3.Session(region_name=found["AWS_REGION"], **keys))


@contextlib.contextmanager
def opened(server: RunningServer, url: str, headers: dict[str, str] | None = None) -> Iterator[ClientConnection]:
    """A connection by a URL of AWS's, to this server: what the host's name means is all that is changed."""
    place = urlsplit(server.url)
    sock = socket.create_connection((place.hostname, place.port), 20)
    url = url.replace("wss://", "ws://")
    with connect(url, sock=sock, additional_headers=headers, open_timeout=90, proxy=None) as client:
        yield client


def asked(client: ClientConnection, **told: Any) -> Any:
    client.send(json.dumps(told))
    return json.loads(client.recv(timeout=30))


def test_the_sdks_signed_headers_open_a_connection_to_the_session_that_they_name(
    server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient
):
    session = session_id()
    url, headers = sdk.generate_ws_connection(arn, session_id=session, endpoint_name="DEFAULT")
    assert urlsplit(url).hostname == "bedrock-agentcore.us-east-1.amazonaws.com"
    with opened(server, url, headers | {"X-Listed": "yes", "X-Other": "no"}) as client:
        assert client.response is not None
        assert client.response.headers[SESSION] == session
        seen = asked(client, do="context")
        assert seen["session"] == session
        assert seen["query"] == {}
        assert seen["headers"]["x-listed"] == "yes"
        assert {"authorization", "x-amz-date", "x-other", "sec-websocket-extensions"}.isdisjoint(seen["headers"])
        client.send("ünïcode")
        assert client.recv(timeout=30) == "ünïcode"
        client.send(bytes(range(256)) * 256)
        assert client.recv(timeout=30) == (bytes(range(256)) * 256)[::-1]
    assert client.protocol.close_rcvd is not None
    assert client.protocol.close_rcvd.code == 1000
    answer = server.data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=b"{}")
    assert json.loads(answer["response"].read())["ended"] == [1000], "one process, and it heard the goodbye"


def test_the_sdks_presigned_urls_do_too_and_tell_the_agent_of_no_signature(
    server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient
):
    session = session_id()
    url = sdk.generate_presigned_url(arn, session_id=session, custom_headers={CUSTOM: "blue & green", "plain": "1"})
    with opened(server, url) as client:
        seen = asked(client, do="context")
        assert seen["session"] == session
        assert seen["query"] == {"plain": "1"}
        assert seen["headers"][CUSTOM.lower()] == "blue & green"
        assert not [name for name in seen["headers"] if name.startswith("x-amz-")]
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused, opened(server, url.replace("blue", "bleu")):
        pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.headers["x-amzn-ErrorType"] == "InvalidSignatureException"


def test_two_sockets_of_one_session_and_a_request_meet_in_one_process(
    server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient
):
    session = session_id()

    def open_one() -> contextlib.AbstractContextManager[ClientConnection]:
        return opened(server, *sdk.generate_ws_connection(arn, session_id=session))

    with open_one() as one, open_one() as two:
        process = asked(one, do="context")["pid"]
        assert asked(two, do="context")["pid"] == process
        for number in range(20):
            for client in (one, two):
                client.send(f"{number}")
                assert client.recv(timeout=30) == f"{number}"
        answer = server.data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=b"{}")
        assert json.loads(answer["response"].read())["pid"] == process


def test_what_breaks_the_services_limits_is_closed_with_its_codes(
    server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient
):
    session = session_id()
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send("x" * 65_537)
        assert closed(client) == (1009, "a frame has more than 65536 bytes")
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send(["x" * 60_000, "y" * 60_000])
        assert client.recv(timeout=30) == "x" * 60_000 + "y" * 60_000, "fragments may be a larger message"
        for _ in range(400):
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                client.send('{"do": "nothing"}')
        assert closed(client) == (1008, "more than 250 frames a second")
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send('{"do": "count", "to": 1000}')
        assert [client.recv(timeout=30) for _ in range(1000)] == [str(number) for number in range(1000)]


def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and reason that the server closes with."""
    with pytest.raises(websockets.exceptions.ConnectionClosed) as ended:
        while True:
            client.recv(timeout=30)
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code, ended.value.rcvd.reason


def test_the_ends_of_agents_and_sessions_are_told(server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient):
    session = session_id()
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send('{"do": "close", "code": 4321, "reason": "enough"}')
        assert closed(client) == (4321, "enough")
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send("hi")
        assert client.recv(timeout=30) == "hi"
        server.data.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)
        assert closed(client) == (1001, "the session ended: stopped by StopRuntimeSession")
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send('{"do": "exit"}')
        assert closed(client)[0] == 1011


def test_an_agent_without_a_websocket_is_told_of_as_its_own_failure(
    server: RunningServer, artifact: dict[str, Any], sdk: AgentCoreRuntimeClient
):
    arn = server.deployed_from(artifact, "none.py", "HTTP")
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        opened(server, *sdk.generate_ws_connection(arn)),
    ):
        pass
    answer = refused.value.response
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (424, "RuntimeClientError")
    assert "Received error (403) from runtime" in json.loads(answer.body or b"")["message"]


def presigned(server: RunningServer, path: str, **query: str) -> str:
    """A URL of this server that needs no headers."""
    found = server.exported
    request = AWSRequest("GET", f"{server.url}{path}?{urlencode(query)}", headers={"host": urlsplit(server.url).netloc})
    credentials = Credentials(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])
    botocore.auth.SigV4QueryAuth(credentials, "bedrock-agentcore", found["AWS_REGION"], expires=60).add_auth(request)
    return str(request.url).replace("http://", "ws://")


@pytest.mark.parametrize("plain", [True, False])
def test_nodes_own_websocket_opens_presigned_urls_with_arns_as_they_are(server: RunningServer, arn: str, plain: bool):
    session = session_id()
    url = presigned(server, f"/runtimes/{arn if plain else quote(arn, safe='')}/ws", **{SESSION: session})
    end = '{"do": "close", "code": 3000, "reason": "done"}'
    told = node_packages.answer_of("web_socket.mjs", {"url": url, "protocols": [], "send": ["one", "two", end]})
    assert told == {
        "messages": ["one", "two"],
        "protocol": "",
        "extensions": "",
        "code": 3000,
        "reason": "done",
        "wasClean": True,
    }


def test_a_reload_leaves_connections_open_and_a_stop_closes_them(
    server: RunningServer, arn: str, sdk: AgentCoreRuntimeClient
):
    session = session_id()
    with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as client:
        client.send("before")
        assert client.recv(timeout=30) == "before"
        assert server.config is not None
        assert server.process is not None
        known = len(server.log_text())
        server.config.write_text("[gateway]\nkeep_alive_timeout_s = 3.0\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "workers.replaced" in server.log_text()[known:], "new workers")
        client.send("after")
        assert client.recv(timeout=30) == "after"
        with opened(server, *sdk.generate_ws_connection(arn, session_id=session)) as newer:
            newer.send("new worker")
            assert newer.recv(timeout=30) == "new worker"
            server.process.send_signal(signal.SIGINT)
            assert closed(client) == (1001, "the server is restarting")
            assert closed(newer) == (1001, "the server is restarting")
    server.stop()
    lines = re.findall(r"operation=InvokeAgentRuntimeWithWebSocketStream .*", server.log_text())
    ended = [line for line in lines if f"session_id={session} " in line]
    assert len(ended) == 2
    for line in ended:
        assert "status=101" in line
        assert "close_code=1001" in line
        assert re.search(r"bytes_in=[1-9]\d* bytes_out=[1-9]\d* duration_ms=", line)
