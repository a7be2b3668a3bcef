"""docs/reference/coverage.md: complete by botocore's model, and true by control's own rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from tools import coverage, coverage_table, divergences
from tools.coverage_table import ABSENT, CONTROL, DATA, OPERATIONS, Entry, Operation, Status

from freehold.control import configuration
from freehold.control.operations import OPERATIONS as CONTROL_OPERATIONS
from freehold.domain.errors import ValidationFailed

ROOT = Path(__file__).parents[3]


def model(service: str, operation: str) -> Any:
    return botocore.session.Session().get_service_model(service).operation_model(operation)


def models() -> dict[str, Any]:
    session = botocore.session.Session()
    return {service: session.get_service_model(service) for service in (CONTROL, DATA)}


MINIMAL: dict[str, Any] = {
    "agentRuntimeName": "agent",
    "roleArn": "arn:aws:iam::000000000000:role/agent",
    "agentRuntimeArtifact": {
        "codeConfiguration": {
            "code": {"s3": {"bucket": "agents", "prefix": "agent.zip"}},
            "runtime": "PYTHON_3_11",
            "entryPoint": ["main.py"],
        }
    },
}
VALUES: dict[str, Any] = {"string": "x", "integer": 9000, "boolean": True}


def value(shape: Any) -> Any:
    """Some value of a shape that says something."""
    if shape.type_name == "structure":
        name, member = next(iter(shape.members.items()))
        return {name: value(member)}
    if shape.type_name == "list":
        return [value(shape.member)]
    if shape.type_name == "map":
        return {"x": value(shape.value)}
    return VALUES[shape.type_name]


def with_member(operation: str, path: str) -> dict[str, Any]:
    """MINIMAL, and some value at `path`, which may replace what MINIMAL has beside it."""
    shape, params = model(CONTROL, operation).input_shape, dict(MINIMAL)
    place, names = params, path.split(".")
    for name in names[:-1]:
        shape = shape.members[name.removesuffix("[]")]
        inner: dict[str, Any] = {}
        place[name.removesuffix("[]")] = [inner] if name.endswith("[]") else inner
        shape, place = shape.member if name.endswith("[]") else shape, inner
    place[names[-1]] = value(shape.members[names[-1]])
    return params


REFUSED = [
    (operation, path)
    for operation in ("CreateAgentRuntime", "UpdateAgentRuntime")
    for path, entry in OPERATIONS[operation].input.items()
    # A version of an object is refused by the bucket, when it is looked up.
    if entry.status is Status.REFUSED and not path.endswith("versionId")
]


def test_every_member_of_the_models_is_in_the_table_and_the_other_way_round():
    assert list(coverage.differences(models())) == []


def test_a_member_that_the_table_does_not_name_is_noticed(monkeypatch: pytest.MonkeyPatch):
    said = OPERATIONS["DeleteAgentRuntime"]
    cut = {name: entry for name, entry in said.input.items() if name != "clientToken"}
    monkeypatch.setitem(
        OPERATIONS, "DeleteAgentRuntime", Operation(CONTROL, cut | {"colour": Entry(Status.ACTS)}, said.output)
    )
    assert list(coverage.differences(models())) == [
        "DeleteAgentRuntime input: clientToken is not in the table",
        "DeleteAgentRuntime input: colour is not in the model",
    ]


def test_a_member_below_one_that_works_does_not_work_by_itself():
    table = {"a": Entry(Status.ACTS), "b": Entry(Status.REFUSED, "why")}
    assert coverage.resolve(table, "a.new") is None
    assert coverage.resolve(table, "b.new[].deeper") == Entry(Status.REFUSED)


def known_tests() -> set[str]:
    return {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def test_every_member_that_acts_names_a_test_that_there_is():
    entries = [entry for said in OPERATIONS.values() for entry in said.input.values()]
    acting = {entry.test for entry in entries if entry.status is Status.ACTS}
    assert acting - known_tests() == set()


def test_every_divergence_names_a_test_that_there_is():
    assert {each.test for each in divergences.load()} - known_tests() == set()


def test_a_divergence_without_a_reason_or_with_another_ones_id_is_refused():
    whole = dict.fromkeys(("id", "what", "aws", "freehold", "source", "why", "test"), "x")
    with pytest.raises(divergences.DivergencesWrong, match="does not say"):
        divergences.read({"divergence": [whole | {"why": ""}]})
    with pytest.raises(divergences.DivergencesWrong, match="twice"):
        divergences.read({"divergence": [whole, whole]})


@pytest.mark.parametrize("row", [{}, {"acts": "test_x", "refused": True}, {"told": True}, {"refused": True, "x": 1}])
def test_a_row_that_does_not_say_exactly_one_thing_is_refused(row: dict[str, Any]):
    data = {"operations": {"Do": {"service": CONTROL, "input": {"a": row}, "output": {}}}, "absent": {}, "groups": {}}
    with pytest.raises(coverage_table.FieldsWrong, match="Do input a"):
        coverage_table.read(data)


def test_the_operations_are_those_that_control_has():
    assert {name for name, said in OPERATIONS.items() if said.service == CONTROL} == set(CONTROL_OPERATIONS)
    assert not set(ABSENT) & set(OPERATIONS)


@pytest.mark.parametrize(("operation", "path"), REFUSED)
def test_what_is_said_to_be_refused_is_refused_by_name(operation: str, path: str):
    with pytest.raises(ValidationFailed) as refusal:
        configuration.normalise(with_member(operation, path))
    assert path.replace("[]", ".1.member") in [problem.name for problem in refusal.value.fields]


def test_what_is_said_to_work_is_accepted_and_told_again():
    asked = MINIMAL | {
        "networkConfiguration": {"networkMode": "PUBLIC"},
        "protocolConfiguration": {"serverProtocol": "AGUI", "port": 9000},
        "lifecycleConfiguration": {"idleRuntimeSessionTimeout": 60, "maxLifetime": 120},
        "requestHeaderConfiguration": {"requestHeaderAllowlist": ["X-Colour"]},
        "authorizerConfiguration": {
            "customJWTAuthorizer": {
                "discoveryUrl": "https://id.example/.well-known/openid-configuration",
                "allowedClients": ["app"],
            }
        },
        "environmentVariables": {"A": "b"},
        "description": "what it is",
        "platformVersion": "V1",
        "metadataConfiguration": {"requireMMDSV2": True},
    }
    told = configuration.normalise(asked)
    for name in asked.keys() - {"agentRuntimeName"}:
        assert told[name] == asked[name]
        entry = OPERATIONS["GetAgentRuntime"].output[name]
        assert entry.status is Status.TOLD
