"""Runtimes that take tokens, through a real Worker: the table of attacks and near misses, answers, owners, browsers."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import jwt_cases
import jwt_runtimes
import pytest
import structlog.testing
from gateway_stage import (
    ACCOUNT,
    PUBLIC_URL,
    REGION,
    SESSION,
    SESSION_HEADER,
    Stage,
    echo,
    echo_heads,
    read_response,
    signed,
)
from jwt_cases import ATTACKS, MISSING, NEAR_MISSES, OTHER_METHOD, Case
from jwt_tokens import ISSUER, NOW, b64, public_jwk
from web_socket_peers import WS, Client, accepting, tell_head, text, upgrade_headers
from web_socket_peers import echo as echo_frames

from freehold.auth import bearer
from freehold.control.protocol import Contract, KeySet, NoKeySet
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason

VERSIONS = {name: number for number, name in enumerate(jwt_cases.AUTHORIZERS, 10)}
SIGV4 = "agent-0123456789"
EXPOSED = "WWW-Authenticate"


def runtime_id(name: str) -> str:
    return f"{name}-0123456789"


def path_of(name: str, below: str = "invocations", query: str = "") -> str:
    arn = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{runtime_id(name)}"
    quoted = arn.replace(":", "%3A").replace("/", "%2F")
    return f"/runtimes/{quoted}/{below}" + (f"?{query}" if query else "")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One worker with all the runtimes of the table, at the table's instant."""
    directory = tmp_path_factory.mktemp("stage")
    with Stage(directory, now=lambda: NOW) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    """The worker, as if it had just come, and been told of nothing but what control knows now."""
    return reset(shared)


def reset(stage: Stage) -> Stage:
    control = stage.control
    for name, version in VERSIONS.items():
        control.routes[ACCOUNT, runtime_id(name), "DEFAULT"] = version
        judged_by = jwt_runtimes.authorizer(name, account=ACCOUNT, runtime_id=runtime_id(name))
        control.contracts[version] = Contract(
            version, ServerProtocol.HTTP, 8080, ["authorization"], authorizer=judged_by
        )
        control.key_sets[runtime_id(name)] = jwt_runtimes.key_set()
    stage.agent = echo
    stage.warden.version = 1
    stage.call(lambda: stage.warden.end(EndReason.STOPPED))
    stage.warden.claims.clear()
    control.lacking.clear()
    stage.changed(runtime_ids=[runtime_id(name) for name in VERSIONS], key_sets=[jwt_runtimes.key_set().name])
    return stage


Answer = tuple[int, dict[str, str], bytes]


def send(
    stage: Stage,
    name: str,
    headers: list[tuple[str, str]],
    *,
    method: str = "POST",
    below: str = "invocations",
    query: str = "",
    body: bytes = b"{}",
    session: str | None = SESSION,
) -> Answer:
    lines = [f"{method} {path_of(name, below, query)} HTTP/1.1", "Host: evil.example", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers]
    lines += [f"{SESSION_HEADER}: {session}"] if session else []
    with stage.connect() as sock:
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return read_response(sock)


def ask(stage: Stage, case: Case, **more: Any) -> Answer:
    return send(stage, case.runtime, case.headers(), query=case.query, **more)


def good(name: str = "clients", **claims: Any) -> list[tuple[str, str]]:
    return Case("", runtime=name, claims=claims).headers()


def sessions(stage: Stage) -> list[str]:
    """The owners of the sessions that were claimed."""
    return [key.owner for key in stage.warden.claims]


# -- the table ----------------------------------------------------------------------------------------------------


def test_a_good_token_is_let_in_and_any_attack_is_not(stage: Stage):
    wrong: list[str] = []
    for case in ATTACKS:
        stage.warden.claims.clear()
        status, _, body = ask(stage, case)
        if status != case.status or (case.says is not None and case.says not in body.decode()):
            wrong.append(f"{case.name}: {status} {body!r}")
        if stage.warden.claims:
            wrong.append(f"{case.name}: reached a session")
    for case in NEAR_MISSES:
        status, _, body = ask(stage, case)
        if status != 200:
            wrong.append(f"{case.name}: {status} {body!r}")
    assert wrong == []


def test_a_token_of_one_runtime_is_no_token_of_another_even_when_it_has_just_been_good(stage: Stage):
    for name in ("clients", "audience"):
        assert send(stage, name, good(name))[0] == 200
        assert send(stage, name, good(name))[0] == 200
    assert send(stage, "audience", good("clients"))[0] == 401
    assert send(stage, "clients", good("audience"))[0] == 401


