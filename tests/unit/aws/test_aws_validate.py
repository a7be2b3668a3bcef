"""Every constraint of the operations Freehold has, at its boundary; what is told of those that are broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aws_parts import CONTROL, DATA, Maker, operations, service

from freehold.aws.model import Member, Operation, Service, Shape
from freehold.aws.validate import MAX_PROBLEMS, Invalid, Validator

OURS = [
    *[(CONTROL, name + "AgentRuntime") for name in ("Create", "Update", "Get", "Delete")],
    (CONTROL, "ListAgentRuntimes"),
    (DATA, "InvokeAgentRuntime"),
    (DATA, "StopRuntimeSession"),
]
S3 = {"bucket": "code", "prefix": "agent.zip"}
CODE = {"code": {"s3": S3}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}
CREATE: dict[str, Any] = {
    "agentRuntimeName": "agent",
    "agentRuntimeArtifact": {"codeConfiguration": CODE},
    "roleArn": "arn:aws:iam::111122223333:role/r",
}
SECRET = "hunter2 "


def problems(operation: str, params: dict[str, Any], of: Service | None = None) -> list[tuple[str, str]]:
    of = of or service(CONTROL)
    try:
        Validator(of).check(of.operations[operation], params)
    except Invalid as invalid:
        return list(invalid.fields)
    return []


def constrained() -> Iterator[Any]:
    """Every shape with a bound that the inputs of our operations reach."""
    for name, operation in OURS:
        of = service(name).subset([operation])
        inputs = msgspec.structs.replace(of.operations[operation], output="", errors=[])
        of = msgspec.structs.replace(of, operations={operation: inputs}).subset([operation])
        for shape in of.shapes.values():
            if shape.min is not None or shape.max is not None:
                yield pytest.param(of, shape, id=f"{operation}-{shape.name}")


def of_size(of: Service, shape: Shape, size: int) -> Any:
    match shape.type:
        case "string":
            return "a" * size
        case "blob":
            return b"a" * size
        case "list":
            return [of_size(of, of.shapes[shape.element], 1)] * size
        case "map":
            return {f"key{number}": of_size(of, of.shapes[shape.value], 1) for number in range(size)}
        case "structure":
            return {}
        case _:
            return size


@pytest.mark.parametrize(("of", "shape"), list(constrained()))
def test_a_bound_holds_to_the_last_unit(of: Service, shape: Shape):
    probe = Shape("Probe", "structure", members={"value": Member(shape.name, "value")})
    operation = Operation("Probe", "POST", "/", 200, input="Probe")
    probed = Service("probe", "1", "probe", {"Probe": operation}, {**of.shapes, "Probe": probe})
    noun = "value" if shape.type in ("integer", "long", "float", "double") else "length"
    low = ("value", f"Member must have {noun} greater than or equal to {shape.min}")
    high = ("value", f"Member must have {noun} less than or equal to {shape.max}")
    sizes: list[tuple[int, bool, bool]] = []
    if shape.min is not None:
        sizes += [(int(shape.min) - 1, True, False), (int(shape.min), False, False)]
    if shape.max is not None:
        sizes += [(int(shape.max), False, False), (int(shape.max) + 1, False, True)]
    for size, too_small, too_large in sizes:
        if size < 0 and noun == "length":
            continue
        found = problems("Probe", {"value": of_size(of, shape, size)}, probed)
        assert ((low in found), (high in found)) == (too_small, too_large), size


def test_bounds_of_our_operations_are_many():
    assert len(list(constrained())) > 60


def test_a_good_request_is_taken():
    assert problems("CreateAgentRuntime", CREATE) == []
    more = {"clientToken": "a" * 33, "environmentVariables": {"K": "v"}, "tags": {"a": ""}, "description": "x"}
    assert problems("CreateAgentRuntime", {**CREATE, **more}) == []


@pytest.mark.parametrize("member", ["agentRuntimeName", "agentRuntimeArtifact", "roleArn"])
def test_what_is_required_is_missed_by_name(member: str):
    params = {name: value for name, value in CREATE.items() if name != member}
    assert problems("CreateAgentRuntime", params) == [(member, "Member must not be null")]


def test_required_members_are_missed_at_any_depth():
    artifact = {"codeConfiguration": {**CODE, "code": {"s3": {"bucket": "code"}}}}
    (problem,) = problems("CreateAgentRuntime", {**CREATE, "agentRuntimeArtifact": artifact})
    assert problem == ("agentRuntimeArtifact.codeConfiguration.code.s3.prefix", "Member must not be null")


@pytest.mark.parametrize("artifact", [{}, {"codeConfiguration": CODE, "containerConfiguration": {"containerUri": "x"}}])
def test_of_a_union_exactly_one_member_is_there(artifact: dict[str, Any]):
    found = problems("CreateAgentRuntime", {**CREATE, "agentRuntimeArtifact": artifact})
    expected = "Member must have exactly one of the members [containerConfiguration, codeConfiguration]"
    assert ("agentRuntimeArtifact", expected) in found


def test_an_enum_has_the_models_values():
    bad = {**CREATE, "protocolConfiguration": {"serverProtocol": "http"}}
    ((name, problem),) = problems("CreateAgentRuntime", bad)
    assert name == "protocolConfiguration.serverProtocol"
    assert problem.startswith("Member must satisfy enum value set: [")
    assert "AGUI" in problem


@pytest.mark.parametrize("name", ["1a", "a-b", "", "a" * 49, "a\n", "ä", " a"])
def test_a_name_keeps_to_its_pattern(name: str):
    ((member, problem),) = problems("CreateAgentRuntime", {**CREATE, "agentRuntimeName": name})
    assert member == "agentRuntimeName"
    assert problem == "Member must satisfy regular expression pattern: [a-zA-Z][a-zA-Z0-9_]{0,47}"


def test_length_is_checked_before_the_pattern():
    ((_, problem),) = problems("CreateAgentRuntime", {**CREATE, "roleArn": "x" * 3000})
    assert problem == "Member must have length less than or equal to 2048"


def test_a_character_is_one_whatever_it_takes():
    assert problems("CreateAgentRuntime", {**CREATE, "description": "\U0001f600" * 4096}) == []
    assert problems("CreateAgentRuntime", {**CREATE, "description": "\U0001f600" * 4097})


def test_one_problem_is_told_as_aws_tells_it():
    of = service(CONTROL)
    with pytest.raises(Invalid) as invalid:
        Validator(of).check(of.operations["CreateAgentRuntime"], {**CREATE, "agentRuntimeName": "1"})
    assert invalid.value.reason == "FieldValidationFailed"
    assert invalid.value.message == (
        "1 validation error detected: Value at 'agentRuntimeName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z][a-zA-Z0-9_]{0,47}"
    )


def test_all_problems_are_told_at_once():
    of = service(CONTROL)
    with pytest.raises(Invalid) as invalid:
        Validator(of).check(of.operations["CreateAgentRuntime"], {"agentRuntimeName": "1"})
    assert invalid.value.message == (
        "3 validation errors detected: Value null at 'agentRuntimeArtifact' failed to satisfy constraint: "
        "Member must not be null; Value null at 'roleArn' failed to satisfy constraint: Member must not be null; "
        "Value at 'agentRuntimeName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z][a-zA-Z0-9_]{0,47}"
    )


def test_problems_are_bounded():
    tags = {f"k{number}": "v" * 300 for number in range(50)}
    assert len(problems("CreateAgentRuntime", {**CREATE, "tags": tags})) == MAX_PROBLEMS


def test_values_and_keys_are_never_told():
    of = service(CONTROL)
    bad = {
        **CREATE,
        "agentRuntimeName": SECRET,
        "description": SECRET * 1000,
        "environmentVariables": {SECRET * 100: SECRET * 1000, "": SECRET},
        "tags": {SECRET * 100: SECRET * 100},
        "protocolConfiguration": {"serverProtocol": SECRET},
    }
    with pytest.raises(Invalid) as invalid:
        Validator(of).check(of.operations["CreateAgentRuntime"], bad)
    assert len(invalid.value.fields) >= 6
    assert "hunter2" not in invalid.value.message + str(invalid.value.fields) + str(invalid.value)
    assert ("environmentVariables", "Map keys must satisfy constraint: [Member must have length greater than or equal "
            "to 1]") in invalid.value.fields  # fmt: skip


def test_the_body_of_an_invocation_may_be_still_to_come():
    of = service(DATA)
    invoke = of.operations["InvokeAgentRuntime"]
    params = {"agentRuntimeArn": "x", "runtimeSessionId": "a" * 33}
    Validator(of).check(invoke, params, without_body=True)
    with pytest.raises(Invalid):
        Validator(of).check(invoke, params)
    with pytest.raises(Invalid, match="runtimeSessionId"):
        Validator(of).check(invoke, {**params, "runtimeSessionId": "a" * 32}, without_body=True)
    with pytest.raises(Invalid, match="accountId"):
        Validator(of).check(invoke, {**params, "accountId": "12345678901"}, without_body=True)


@pytest.mark.parametrize(("name", "operation"), operations())
def test_any_parameters_of_the_right_types_are_taken_or_invalid(name: str, operation: str):
    of = service(name)
    compiled = of.operations[operation]
    for seed in range(3):
        try:
            Validator(of).check(compiled, Maker(of, seed).structure(compiled.input))
        except Invalid as invalid:
            found = invalid.fields
            assert 1 <= len(found) <= MAX_PROBLEMS
