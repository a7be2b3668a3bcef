"""Every operation and every constraint of the model, by requests made from botocore's own reading of it."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore
import botocore.session
import pytest
from control_calls import gone, rested, until
from control_parts import put_zip
from control_server import ControlServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_requests import NoSample, Requests, Violation

from freehold.control.operations import OPERATIONS

SERVICE = "bedrock-agentcore-control"
MODEL: Any = botocore.session.Session().get_service_model(SERVICE)
ARTIFACT = {
    "codeConfiguration": {
        "code": {"s3": {"bucket": "code", "prefix": "agent.zip"}},
        "runtime": "PYTHON_3_11",
        "entryPoint": ["main.py"],
    }
}
BASE: dict[str, dict[str, Any]] = {
    "CreateAgentRuntime": {"agentRuntimeArtifact": ARTIFACT},
    "UpdateAgentRuntime": {"agentRuntimeArtifact": ARTIFACT},
    "UntagResource": {"tagKeys": ["key"]},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    made = ControlServer(Path(tmp_path_factory.mktemp("requests")))
    put_zip(made.buckets)
    with made.run():
        yield made


def requests(name: str) -> Requests:
    return Requests(MODEL.operation_model(name), BASE.get(name))


def call(client: Any, name: str, params: dict[str, Any]) -> dict[str, Any]:
    """What was answered, an error's body included."""
    method = getattr(client, botocore.xform_name(name))
    try:
        return method(**params)
    except client.exceptions.ClientError as error:
        return error.response


def problem(client: Any, violation: Violation) -> str | None:
    """What is wrong with the answer to a request that breaks a constraint."""
    answer = call(client, violation.operation, violation.params)
    code = answer.get("Error", {}).get("Code")
    if code != "ValidationException":
        return f"{violation}: {code or 'accepted'}"
    names = {field["name"] for field in answer.get("fieldList", ())}
    if names != {violation.member}:
        return f"{violation}: named {sorted(names)}"
    if answer["reason"] not in ("FieldValidationFailed", "CannotParse"):
        return f"{violation}: reason {answer['reason']}"
    return None


@pytest.mark.slow
def test_a_request_that_breaks_one_constraint_is_refused_naming_that_member(server: ControlServer):
    client = server.client()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for name in sorted(OPERATIONS):
        made = requests(name)
        for violation in made.violations():
            counts[violation.constraint.removeprefix("key ")] += 1
            if (found := problem(client, violation)) is not None:
                wrong.append(found)
        counts["inexpressible"] += made.inexpressible
    print(f"botocore {botocore.__version__}, {len(OPERATIONS)} operations, {dict(counts)}")
    assert wrong == []
    assert sum(counts.values()) > 400


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_request_with_the_required_members_alone_is_valid(server: ControlServer, name: str):
    answer = call(server.client(), name, requests(name).valid())
    assert answer.get("Error", {}).get("Code") in (None, "ResourceNotFoundException")


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
TAG = st.text(string.ascii_letters + string.digits + " ._:/=+@-", min_size=1, max_size=128)
NAME = st.from_regex(r"\A[a-zA-Z][a-zA-Z0-9_]{0,47}\Z")
SECONDS = st.integers(60, 28_800)
CONFIGURATION = st.fixed_dictionaries(
    {"roleArn": st.from_regex(r"\Aarn:aws(-[a-z]{1,5})?:iam::[0-9]{12}:role/[\x21-\x7e]{1,60}\Z")},
    optional={
        "description": st.text(min_size=1, max_size=4096).filter(lambda text: text.isprintable()),
        "networkConfiguration": st.just({"networkMode": "PUBLIC"}),
        "protocolConfiguration": st.fixed_dictionaries(
            {"serverProtocol": st.sampled_from(["HTTP", "AGUI"])},
            optional={"port": st.integers(8000, 12_000).filter(lambda port: port != 8443)},
        ),
        "lifecycleConfiguration": st.tuples(SECONDS, SECONDS).map(
            lambda two: {"idleRuntimeSessionTimeout": min(two), "maxLifetime": max(two)}
        ),
        "environmentVariables": st.dictionaries(
            st.text(string.ascii_letters + "_", min_size=1, max_size=30), TEXT, max_size=10
        ),
        "requestHeaderConfiguration": st.lists(
            st.from_regex(r"\AX-[A-Za-z0-9_]{1,30}-Custom\Z"), min_size=1, max_size=20, unique_by=str.lower
        ).map(lambda names: {"requestHeaderAllowlist": names}),
        "platformVersion": st.just("V1"),
    },
)
TAGS = st.dictionaries(TAG, TAG | st.just(""), max_size=50)


@pytest.mark.slow
def test_generated_valid_requests_are_accepted_and_told_again(server: ControlServer):
    client, counts = server.client(), Counter[str]()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(NAME, CONFIGURATION, CONFIGURATION, TAGS, NAME.filter(lambda name: name != "DEFAULT"))
    def life(name: str, first: dict[str, Any], second: dict[str, Any], tags: dict[str, str], endpoint: str) -> None:
        made = client.create_agent_runtime(agentRuntimeName=name, agentRuntimeArtifact=ARTIFACT, tags=tags, **first)
        which = {"agentRuntimeId": made["agentRuntimeId"]}
        got = rested(client, made["agentRuntimeId"])
        assert {member: got[member] for member in first if first[member]} == {k: v for k, v in first.items() if v}
        assert client.list_tags_for_resource(resourceArn=made["agentRuntimeArn"])["tags"] == tags
        client.update_agent_runtime(**which, agentRuntimeArtifact=ARTIFACT, **second)
        got = rested(client, made["agentRuntimeId"])
        assert {member: got[member] for member in second if second[member]} == {k: v for k, v in second.items() if v}
        client.create_agent_runtime_endpoint(**which, name=endpoint, tags=tags)
        client.delete_agent_runtime_endpoint(**which, endpointName=endpoint)
        until(lambda: len(client.list_agent_runtime_endpoints(**which)["runtimeEndpoints"]) == 1)
        client.delete_agent_runtime(**which)
        gone(client, made["agentRuntimeId"])
        counts["valid requests"] += 6

    life()
    print(dict(counts))


def test_every_operation_that_is_not_there_is_refused_by_name(server: ControlServer):
    wrong: list[str] = []
    count = 0
    for service, client in (
        (SERVICE, server.client()),
        ("bedrock-agentcore", server.client(service="bedrock-agentcore")),
    ):
        model: Any = botocore.session.Session().get_service_model(service)
        for name in model.operation_names:
            if service == SERVICE and name in OPERATIONS:
                continue
            try:
                params = Requests(model.operation_model(name)).valid()
            except NoSample:
                params = _labels(model.operation_model(name))
            try:
                answer = call(client, name, params)
            except botocore.exceptions.ParamValidationError:
                answer = call(client, name, _labels(model.operation_model(name)))
            count += 1
            error = answer.get("Error", {})
            if error.get("Code") != "UnknownOperationException" or name not in error["Message"]:
                wrong.append(f"{service} {name}: {error}")
    print(f"{count} operations that are not there")
    assert wrong == []


def _labels(operation: Any) -> dict[str, Any]:
    """What the path needs, valid or not: a request gets no further than its route."""
    shape = operation.input_shape
    if shape is None:
        return {}
    return {
        name: "x"
        for name, member in shape.members.items()
        if member.serialization.get("location") in ("uri", "header") and name in shape.required_members
    }