# -- answers ------------------------------------------------------------------------------------------------------


def resource(name: str, below: str = "", qualifier: str = "DEFAULT") -> str:
    return f"{PUBLIC_URL}{path_of(name)}{below}?qualifier={qualifier}"


METADATA = "/.well-known/oauth-protected-resource"


def test_without_a_token_a_caller_is_told_where_to_get_one(stage: Stage):
    status, headers, body = send(stage, "clients", [])
    assert status == 401
    assert body == b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Missing Authentication Token"}}'
    assert headers["www-authenticate"] == f'Bearer resource_metadata="{resource("clients", METADATA)}"'
    assert headers["content-type"] == "application/json"
    assert headers["x-amzn-errortype"] == "UnauthorizedException"
    assert headers["x-amzn-requestid"]


def test_what_is_no_token_is_forbidden_without_a_challenge(stage: Stage):
    status, headers, body = send(stage, "clients", [("Authorization", "Bearer nonsense")])
    assert (status, body) == (403, b'{"message":"OAuth authorization failed: Failed to parse token"}')
    assert "www-authenticate" not in headers
    assert headers["x-amzn-errortype"] == "AccessDeniedException"


def test_a_claim_that_does_not_match_is_named_and_challenged(stage: Stage):
    status, headers, body = send(stage, "clients", good(client_id="other"))
    assert status == 401
    message = "Claim 'client_id' value mismatch with configuration."
    assert json.loads(body) == {"jsonrpc": "2.0", "error": {"code": -32001, "message": message}}
    assert headers["www-authenticate"].startswith("Bearer resource_metadata=")


def test_a_signature_is_another_method(stage: Stage):
    with stage.connect() as sock:
        sock.sendall(signed(path_of("clients")))
        status, headers, body = read_response(sock)
    assert status == 403
    assert OTHER_METHOD in json.loads(body)["message"]
    assert headers["x-amzn-errortype"] == "AccessDeniedException"
    assert "www-authenticate" not in headers


def test_a_token_for_a_runtime_that_takes_signatures_is_another_method(stage: Stage):
    stage.contract()
    for name in ("agent", "unknown"):
        status, headers, body = send(stage, name, good())
        assert (status, headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert OTHER_METHOD in json.loads(body)["message"]
        status, headers, body = send(stage, name, [])
        assert (status, json.loads(body)["message"]) == (403, MISSING)
        assert "www-authenticate" not in headers
        assert "access-control-allow-origin" not in headers


def advertise(stage: Stage, **more: Any) -> None:
    judged_by = jwt_runtimes.authorizer("scopes", account=ACCOUNT, runtime_id=runtime_id("scopes"), **more)
    version = VERSIONS["scopes"]
    stage.control.contracts[version] = Contract(version, ServerProtocol.HTTP, 8080, [], authorizer=judged_by)


def test_scopes_are_advertised_by_their_mapping(stage: Stage):
    challenge = send(stage, "scopes", [])[1]["www-authenticate"]
    assert challenge.endswith('", scope="agents/invoke agents:read"')
    advertise(stage, advertisedScopeMapping={"agents/invoke": "api://agents/Agents.Invoke"})
    stage.changed(runtime_ids=[runtime_id("scopes")])
    challenge = send(stage, "scopes", [])[1]["www-authenticate"]
    assert challenge.endswith('", scope="api://agents/Agents.Invoke agents:read"')
    document = json.loads(send(stage, "scopes", [], method="GET", below=f"invocations{METADATA}", body=b"")[2])
    assert document["scopes_supported"] == ["api://agents/Agents.Invoke", "agents:read"]
    assert send(stage, "scopes", good("scopes"))[0] == 200, "tokens are judged by the scopes themselves"


def test_anybody_may_read_where_tokens_come_from(stage: Stage):
    status, headers, body = send(stage, "clients", [], method="GET", below=f"invocations{METADATA}", body=b"")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"authorization_servers": [ISSUER], "resource": resource("clients")}


def test_the_metadata_is_of_the_endpoint_that_is_asked_for(stage: Stage):
    stage.control.routes[ACCOUNT, runtime_id("clients"), "prod"] = VERSIONS["clients"]
    below = f"invocations{METADATA}"
    body = send(stage, "clients", [], method="GET", below=below, query="qualifier=prod", body=b"")[2]
    assert json.loads(body)["resource"] == resource("clients", qualifier="prod")
    challenge = send(stage, "clients", [], query="qualifier=prod")[1]["www-authenticate"]
    assert f"{METADATA}?qualifier=prod" in challenge


