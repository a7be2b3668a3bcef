"""The operator API and the HTTP around both APIs, called with requests that botocore signs."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from control_parts import ACCOUNT, HERE, REGION, put_zip, stored
from control_server import ControlServer

from freehold.artifacts.base import S3Object
from freehold.artifacts.bucket_layout import VERSIONS
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.domain.errors import Unavailable
from freehold.domain.sessions import SessionKey, SessionState
from freehold.store.base import Scope
from freehold.warden.protocol import SessionInfo

BUCKETS = "/_freehold/v1/buckets"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path)
    put_zip(made.buckets)
    with made.run():
        yield made


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def code(self) -> str | None:
        return self.headers.get("x-amzn-errortype")

    def json(self) -> Any:
        return json.loads(self.body)


def send(
    server: ControlServer, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Answer:
    """Send exactly this."""
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        sent = {"host": host, "content-length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders()
        if body:
            connection.send(body)
        answer = Answer(connection.getresponse())
    finally:
        connection.close()
    assert answer.headers["x-amzn-requestid"]
    return answer


def signed(
    server: ControlServer,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    sent: bytes | None = None,
) -> Answer:
    """Sign `body`, send `sent` (or `body`)."""
    request = AWSRequest(method=method, url=server.url + target, data=body, headers=headers or {})
    credentials = Credentials(server.key.access_key_id, server.key.secret)
    botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
    return send(server, method, target, body if sent is None else sent, dict(request.headers.items()))


def put(server: ControlServer, target: str, body: bytes, *, sent: bytes | None = None) -> Answer:
    headers = {"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()}
    return signed(server, "PUT", target, body, headers, sent)


def objects(server: ControlServer) -> set[str]:
    """The objects, without the versions that are kept of them."""
    found = {path.relative_to(server.buckets) for path in server.buckets.rglob("*") if path.is_file()}
    return {str(path) for path in found if path.parts[0] != VERSIONS}


# -- uploads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3 * 1024 * 1024 + 7])
def test_an_upload_is_kept_byte_for_byte(server: ControlServer, size: int):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    answer = put(server, f"{BUCKETS}/my-code/deep/er/agent.zip", body)
    assert answer.status == 200
    digest = hashlib.sha256(body).hexdigest()
    said = answer.json()
    version_id = said.pop("versionId")
    assert said == {"bucket": "my-code", "key": "deep/er/agent.zip", "size": size, "sha256": digest}
    with LocalBuckets(server.buckets).open(S3Object("my-code", "deep/er/agent.zip", version_id)) as version:
        assert version.read() == body
    assert (server.buckets / "my-code/deep/er/agent.zip").read_bytes() == body
    assert objects(server) == {"code/agent.zip", "my-code/deep/er/agent.zip"}


def test_a_percent_encoded_key_is_decoded_once(server: ControlServer):
    assert put(server, f"{BUCKETS}/code/a%20b%2525/%C3%A4.zip", b"x").status == 200
    assert "code/a b%25/ä.zip" in objects(server)


def test_bytes_that_are_not_those_that_were_signed_are_not_kept(server: ControlServer):
    answer = put(server, f"{BUCKETS}/code/new.zip", b"signed", sent=b"seeded")
    assert (answer.status, answer.code) == (403, "InvalidSignatureException")
    assert objects(server) == {"code/agent.zip"}


def test_an_upload_without_a_hash_is_refused(server: ControlServer):
    answer = signed(server, "PUT", f"{BUCKETS}/code/new.zip", b"x", {})
    assert (answer.status, answer.code) == (400, "ValidationException")
    assert objects(server) == {"code/agent.zip"}


@pytest.mark.parametrize("claimed", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "00"])
def test_an_upload_that_is_signed_with_something_else_than_its_hash_is_refused(server: ControlServer, claimed: str):
    answer = signed(server, "PUT", f"{BUCKETS}/code/new.zip", b"x", {"X-Amz-Content-SHA256": claimed})
    assert (answer.status, answer.code) == (403, "InvalidSignatureException")
    assert "x-amz-content-sha256 must be the SHA-256 of the body" in answer.json()["message"]
    assert objects(server) == {"code/agent.zip"}


@pytest.mark.parametrize(
    "path",
    [
        "code/%2e%2e/x",
        "code/a%2f..%2f..%2fx",
        "..%2fx/y",
        "code/",
        "code/a%2f%2fb",
        "code/a%00b",
        "Code/a",
        ".uploads/a",
    ],
)
def test_a_key_that_leads_out_of_its_bucket_is_refused(server: ControlServer, path: str):
    before = objects(server)
    answer = put(server, f"{BUCKETS}/{path}", b"x")
    assert (answer.status, answer.code) in {(400, "ValidationException"), (404, "UnknownOperationException")}
    assert objects(server) == before


@pytest.mark.parametrize("path", ["code/../x", "code/./x", "code//x", "../x", "/x"])
def test_dots_and_empty_parts_in_the_raw_path_lead_nowhere(server: ControlServer, path: str):
    # Signers normalise such paths, so most of these are refused as wrongly signed already.
    assert put(server, f"{BUCKETS}/{path}", b"x").status in (400, 403, 404)
    assert objects(server) == {"code/agent.zip"}


def test_an_upload_beyond_the_limit_is_refused_from_its_length(server: ControlServer):
    claimed = {"X-Amz-Content-SHA256": "0" * 64}
    request = AWSRequest("PUT", f"{server.url}{BUCKETS}/code/big.zip", data=b"", headers=claimed)
    credentials = Credentials(server.key.access_key_id, server.key.secret)
    botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
    headers = {**dict(request.headers.items()), "content-length": str(250 * 1024 * 1024 + 1)}
    answer = send(server, "PUT", f"{BUCKETS}/code/big.zip", b"", headers)
    assert (answer.status, answer.code) == (400, "ValidationException")
    assert objects(server) == {"code/agent.zip"}


def test_a_stranger_uploads_nothing_and_learns_nothing(server: ControlServer):
    answer = send(server, "PUT", f"{BUCKETS}/code/new.zip", b"x")
    assert (answer.status, answer.code) == (403, "MissingAuthenticationTokenException")
    assert answer.json() == {"message": "Missing Authentication Token"}
    assert objects(server) == {"code/agent.zip"}


# -- what runs ----------------------------------------------------------------------------------------------------


def test_runtimes_are_listed_with_what_serves(server: ControlServer):
    server.preparer.gate = asyncio.Event()  # else the reconciler might be faster than we look
    key = stored(server.control.app.context.store)
    answer = signed(server, "GET", "/_freehold/v1/runtimes")
    assert answer.status == 200
    (line,) = answer.json()["runtimes"]
    assert (line["runtimeId"], line["name"], line["status"]) == (key.runtime_id, "agent", "CREATING")
    assert (line["latestVersion"], line["liveVersion"]) == (1, None)
    stored(server.control.app.context.store, "other")
    page = signed(server, "GET", "/_freehold/v1/runtimes?maxResults=1").json()
    rest = signed(server, "GET", f"/_freehold/v1/runtimes?nextToken={page['nextToken']}").json()
    assert [line["name"] for line in page["runtimes"] + rest["runtimes"]] == ["agent", "other"]
    assert "nextToken" not in rest


def session(generation: int, account: str = ACCOUNT) -> SessionInfo:
    key = SessionKey(account, "agent-0123456789", "DEFAULT", f"account:{account}", "s" * 33)
    return SessionInfo(generation, key, 1, SessionState.READY, 2, 10.5, 1.5)


def test_sessions_of_the_account_are_listed_page_by_page(server: ControlServer):
    server.warden.running = [session(1), session(2, "444455556666"), session(3), session(4)]
    first = signed(server, "GET", "/_freehold/v1/sessions?maxResults=2").json()
    assert [line["generation"] for line in first["sessions"]] == [1, 3]
    assert first["sessions"][0]["sessionId"] == "s" * 33
    assert first["sessions"][0]["idleSeconds"] == 1.5
    second = signed(server, "GET", f"/_freehold/v1/sessions?maxResults=2&after={first['nextAfter']}").json()
    assert [line["generation"] for line in second["sessions"]] == [4]
    assert "nextAfter" not in second


@pytest.mark.parametrize("query", ["maxResults=0", "maxResults=101", "maxResults=x", "maxResults=", "after=-1"])
def test_a_number_that_is_none_is_refused(server: ControlServer, query: str):
    answer = signed(server, "GET", f"/_freehold/v1/sessions?{query}")
    assert (answer.status, answer.code) == (400, "ValidationException")


def test_while_the_warden_is_away_sessions_are_unavailable(server: ControlServer):
    async def away(**_: object) -> list[SessionInfo]:
        raise Unavailable("the other process has gone")

    server.warden.sessions = away  # type: ignore[method-assign]
    answer = signed(server, "GET", "/_freehold/v1/sessions")
    assert (answer.status, answer.code) == (503, "ServiceUnavailableException")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_freehold/v1/nothing", 404),
        ("GET", "/_freehold/v1/", 404),
        ("GET", f"{BUCKETS}/code/agent.zip", 405),
        ("DELETE", "/_freehold/v1/runtimes", 405),
        ("PUT", "/_freehold/v1/sessions/1", 405),
        ("DELETE", "/_freehold/v1/sessions/ended", 405),
        ("GET", "/_freehold/v1/keys/AKIA/disable", 405),
        ("POST", "/_freehold/v1/logs", 405),
        ("GET", "/_freehold/v1/runtimes/a/b", 404),
    ],
)
def test_unknown_operator_endpoints_are_told_in_awss_shape(server: ControlServer, method: str, path: str, status: int):
    answer = signed(server, method, path)
    assert (answer.status, answer.code) == (status, "UnknownOperationException")
    assert answer.json()["message"]


# -- the HTTP around it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/nothing", "/runtimes/a/b/c/d/e", "/%00", "/runtimes/%ff%fe"])
def test_a_path_that_names_no_operation_is_unknown(server: ControlServer, path: str):
    answer = signed(server, "GET", path)
    assert answer.status in (400, 403, 404, 405)
    assert answer.code is not None


@pytest.mark.parametrize("method", ["GET", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_told_in_awss_shape(server: ControlServer, method: str):
    answer = signed(server, method, "/runtimes/")
    assert answer.status in (404, 405)
    assert answer.code == "UnknownOperationException"


@pytest.mark.parametrize(("method", "path"), [("POST", "/runtimes/"), ("GET", "/runtimes/agent-0123456789/")])
def test_who_does_not_sign_learns_nothing_whatever_they_ask(server: ControlServer, method: str, path: str):
    answer = send(server, method, path, b"{broken" if method == "POST" else b"")
    assert answer.status == 403
    assert answer.json() == {"message": "Missing Authentication Token"}
    bearer = send(server, method, path, headers={"authorization": "Bearer abc"})
    assert (bearer.status, bearer.code) == (403, "AccessDeniedException")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"\xff", b"null", b'{"agentRuntimeName": "\\ud800"}', b"[" * 5000]
)
def test_a_body_that_is_no_document_is_refused_not_a_fault(server: ControlServer, body: bytes):
    answer = signed(server, "PUT", "/runtimes/", body)
    assert (answer.status, answer.code) == (400, "ValidationException")


def test_a_body_beyond_the_limit_is_refused(server: ControlServer):
    answer = signed(server, "PUT", "/runtimes/", b'{"a": "' + b"x" * (1 << 20) + b'"}')
    assert (answer.status, answer.code) == (400, "ValidationException")
    assert "larger than the maximum" in answer.json()["message"]


def test_a_secret_in_an_environment_is_in_no_log(server: ControlServer, logs: list[Any]):
    runtime = {
        "agentRuntimeName": "agent",
        "roleArn": "arn:aws:iam::111122223333:role/r",
        "agentRuntimeArtifact": {
            "codeConfiguration": {
                "code": {"s3": {"bucket": "code", "prefix": "agent.zip"}},
                "runtime": "PYTHON_3_11",
                "entryPoint": ["main.py"],
            }
        },
        "environmentVariables": {"TOKEN": "very-secret-indeed"},
    }
    server.preparer.faults = [RuntimeError("broken")]
    answer = signed(server, "PUT", "/runtimes/", json.dumps(runtime).encode())
    assert answer.status == 202
    runtime_id = answer.json()["agentRuntimeId"]
    while signed(server, "GET", f"/runtimes/{runtime_id}/").json()["status"] != "READY":
        pass
    assert any(entry["event"] == "reconciler.step_failed" for entry in logs)
    assert "very-secret-indeed" not in repr(logs)


def test_another_account_sees_nothing_of_this_one(server: ControlServer):
    stored(server.control.app.context.store)
    server.warden.running = [session(1)]
    server.key = server.control.keys.issue(Scope("444455556666", HERE.region))
    assert signed(server, "GET", "/_freehold/v1/runtimes").json() == {"runtimes": []}
    assert signed(server, "GET", "/_freehold/v1/sessions").json() == {"sessions": []}
