"""The control plane's wire: the model's protocol, with the domain's failures."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from control_parts import put_zip
from control_server import WIRE, ControlServer

from freehold.aws import model
from freehold.control import errors, runtimes
from freehold.control.errors import UnknownOperation
from freehold.control.wire import Wire
from freehold.domain.errors import FieldProblem, ValidationFailed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path)
    put_zip(made.buckets)
    with made.run():
        yield made


def test_the_wire_of_this_botocore_has_all_that_freehold_does():
    assert Wire.load().route("PUT", b"/runtimes/").name == "CreateAgentRuntime"
    assert {
        WIRE.route(*at).name for at in (("GET", b"/runtimes/x/"), ("PUT", b"/runtimes/x"), ("POST", b"/runtimes"))
    } < (set(runtimes.OPERATIONS))


def test_a_botocore_that_lacks_an_operation_of_ours_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch):
    without = model.load("bedrock-agentcore-control", ["ListGateways"])
    monkeypatch.setattr(model, "load", lambda _: without)
    with pytest.raises(model.UnsupportedModel, match="CreateAgentRuntime"):
        Wire.load()


def test_an_unknown_path_and_a_wrong_method_are_told_apart():
    with pytest.raises(UnknownOperation) as unknown:
        WIRE.route("GET", b"/nothing")
    assert errors.to_wire(unknown.value).status == 404
    with pytest.raises(UnknownOperation) as wrong:
        WIRE.route("PATCH", b"/runtimes/")
    told = errors.to_wire(wrong.value)
    assert (told.status, told.headers) == (405, ((b"allow", b"POST, PUT"),))


def test_a_path_that_is_not_utf8_is_not_valid():
    with pytest.raises(ValidationFailed) as failed:
        WIRE.route("GET", b"/runtimes/%ff/")
    assert failed.value.reason == "CannotParse"


def test_what_can_not_be_parsed_and_what_is_not_allowed_have_their_reasons():
    routed = WIRE.route("PUT", b"/runtimes/")
    with pytest.raises(ValidationFailed) as failed:
        WIRE.parse(routed, b"", [], b'{"agentRuntimeName": 1}')
    assert failed.value.reason == "CannotParse"
    assert failed.value.fields == (FieldProblem("agentRuntimeName", "is not a string"),)
    with pytest.raises(ValidationFailed) as failed:
        WIRE.parse(routed, b"", [], b"{}")
    assert failed.value.reason == "FieldValidationFailed"
    assert [field.name for field in failed.value.fields] == ["agentRuntimeName", "agentRuntimeArtifact", "roleArn"]


def exchange(server: ControlServer, method: str, path: str, **more: Any) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(method, path, **more)
    return connection.getresponse()


def test_a_stranger_learns_that_a_method_is_wrong_and_no_more(server: ControlServer):
    answer = exchange(server, "PATCH", "/runtimes/")
    assert (answer.status, answer.getheader("allow")) == (405, "POST, PUT")
    assert answer.getheader("x-amzn-errortype") == "UnknownOperationException"
    answer = exchange(server, "PUT", "/runtimes/", body=b"{")
    assert (answer.status, answer.getheader("x-amzn-errortype")) == (403, "MissingAuthenticationTokenException")
    assert json.loads(answer.read()) == {"message": "Missing Authentication Token"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"agentRuntimeName": "not-a-name"}, "agentRuntimeName"),
        ({"clientToken": "short"}, "clientToken"),
        ({"lifecycleConfiguration": {"maxLifetime": 1}}, "lifecycleConfiguration.maxLifetime"),
        ({"environmentVariables": {"K": "v" * 5001}}, "environmentVariables"),
        ({"tags": {f"k{number}": "v" for number in range(51)}}, "tags"),
    ],
)
def test_the_models_constraints_hold_for_boto3_too(server: ControlServer, arguments: dict[str, Any], name: str):
    client = server.client()
    s3 = {"bucket": "code", "prefix": "agent.zip"}
    artifact = {"codeConfiguration": {"code": {"s3": s3}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}}
    good = {
        "agentRuntimeName": "agent",
        "agentRuntimeArtifact": artifact,
        "roleArn": "arn:aws:iam::111122223333:role/r",
    }
    with pytest.raises(client.exceptions.ValidationException) as refusal:
        client.create_agent_runtime(**{**good, **arguments})
    answer = refusal.value.response
    assert answer["reason"] == "FieldValidationFailed"
    assert [field["name"] for field in answer["fieldList"]] == [name]
    assert answer["Error"]["Message"].startswith("1 validation error detected: Value at ")


def test_a_listing_of_more_than_a_hundred_is_refused(server: ControlServer):
    client = server.client()
    for size in (0, 101):
        with pytest.raises(client.exceptions.ValidationException):
            client.list_agent_runtimes(maxResults=size)
    assert client.list_agent_runtimes(maxResults=100)["agentRuntimes"] == []


def test_every_reason_that_control_gives_is_one_of_the_models():
    reasons = model.load("bedrock-agentcore-control", ["CreateAgentRuntime"]).shapes["ValidationExceptionReason"].enum
    source = Path(errors.__file__).parent.parent
    given = {
        match[1]
        for room in ("control", "store", "domain", "aws")
        for path in (source / room).rglob("*.py")
        for match in re.finditer(r"reason(?::\s*str\s*)?[\"']?\s*[=:]\s*[\"'](\w+)[\"']", path.read_text())
    }
    assert {"CannotParse", "FieldValidationFailed", "IdempotentParameterMismatchException"} <= given <= set(reasons)
