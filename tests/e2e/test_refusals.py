"""Bad input on both planes: an AWS-shaped error at once, and nothing left behind."""

from __future__ import annotations

import datetime
import http.client
import io
import json
import uuid
import zipfile
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from botocore.exceptions import ClientError
from running_server import ONE_WORKER, ROLE, RunningServer, agent, make_zip

LIMIT = 100_000_000


@pytest.fixture(scope="module")
def probe(server: RunningServer) -> str:
    return server.deployed(f"probe_{uuid.uuid4().hex[:8]}", agent("probe"))


@pytest.fixture(autouse=True)
def nothing_left(server: RunningServer) -> Any:
    sessions, artifacts = set(server.sandboxes()), artifacts_of(server)
    yield
    assert set(server.sandboxes()) == sessions
    assert artifacts_of(server) == artifacts


def artifacts_of(server: RunningServer) -> set[str]:
    directory = server.data_dir / "artifacts"
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


class Signed:
    """Sends raw requests, signed by botocore as of any instant."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.found = server.exported

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        age_s: int = 0,
        secret: str | None = None,
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        request = botocore.awsrequest.AWSRequest(
            method=method, url=self.server.url + path, data=body, headers=headers or {}
        )
        credentials = botocore.credentials.Credentials(
            self.found["AWS_ACCESS_KEY_ID"], secret or self.found["AWS_SECRET_ACCESS_KEY"]
        )
        signer = botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", self.found["AWS_REGION"])
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
        sign_as_of(then, signer, request)
        return self.raw(method, path, body, dict(request.headers.items()))

    def raw(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        address = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, json.loads(data or b"{}")


def sign_as_of(then: datetime.datetime, signer: Any, request: Any) -> None:
    """What `add_auth` does, at another instant than now."""
    request.context["timestamp"] = then.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(request, signer.signature(text, request))


@pytest.fixture(scope="module")
def signed(server: RunningServer) -> Signed:
    return Signed(server)


def assert_error(answer: tuple[int, dict[str, str], dict[str, Any]], status: int, code: str) -> str:
    got, headers, body = answer
    assert (got, headers.get("x-amzn-errortype")) == (status, code), body
    assert headers["x-amzn-requestid"]
    assert headers["content-type"] == "application/json"
    return body["message"]


def invocations(arn: str) -> str:
    return f"/runtimes/{quote(arn, safe='')}/invocations"


PLANES = pytest.mark.parametrize("plane", ["control", "data"])


def send_to(plane: str, signed: Signed, arn: str, **how: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    if plane == "control":
        return signed.send("POST", "/runtimes/", **how)
    return signed.send("POST", invocations(arn), b"{}", **how)


@PLANES
def test_a_wrong_signature_is_refused(plane: str, signed: Signed, probe: str):
    answer = send_to(plane, signed, probe, secret="not it")
    message = assert_error(answer, 403, "InvalidSignatureException")
    assert "signature we calculated does not match" in message


@PLANES
@pytest.mark.parametrize("age_s", [3600, -3600])
def test_a_date_far_from_now_is_refused(plane: str, age_s: int, signed: Signed, probe: str):
    message = assert_error(send_to(plane, signed, probe, age_s=age_s), 403, "InvalidSignatureException")
    assert message.startswith("Signature expired" if age_s > 0 else "Signature not yet current")


@PLANES
def test_an_unsigned_request_is_refused(plane: str, signed: Signed, probe: str):
    path = "/runtimes/" if plane == "control" else invocations(probe)
    assert_error(signed.raw("POST", path, b"{}", {}), 403, "MissingAuthenticationTokenException")


def test_an_unsigned_caller_learns_nothing_of_which_runtimes_exist(signed: Signed, probe: str):
    known = signed.raw("POST", invocations(probe), b"{}", {})
    unknown = signed.raw("POST", invocations(probe[:-3] + "xyz"), b"{}", {})
    assert (known[0], known[2]) == (unknown[0], unknown[2])


def test_an_unknown_operation_is_told(signed: Signed):
    assert_error(signed.send("GET", "/no/such/thing"), 404, "UnknownOperationException")


def test_an_unknown_runtime_is_told_on_both_planes(server: RunningServer, probe: str):
    arn = probe[:-10] + "0123456789"
    with pytest.raises(ClientError) as refused:
        server.data.invoke_agent_runtime(agentRuntimeArn=arn, payload=b"{}")
    error = refused.value.response["Error"]
    assert error["Code"] == "ResourceNotFoundException"
    assert error["Message"] == f"No endpoint or agent found with qualifier 'DEFAULT' for agent '{arn}'"
    with pytest.raises(ClientError) as refused:
        server.control.get_agent_runtime(agentRuntimeId=arn.rpartition("/")[2])
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"


@pytest.mark.parametrize("session", ["short", "a" * 32, "-" + "a" * 40, "a" * 257, "a/" * 20, "a b" * 20])
def test_a_session_id_out_of_form_is_refused(signed: Signed, probe: str, session: str):
    headers = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": session}
    message = assert_error(signed.send("POST", invocations(probe), b"{}", headers), 400, "ValidationException")
    assert "runtimeSessionId" in message


def test_a_payload_one_byte_too_large_is_refused(server: RunningServer, probe: str):
    with pytest.raises(ClientError) as refused:
        server.data.invoke_agent_runtime(agentRuntimeArn=probe, payload=b"x" * (LIMIT + 1))
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_bad_input_to_create_names_the_field_and_the_constraint(signed: Signed):
    body = json.dumps({"agentRuntimeName": "no-hyphens", "roleArn": ROLE, "agentRuntimeArtifact": {}}).encode()
    got, headers, answer = signed.send("PUT", "/runtimes/", body, {"Content-Type": "application/json"})
    assert (got, headers["x-amzn-errortype"]) == (400, "ValidationException")
    assert "agentRuntimeName" in answer["message"]
    assert "[a-zA-Z][a-zA-Z0-9_]{0,47}" in answer["message"]
    assert {field["name"] for field in answer["fieldList"]} >= {"agentRuntimeName"}


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"', b"null", b"{" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(signed: Signed, body: bytes):
    answer = signed.send("PUT", "/runtimes/", body, {"Content-Type": "application/json"})
    assert_error(answer, 400, "ValidationException")


def traversal() -> bytes:
    return make_zip({"main.py": "", "../../../escaped.py": "x"})


def absolute() -> bytes:
    return make_zip({"main.py": "", "/tmp/freehold-escaped.py": "x"})


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", "")
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("broken", make_zip({"main.py": "x" * 1000})[:-40], "not a ZIP file"),
        ("nozip", b"this is no zip", "not a ZIP file"),
        ("empty", b"", "not a ZIP file"),
        ("traversal", traversal(), "escaped.py"),
        ("absolute", absolute(), "escaped.py"),
        ("link", link(), "link"),
        ("noentry", make_zip({"other.py": ""}), "entrypoint could not be found"),
    ],
)
def test_a_bad_zip_fails_the_runtime_with_a_reason(server: RunningServer, name: str, data: bytes, reason: str):
    made = server.control.create_agent_runtime(
        agentRuntimeName=f"{name}_{uuid.uuid4().hex[:8]}", agentRuntimeArtifact=server.artifact(data), roleArn=ROLE
    )
    found = server.until_settled(made["agentRuntimeId"])
    assert found["status"] == "CREATE_FAILED"
    assert reason in found["failureReason"]
    assert list(server.data_dir.rglob("*escaped*")) == []
    with pytest.raises(ClientError) as refused:
        server.data.invoke_agent_runtime(agentRuntimeArn=made["agentRuntimeArn"], payload=b"{}")
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"
    server.control.delete_agent_runtime(agentRuntimeId=made["agentRuntimeId"])


@pytest.mark.parametrize("key", ["../../keys/master.key", "/etc/passwd", "missing.zip", "a/../../b"])
def test_an_object_outside_of_the_bucket_is_never_read(server: RunningServer, key: str):
    artifact = server.artifact(agent("probe"))
    artifact["codeConfiguration"]["code"]["s3"]["prefix"] = key
    with pytest.raises(ClientError) as refused:
        server.control.create_agent_runtime(
            agentRuntimeName=f"outside_{uuid.uuid4().hex[:8]}", agentRuntimeArtifact=artifact, roleArn=ROLE
        )
    assert refused.value.response["Error"]["Code"] == "ValidationException"


@ONE_WORKER
def test_a_second_server_of_the_same_data_directory_refuses_to_start(server: RunningServer):
    import subprocess

    from running_server import FREEHOLD

    done = subprocess.run(
        [FREEHOLD, "up", "--port", "0", "--data-dir", server.data_dir], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "another Freehold server uses the data directory" in done.stderr