@pytest.mark.parametrize("name", ["agent", "unknown"])
def test_a_runtime_without_tokens_has_no_metadata_as_one_that_is_not_there(stage: Stage, name: str):
    stage.contract()
    status, headers, _ = send(stage, name, [], method="GET", below=f"invocations{METADATA}", body=b"")
    assert (status, headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")


def test_metadata_is_read_and_not_posted(stage: Stage):
    status, headers, _ = send(stage, "clients", [], below=f"invocations{METADATA}")
    assert (status, headers["allow"]) == (405, "GET")


def test_an_ag_ui_client_is_told_of_a_refusal_in_an_event(stage: Stage):
    version = VERSIONS["clients"]
    judged_by = stage.control.contracts[version].authorizer
    stage.control.contracts[version] = Contract(version, ServerProtocol.AGUI, 8080, [], authorizer=judged_by)
    stage.changed(runtime_ids=[runtime_id("clients")])
    status, headers, body = send(stage, "clients", [])
    assert (status, headers["content-type"]) == (401, "text/event-stream")
    assert json.loads(body.removeprefix(b"data: ")) == {"type": "RUN_ERROR", "code": "UNAUTHORIZED", "message": MISSING}
    assert headers["www-authenticate"]
    status, _, body = send(stage, "clients", [("Authorization", "Bearer x")])
    assert (status, json.loads(body.removeprefix(b"data: "))["code"]) == (403, "ACCESS_DENIED")


def test_what_else_is_wrong_is_told_to_whoever_has_a_good_token_only(stage: Stage):
    assert send(stage, "clients", [], session="short")[0] == 401
    status, _, body = send(stage, "clients", good(), session="short")
    assert status == 400
    assert "runtimeSessionId" in json.loads(body)["message"]


# -- what reaches the agent ---------------------------------------------------------------------------------------


def test_a_token_reaches_the_agent_where_it_is_allowed_and_a_user_id_never(stage: Stage):
    stage.agent = echo_heads
    stage.warden.version = VERSIONS["clients"]
    headers = [*good(), ("X-Amzn-Bedrock-AgentCore-Runtime-User-Id", "somebody-else")]
    seen = send(stage, "clients", headers)[2].decode()
    assert f"authorization: {headers[0][1]}\r\n" in seen
    assert "somebody-else" not in seen
    version = VERSIONS["clients"]
    judged_by = stage.control.contracts[version].authorizer
    stage.control.contracts[version] = Contract(version, ServerProtocol.HTTP, 8080, [], authorizer=judged_by)
    stage.changed(runtime_ids=[runtime_id("clients")])
    assert "authorization" not in send(stage, "clients", headers)[2].decode()


def test_a_signature_never_reaches_an_agent_even_of_a_version_that_is_given_tokens(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    """A session may still run the version before: its contract counts for what is passed on."""
    monkeypatch.setattr(stage, "now", time.time)
    stage.agent = echo_heads
    stage.contract(1)
    stage.warden.version = VERSIONS["clients"]
    with stage.connect() as sock:
        sock.sendall(signed(path_of("agent")))
        status, _, seen = read_response(sock)
    assert status == 200
    assert b"AWS4-HMAC-SHA256" not in seen


# -- owners -------------------------------------------------------------------------------------------------------


def test_the_same_session_id_of_another_subject_is_another_session(stage: Stage):
    for subject in ("alice", "bob", "alice"):
        assert send(stage, "audience", good("audience", sub=subject))[0] == 200
    alice, bob = sessions(stage)
    assert alice != bob
    assert {key.session_id for key in stage.warden.claims} == {SESSION}
    assert {key.account for key in stage.warden.claims} == {ACCOUNT}


def test_a_session_is_stopped_by_its_owner_alone(stage: Stage):
    assert send(stage, "audience", good("audience", sub="alice"))[0] == 200
    stop = {"below": "stopruntimesession", "body": b""}
    status, headers, _ = send(stage, "audience", good("audience", sub="bob"), **stop)
    assert (status, headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert send(stage, "audience", [], **stop)[0] == 401
    assert send(stage, "audience", good("audience", sub="alice", iat=NOW - 6), **stop)[0] == 200


# -- WebSockets ---------------------------------------------------------------------------------------------------


def open_socket(stage: Stage, **handshake: str | None) -> Client:
    lines = [f"GET {path_of('clients', 'ws')} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in upgrade_headers(**handshake).items()]
    return Client(stage, "\r\n".join(lines).encode() + b"\r\n\r\n")


def test_a_page_opens_a_web_socket_with_its_token_among_the_subprotocols(stage: Stage):
    stage.agent = accepting(echo_frames)
    name, encoded = bearer.SUBPROTOCOL.decode(), b64(Case("").token().encode())
    with open_socket(stage, sec_websocket_protocol=f"{name}.{encoded}, {name}") as client:
        assert client.headers["sec-websocket-protocol"] == name
        client.send(text(b"hello"))
        assert client.frame().data == b"hello"
    with open_socket(stage, authorization=good()[0][1]) as client:
        assert "sec-websocket-protocol" not in client.headers


def test_an_agent_that_may_see_tokens_sees_that_of_a_page_too(stage: Stage):
    stage.warden.version = VERSIONS["clients"]
    stage.agent = accepting(tell_head)
    name, token = bearer.SUBPROTOCOL.decode(), Case("").token()
    with open_socket(stage, sec_websocket_protocol=f"{name}.{b64(token.encode())}, {name}") as client:
        told = bytes(client.frame().data)
    assert f"\r\nauthorization: Bearer {token}\r\n".encode() in told
    assert b"sec-websocket-protocol" not in told.lower()


def test_a_page_with_a_token_for_a_runtime_that_takes_signatures_is_told_so(stage: Stage):
    name, encoded = bearer.SUBPROTOCOL.decode(), b64(Case("").token().encode())
    lines = [f"GET {WS} HTTP/1.1", "Host: x"]
    told = upgrade_headers(sec_websocket_protocol=f"{name}.{encoded}, {name}")
    lines += [f"{header}: {value}" for header, value in told.items()]
    client = Client(stage, "\r\n".join(lines).encode() + b"\r\n\r\n")
    client.sock.close()
    assert client.status == 403
    assert OTHER_METHOD in json.loads(client.body)["message"]


@pytest.mark.parametrize(
    ("subprotocols", "status"),
    [(None, 401), ("{}.{bad}, {}", 401), ("{}.{good}", 403), ("{}.{good}, {}.{good}, {}", 403)],
)
def test_a_page_without_one_good_token_opens_no_web_socket(stage: Stage, subprotocols: str | None, status: int):
    stage.agent = accepting(echo_frames)
    name = bearer.SUBPROTOCOL.decode()
    tokens = {"good": Case("").token(), "bad": Case("", signer="rsa/stranger").token()}
    offered = subprotocols
    if offered is not None:
        offered = offered.replace("{}", name)
        for which, token in tokens.items():
            offered = offered.replace(f"{{{which}}}", b64(token.encode()))
    client = open_socket(stage, sec_websocket_protocol=offered)
    client.sock.close()
    assert client.status == status
    assert stage.warden.claims == []


# -- pages in browsers --------------------------------------------------------------------------------------------


def test_a_browser_may_ask_whether_a_page_may_call(stage: Stage):
    asked = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-amzn-bedrock-agentcore-runtime-session-id"),
    ]
    status, headers, body = send(stage, "clients", asked, method="OPTIONS", body=b"", session=None)
    assert (status, body) == (200, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "POST"
    assert headers["access-control-allow-headers"] == asked[2][1]
    assert headers["access-control-max-age"] == "172800"
    assert "access-control-allow-credentials" not in headers


def test_what_is_no_list_of_names_is_not_echoed_to_a_browser(stage: Stage):
    asked = [("Access-Control-Request-Headers", "a: b"), ("Access-Control-Request-Method", "P OST")]
    headers = send(stage, "clients", asked, method="OPTIONS", body=b"")[1]
    assert "access-control-allow-headers" not in headers
    assert headers["access-control-allow-methods"] == "POST"


@pytest.mark.parametrize("name", ["agent", "unknown"])
def test_pages_may_not_call_what_takes_signatures_or_is_not_there(stage: Stage, name: str):
    stage.contract()
    status, headers, body = send(stage, name, [("Origin", "https://app.example")], method="OPTIONS", body=b"")
    assert (status, json.loads(body)["message"]) == (403, MISSING)
    assert "access-control-allow-origin" not in headers


def test_every_answer_of_a_runtime_with_tokens_may_be_read_by_a_page(stage: Stage):
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\nAccess-Control-Allow-Origin: https://agent.example\r\n\r\n")

    below = f"invocations{METADATA}"
    answers = [
        send(stage, "clients", good()),
        send(stage, "clients", []),
        send(stage, "clients", good(client_id="x")),
        send(stage, "clients", [("Authorization", "Bearer x")]),
        send(stage, "clients", [("Authorization", "Basic x")]),
        send(stage, "clients", good(), session="short"),
        send(stage, "clients", good(), method="GET", body=b""),
        send(stage, "clients", good(), below="stopruntimesession"),
        send(stage, "clients", good(), below="stopruntimesession", session="n" * 40),
        send(stage, "clients", [], method="GET", below=below, body=b""),
        send(stage, "clients", [], method="PUT", below=below),
    ]
    stage.agent = broken
    answers.append(send(stage, "clients", good(), session="b" * 40))
    assert [status for status, _, _ in answers] == [200, 401, 401, 403, 403, 400, 405, 200, 404, 200, 405, 424]
    for status, headers, _ in answers:
        assert headers["access-control-allow-origin"] == "*", status
        assert EXPOSED in headers["access-control-expose-headers"], status


# -- keys and verdicts --------------------------------------------------------------------------------------------


def test_a_key_that_is_new_is_asked_for_once_and_taken_from_then_on(stage: Stage):
    rotated = Case("", header={"kid": "rsa/new"}, signer="rsa/new").headers()
    assert send(stage, "clients", good())[0] == 200
    newer = jwt_runtimes.key_set({"keys": [*jwt_cases.KEY_SET["keys"], public_jwk("rsa/new")]})
    stage.control.key_sets[runtime_id("clients")] = newer
    stage.control.lacking.clear()
    for _ in range(3):
        assert send(stage, "clients", rotated)[0] == 200
    assert stage.control.lacking == [jwt_runtimes.key_set().generation]
    assert send(stage, "clients", good())[0] == 200


def test_a_key_that_is_gone_lets_nobody_in_any_more_not_even_by_a_remembered_verdict(stage: Stage):
    assert send(stage, "clients", good())[0] == 200
    fewer = jwt_runtimes.key_set({"keys": [public_jwk("rsa-2")]})
    stage.control.key_sets[runtime_id("clients")] = fewer
    stage.changed(key_sets=[fewer.name])
    assert send(stage, "clients", good())[0] == 401


def test_a_new_configuration_is_what_counts_not_a_remembered_verdict(stage: Stage):
    assert send(stage, "clients", good())[0] == 200
    version = VERSIONS["clients"]
    judged_by = jwt_runtimes.authorizer(
        "clients", account=ACCOUNT, runtime_id=runtime_id("clients"), allowedClients=["other"]
    )
    stage.control.contracts[version] = Contract(version, ServerProtocol.HTTP, 8080, [], authorizer=judged_by)
    stage.changed(runtime_ids=[runtime_id("clients")])
    assert send(stage, "clients", good())[0] == 401


def test_without_keys_nobody_is_let_in(stage: Stage):
    stage.control.key_sets[runtime_id("clients")] = NoKeySet()
    status, headers, body = send(stage, "clients", good())
    assert (status, json.loads(body)["error"]["code"]) == (401, -32001)
    assert headers["www-authenticate"]
    below = f"invocations{METADATA}"
    assert send(stage, "clients", [], method="GET", below=below, body=b"")[0] == 503


def test_many_tokens_of_unknown_keys_are_few_questions(stage: Stage):
    known = stage.control.key_sets[runtime_id("clients")]
    assert isinstance(known, KeySet)
    stage.control.key_sets[runtime_id("clients")] = jwt_runtimes.key_set(renewal_in_s=10.0)
    for number in range(20):
        attack = Case("", header={"kid": f"unheard-of-{number}"}, signer="rsa/new").headers()
        assert send(stage, "clients", attack)[0] == 401
    # The one for the set itself, and none more: control has said that it would not look.
    assert stage.control.lacking == [None]


def test_the_log_names_the_check_and_holds_nothing_of_a_token(stage: Stage):
    refused = [
        Case("", claims={"exp": NOW - 60}),
        Case("", claims={"iss": "https://secret-issuer.example"}),
        Case("", claims={"client_id": "secret-client"}),
        Case("", signer="rsa/stranger"),
        Case("", header={"kid": "secret-kid"}),
        Case("", alter=lambda token: token[:100]),
    ]
    with structlog.testing.capture_logs() as captured:
        for case in refused:
            assert ask(stage, case)[0] in (401, 403)
        send(stage, "clients", [])
    told = [entry["checks"] for entry in captured if entry["event"] == "gateway.token_refused"]
    assert told == [
        ["exp is in the past"],
        ["iss is not the issuer of the discovery document"],
        ["client_id"],
        ["signature is wrong"],
        ["kid names no key of the issuer"],
        ["token does not have three parts"],
        ["token is missing"],
    ]
    whole = repr(captured)
    assert "secret" not in whole
    for case in refused:
        for word in re.findall(r"[\w-]{16,}", case.headers()[0][1]):
            assert word not in whole
