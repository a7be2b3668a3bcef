"""Service models as plain data: complete, small, and refused when they say something new."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from aws_parts import CONTROL, DATA, SERVICES, service
from botocore.loaders import create_loader

from freehold.aws import model, model_files
from freehold.aws.model import Service, UnsupportedModel
from freehold.aws.router import Router

DATA_PLANE = ["InvokeAgentRuntime", "StopRuntimeSession", "InvokeAgentRuntimeCommand", "GetAgentCard"]


def raw(name: str) -> dict[str, Any]:
    return json.loads(json.dumps(create_loader().load_service_model(name, "service-2")))


@pytest.mark.parametrize("name", SERVICES)
def test_every_operation_of_the_model_is_compiled(name: str):
    of = service(name)
    assert set(of.operations) == set(raw(name)["operations"])
    assert of.left_out == {}
    assert of.signing_name == "bedrock-agentcore"
    Router(of)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_survives_the_wire(name: str):
    of = service(name)
    assert Service.from_data(msgspec.msgpack.decode(msgspec.msgpack.encode(of.to_data()))) == of
    assert Service.from_data(json.loads(json.dumps(of.to_data()))) == of


def test_the_data_planes_operations_are_small():
    of = model.load(DATA, DATA_PLANE)
    assert list(of.operations) == DATA_PLANE
    assert len(msgspec.msgpack.encode(of.to_data())) < 100_000
    assert service(DATA).subset(DATA_PLANE) == of


def test_shapes_that_refer_to_themselves_are_compiled():
    of = service(CONTROL)
    recursive = of.shapes["SchemaDefinition"]
    assert recursive.members["items"].shape == "SchemaDefinition"


def test_constraints_are_those_of_the_model():
    shapes = service(CONTROL).shapes
    name = shapes["AgentRuntimeName"]
    assert (name.type, name.pattern) == ("string", "[a-zA-Z][a-zA-Z0-9_]{0,47}")
    assert shapes["AgentRuntimeArtifact"].union
    assert shapes["CreateAgentRuntimeRequest"].required == ["agentRuntimeName", "agentRuntimeArtifact", "roleArn"]
    assert shapes["CreateAgentRuntimeRequest"].members["clientToken"].idempotency_token
    assert shapes["EnvironmentVariablesMap"].sensitive
    assert service(CONTROL).operations["CreateAgentRuntime"].status == 202
    session = service(DATA).shapes["InvokeAgentRuntimeRequest"].members["runtimeSessionId"]
    assert (session.location, session.wire_name) == ("header", "x-amzn-bedrock-agentcore-runtime-session-id")


def test_an_operation_that_botocore_lacks_is_refused():
    with pytest.raises(UnsupportedModel, match="NoSuchThing"):
        model.load(CONTROL, ["NoSuchThing"])


def unknown_shape_trait(document: dict[str, Any]) -> None:
    document["shapes"]["AgentRuntimeName"]["uniqueItems"] = True


def unknown_member_trait(document: dict[str, Any]) -> None:
    document["shapes"]["CreateAgentRuntimeRequest"]["members"]["agentRuntimeName"]["jsonvalue"] = True


def unknown_type(document: dict[str, Any]) -> None:
    document["shapes"]["AgentRuntimeName"]["type"] = "bigDecimal"


def unknown_location(document: dict[str, Any]) -> None:
    document["shapes"]["CreateAgentRuntimeRequest"]["members"]["agentRuntimeName"]["location"] = "headers"


def list_in_a_header(document: dict[str, Any]) -> None:
    document["shapes"]["CreateAgentRuntimeRequest"]["members"]["allowedPorts"]["location"] = "header"


def query_in_a_path(document: dict[str, Any]) -> None:
    document["operations"]["CreateAgentRuntime"]["http"]["requestUri"] = "/runtimes/?new"


@pytest.mark.parametrize(
    "change",
    [unknown_shape_trait, unknown_member_trait, unknown_type, unknown_location, list_in_a_header, query_in_a_path],
)
def test_what_the_model_says_anew_takes_out_the_operations_that_need_it(change: Any):
    document = raw(CONTROL)
    change(document)
    with pytest.raises(UnsupportedModel):
        model.compile_model(CONTROL, document, ["CreateAgentRuntime"])
    of = model.compile_model(CONTROL, document)
    assert "CreateAgentRuntime" in of.left_out
    assert "ListGateways" in of.operations


def test_another_protocol_is_refused():
    document = raw(CONTROL)
    document["metadata"]["protocol"] = "query"
    with pytest.raises(UnsupportedModel, match="query"):
        model.compile_model(CONTROL, document)


def test_the_modules_of_the_data_path_bring_no_botocore():
    program = (
        "import sys\n"
        "from freehold.aws import model, parse, patterns, router, serialize, sigv4, timestamps, validate\n"
        "model.load('bedrock-agentcore-control')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('botocore', 'boto3')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [*SERVICES, "secretsmanager"])
def test_the_installed_model_is_read_as_botocore_reads_it(name: str):
    """The last has something beside it that is to be merged."""
    assert model_files.read(name) == raw(name)


def test_a_service_that_botocore_does_not_have_is_named():
    with pytest.raises(UnsupportedModel, match="no service bedrock-agentcore-nonsense"):
        model.load("bedrock-agentcore-nonsense")
