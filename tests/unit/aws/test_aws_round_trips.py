"""Every operation of both services, with botocore's serializer and parser on the other side."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from typing import Any

import botocore.session
import pytest
from aws_parts import Maker, operations, service
from botocore.awsrequest import HeadersDict, create_request_object, prepare_request_dict
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from freehold.aws.parse import Parser
from freehold.aws.router import Router
from freehold.aws.serialize import Kept, OutputMismatch, Serializer
from freehold.aws.validate import Invalid, Validator

SESSION = botocore.session.get_session()
SEEDS = range(6)


@functools.cache
def readers(service_name: str) -> tuple[Router, Parser, Validator]:
    of = service(service_name)
    return Router(of), Parser(of), Validator(of)


def botocore_model(service_name: str) -> Any:
    return SESSION.get_service_model(service_name)


def sent(service_name: str, operation: str, params: dict[str, Any]) -> tuple[str, bytes, bytes, Any, bytes]:
    """(method, raw path, raw query, headers, body) of what botocore would send."""
    operation_model = botocore_model(service_name).operation_model(operation)
    serializer = create_serializer("rest-json", include_validation=False)
    request = serializer.serialize_to_request(params, operation_model)
    prepare_request_dict(request, endpoint_url="http://localhost", context={})
    prepared = create_request_object(request).prepare()
    path, _, query = prepared.url.removeprefix("http://localhost").partition("?")
    headers = [(name.lower().encode(), _bytes(value)) for name, value in prepared.headers.items()]
    return prepared.method, path.encode(), query.encode(), headers, _bytes(prepared.body or b"")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


@pytest.mark.parametrize(("service_name", "operation"), operations())
def test_what_botocore_sends_is_read_as_it_was_meant(service_name: str, operation: str):
    of = service(service_name)
    router, parser, validator = readers(service_name)
    compiled = of.operations[operation]
    shape = of.shapes[compiled.input]
    for seed in SEEDS:
        params = Maker(of, seed).structure(compiled.input)
        method, path, query, headers, body = sent(service_name, operation, params)
        match = router.match(method, path)
        assert match.operation.name == operation
        parsed = parser.parse(match.operation, match.path_params, query, headers, body)
        if shape.payload and shape.payload not in params and not body:
            parsed.pop(shape.payload, None)  # no body and an empty one are the same on the wire
        if "contentType" in shape.members and "contentType" not in params and body:
            parsed.pop("contentType", None)  # botocore names the type of a JSON body
        assert parsed == params
        slashed = router.match(method, path.rstrip(b"/") if path.endswith(b"/") else path + b"/")
        assert slashed.operation.name == operation
        with contextlib.suppress(Invalid):
            validator.check(compiled, parsed)


@pytest.mark.parametrize(("service_name", "operation"), operations())
def test_what_is_answered_is_read_by_botocore_as_it_was_meant(service_name: str, operation: str):
    of = service(service_name)
    serializer = Serializer(of)
    compiled = of.operations[operation]
    output_shape = botocore_model(service_name).operation_model(operation).output_shape
    shape = of.shapes[compiled.output]
    for seed in SEEDS:
        output = Maker(of, seed).structure(compiled.output)
        if shape.payload and of.shapes[shape.members[shape.payload].shape].event_stream:
            stream = object()
            assert serializer.output(compiled, {shape.payload: stream}).stream is stream
            continue
        response = serializer.output(compiled, output)
        # A response over HTTP always has a status; the model may have a member for it.
        expected = dict(output)
        for name, member in shape.members.items():
            if member.location == "statusCode":
                expected[name] = response.status
        if shape.payload and shape.payload not in expected:
            continue  # botocore makes something of an empty body
        headers = HeadersDict({name.decode(): value.decode() for name, value in response.headers})
        body: Any = response.body
        if response.stream is not None:
            assert response.stream == output[shape.payload]
            body = expected[shape.payload] = io.BytesIO()
        answer = {"status_code": response.status, "headers": headers, "body": body}
        parsed = create_parser("rest-json").parse(answer, output_shape)
        del parsed["ResponseMetadata"]
        assert parsed == expected


@pytest.mark.parametrize("service_name", ["bedrock-agentcore-control", "bedrock-agentcore"])
def test_every_error_is_read_by_botocore_as_that_error(service_name: str):
    of = service(service_name)
    errors = [shape for shape in of.shapes.values() if shape.error_code]
    assert len(errors) > 8
    any_output = botocore_model(service_name).operation_model(next(iter(of.operations))).output_shape
    for shape in errors:
        response = Serializer(of).error(shape.error_code, "what went wrong")
        assert response.status == shape.error_status
        headers = HeadersDict({name.decode(): value.decode() for name, value in response.headers})
        answer = {"status_code": response.status, "headers": headers, "body": response.body}
        parsed = create_parser("rest-json").parse(answer, any_output)
        assert parsed["Error"]["Code"] == shape.error_code
        assert parsed["Error"]["Message"] == "what went wrong"


def test_members_of_errors_are_beside_the_message():
    of = service("bedrock-agentcore-control")
    field = {"name": "roleArn", "message": "Member must not be null"}
    response = Serializer(of).error(
        "ValidationException", "no", {"reason": "FieldValidationFailed", "fieldList": [field]}
    )
    assert json.loads(response.body) == {"message": "no", "reason": "FieldValidationFailed", "fieldList": [field]}


@pytest.mark.parametrize(
    "output",
    [
        {"unknown": 1},
        {"agentRuntimeArn": 1},
        {"agentRuntimeArn": b"x"},
        {"createdAt": "yesterday"},
        {"workloadIdentityDetails": {"unknown": "x"}},
        {"workloadIdentityDetails": []},
    ],
)
def test_an_output_that_is_not_the_models_is_never_sent(output: dict[str, Any]):
    of = service("bedrock-agentcore-control")
    with pytest.raises(OutputMismatch):
        Serializer(of).output(of.operations["CreateAgentRuntime"], output)


def test_members_that_are_none_are_left_out():
    of = service("bedrock-agentcore-control")
    response = Serializer(of).output(of.operations["ListAgentRuntimes"], {"agentRuntimes": [], "nextToken": None})
    assert response.body == b'{"agentRuntimes":[]}'


def test_a_header_member_can_not_bring_another_header():
    of = service("bedrock-agentcore")
    with pytest.raises(OutputMismatch, match="runtimeSessionId"):
        Serializer(of).output(of.operations["StopRuntimeSession"], {"runtimeSessionId": "x\r\nset-cookie: a=b"})


def test_lines_that_are_kept_as_they_were_written_are_the_same_answer():
    of = service("bedrock-agentcore-control")
    operation = of.operations["ListAgentRuntimes"]
    for seed in SEEDS:
        output = Maker(of, seed).structure(operation.output)
        plain = Serializer(of).output(operation, output)
        serializer = Serializer(of)
        kept = {**output, "agentRuntimes": [Kept(line) for line in output["agentRuntimes"]]}
        for _ in range(2):
            answer = serializer.output(operation, kept)
            assert json.loads(answer.body) == json.loads(plain.body)
            assert answer.headers == plain.headers


def test_a_line_that_is_kept_and_not_the_models_is_not_written():
    of = service("bedrock-agentcore-control")
    with pytest.raises(OutputMismatch, match="status"):
        Serializer(of).output(of.operations["ListAgentRuntimes"], {"agentRuntimes": [Kept({"status": 7})]})
