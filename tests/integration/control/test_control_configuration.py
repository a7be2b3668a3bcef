"""What a version's configuration may say beyond the service model, and its defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from freehold.artifacts.base import CodeArtifact, S3Object
from freehold.aws import model
from freehold.aws.model import Service
from freehold.control import configuration
from freehold.domain.errors import ValidationFailed
from freehold.domain.runtimes import ServerProtocol


def params(**more: Any) -> dict[str, Any]:
    code = {"code": {"s3": {"bucket": "code", "prefix": "a.zip"}}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}
    return {
        "agentRuntimeName": "agent",
        "agentRuntimeArtifact": {"codeConfiguration": code},
        "roleArn": "arn:aws:iam::111122223333:role/r",
        **more,
    }


def refusal(**more: Any) -> ValidationFailed:
    with pytest.raises(ValidationFailed) as refused:
        configuration.normalise(params(**more))
    return refused.value


def test_what_is_not_said_has_the_services_defaults():
    normal = configuration.normalise(params())
    assert normal["networkConfiguration"] == {"networkMode": "PUBLIC"}
    assert normal["protocolConfiguration"] == {"serverProtocol": "HTTP"}
    assert normal["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 900, "maxLifetime": 28800}
    assert normal["metadataConfiguration"] == {"requireMMDSV2": True}
    assert normal["platformVersion"] == "V1"
    assert "environmentVariables" not in normal
    assert configuration.protocol_of(normal) == (ServerProtocol.HTTP, 8080)
    assert configuration.artifact_of(normal) == CodeArtifact(S3Object("code", "a.zip"), "PYTHON_3_11", ("main.py",))


@pytest.mark.parametrize(
    ("said", "idle", "longest"),
    [
        ({"maxLifetime": 600}, 600, 600),
        ({"maxLifetime": 900}, 900, 900),
        ({"maxLifetime": 901}, 900, 901),
        ({"idleRuntimeSessionTimeout": 60}, 60, 28800),
        ({"idleRuntimeSessionTimeout": 28800}, 28800, 28800),
        ({"idleRuntimeSessionTimeout": 60, "maxLifetime": 60}, 60, 60),
        ({}, 900, 28800),
    ],
)
def test_a_lifecycle_is_filled_in_by_the_rules_of_the_guide(said: dict[str, int], idle: int, longest: int):
    normal = configuration.normalise(params(lifecycleConfiguration=said))
    assert configuration.lifecycle_of(normal) == (idle, longest)


def test_an_idle_timeout_longer_than_the_lifetime_is_refused_in_the_services_words():
    refused = refusal(lifecycleConfiguration={"idleRuntimeSessionTimeout": 900, "maxLifetime": 600})
    assert refused.message == "idleRuntimeSessionTimeout must be less than or equal to maxLifetime"


@pytest.mark.parametrize(
    ("said", "bound"),
    [
        ({"maxLifetime": 28801}, "less than or equal to 28800"),
        ({"maxLifetime": 59}, "greater than or equal to 60"),
        ({"idleRuntimeSessionTimeout": 1209600}, "less than or equal to 28800"),
    ],
)
def test_a_lifecycle_of_instances_is_refused_for_sandboxes(said: dict[str, int], bound: str):
    refused = refusal(lifecycleConfiguration=said)
    assert bound in refused.message
    assert refused.fields[0].name == f"lifecycleConfiguration.{next(iter(said))}"


@pytest.mark.parametrize(
    ("member", "more"),
    [
        (
            "agentRuntimeArtifact.containerConfiguration",
            {"agentRuntimeArtifact": {"containerConfiguration": {"containerUri": "public.ecr.aws/a/b"}}},
        ),
        ("networkConfiguration.networkMode", {"networkConfiguration": {"networkMode": "VPC"}}),
        (
            "networkConfiguration.networkModeConfig",
            {"networkConfiguration": {"networkMode": "PUBLIC", "networkModeConfig": {"subnets": ["s"]}}},
        ),
        ("hooksConfiguration", {"hooksConfiguration": {"build": {"warmup": {}}}}),
        ("filesystemConfigurations", {"filesystemConfigurations": [{"sessionStorage": {"mountPath": "/mnt/a"}}]}),
        ("capacityProviderConfiguration", {"capacityProviderConfiguration": {"capacityProviderArn": "a"}}),
        ("platformVersion", {"platformVersion": "V2"}),
        ("allowedPorts", {"allowedPorts": [{"port": 9000}]}),
        ("resourceConfigurations", {"resourceConfigurations": [{"minimumMemoryInMiB": 512}]}),
        ("metadataConfiguration.requireMMDSV2", {"metadataConfiguration": {"requireMMDSV2": False}}),
    ],
)
def test_what_freehold_does_not_have_is_refused_by_name(member: str, more: dict[str, Any]):
    refused = refusal(**more)
    assert [problem.name for problem in refused.fields] == [member]
    assert member in refused.message
    assert "Freehold does not support" in refused.message


def test_what_asks_for_nothing_is_not_refused():
    normal = configuration.normalise(
        params(filesystemConfigurations=[], resourceConfigurations=[], environmentVariables={}, platformVersion="V1")
    )
    assert normal == configuration.normalise(params())


def test_a_port_of_its_own_is_where_the_agent_is_reached():
    normal = configuration.normalise(params(protocolConfiguration={"serverProtocol": "AGUI", "port": 9123}))
    assert configuration.protocol_of(normal) == (ServerProtocol.AGUI, 9123)
    assert "8443" in refusal(protocolConfiguration={"serverProtocol": "AGUI", "port": 8443}).message


@pytest.mark.parametrize(("protocol", "port"), [("HTTP", 8080), ("MCP", 8000), ("A2A", 9000), ("AGUI", 8080)])
def test_each_protocol_has_its_port_and_no_path_of_its_own(protocol: str, port: int):
    normal = configuration.normalise(params(protocolConfiguration={"serverProtocol": protocol}))
    assert configuration.protocol_of(normal) == (ServerProtocol(protocol), port)
    assert configuration.path_of(normal) is None


def test_a_path_of_its_own_is_kept_and_has_whole_escapes():
    normal = configuration.normalise(params(protocolConfiguration={"serverProtocol": "MCP", "path": "/a%2Fb/~c"}))
    assert configuration.path_of(normal) == "/a%2Fb/~c"
    for broken in ("/a%", "/a%2", "/a%zz"):
        refused = refusal(protocolConfiguration={"serverProtocol": "MCP", "path": broken})
        assert [problem.name for problem in refused.fields] == ["protocolConfiguration.path"]


def test_an_environment_may_have_4096_bytes_in_all():
    fits = {"K": "v" * 4095}
    assert configuration.normalise(params(environmentVariables=fits))["environmentVariables"] == fits
    refused = refusal(environmentVariables={"K": "v" * 4096})
    assert "4097 bytes" in refused.message
    assert "vvv" not in refused.message
    assert "4098 bytes" in refusal(environmentVariables={"KK": "ä" * 2048}).message


@pytest.mark.parametrize("variables", [{"A=B": "secret"}, {"A\0": "secret"}, {"A": "secret\0"}])
def test_what_no_process_can_have_in_its_environment_is_refused(variables: dict[str, str]):
    assert "secret" not in refusal(environmentVariables=variables).message


def allowlist(*names: str) -> dict[str, Any]:
    return {"requestHeaderConfiguration": {"requestHeaderAllowlist": list(names)}}


@pytest.mark.parametrize(
    "name",
    [
        "Cookie",
        "content-type",
        "Accept",
        "Accept-Language",
        "If-None-Match",
        "Access-Control-Request-Method",
        "Sec-WebSocket-Protocol",
        "Host",
        "X-Forwarded-For",
        "X-Amz-Date",
        "x-amzn-trace-id",
        "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id",
        "X-Amzn-Bedrock-AgentCore-Runtime-Custom-",
    ],
)
def test_a_restricted_header_is_refused_by_name(name: str):
    assert name in refusal(**allowlist("X-Fine", name)).message


def test_a_header_listed_twice_in_any_case_is_refused():
    assert "twice" in refusal(**allowlist("X-One", "x-one")).message


def test_listed_headers_reach_the_agent_but_a_sigv4_authorization_never_does():
    custom = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-Tenant"
    normal = configuration.normalise(params(**allowlist("X-One", custom, "Authorization")))
    assert configuration.forwarded_headers(normal) == ["x-one", custom.lower()]


def test_every_problem_is_told_at_once():
    refused = refusal(platformVersion="V2", allowedPorts=[{"port": 9000}], lifecycleConfiguration={"maxLifetime": 1})
    assert {problem.name for problem in refused.fields} == {
        "platformVersion",
        "allowedPorts",
        "lifecycleConfiguration.maxLifetime",
    }
    assert refused.message.startswith("3 validation errors detected")


def members(of: Service, shape: str, path: str = "") -> Iterator[str]:
    """Dotted paths of all members of a structure that are not structures themselves."""
    for name, member in of.shapes[shape].members.items():
        inner = of.shapes[member.shape]
        if inner.type == "structure":
            yield from members(of, member.shape, f"{path}{name}.")
        else:
            yield path + name


JWT = "authorizerConfiguration.customJWTAuthorizer"
UNDERSTOOD = {
    *(f"{JWT}.{name}" for name in ("discoveryUrl", "allowedAudience", "allowedClients", "allowedScopes")),
    *(f"{JWT}.{name}" for name in ("advertisedScopeMapping", "customClaims", "certificateConfigurations")),
    f"{JWT}.privateEndpoint.selfManagedLatticeResource.resourceConfigurationIdentifier",
    f"{JWT}.privateEndpointOverrides",
    *("agentRuntimeId", "agentRuntimeName", "clientToken", "description", "environmentVariables", "platformVersion"),
    *("roleArn", "tags", "lifecycleConfiguration.idleRuntimeSessionTimeout", "lifecycleConfiguration.maxLifetime"),
    *("metadataConfiguration.requireMMDSV2", "networkConfiguration.networkMode", "protocolConfiguration.port"),
    *("protocolConfiguration.path", "protocolConfiguration.serverProtocol"),
    "requestHeaderConfiguration.requestHeaderAllowlist",
    *(f"agentRuntimeArtifact.codeConfiguration.{name}" for name in ("entryPoint", "runtime")),
    *(f"agentRuntimeArtifact.codeConfiguration.code.s3.{name}" for name in ("bucket", "prefix", "versionId")),
}


@pytest.mark.parametrize("operation", ["CreateAgentRuntime", "UpdateAgentRuntime"])
def test_every_member_of_the_model_acts_or_is_refused_by_its_name(operation: str):
    of = model.load("bedrock-agentcore-control", [operation])
    for path in members(of, of.operations[operation].input):
        if path in UNDERSTOOD:
            continue
        said = params()
        *outer, last = path.split(".")
        part = said
        for name in outer:
            part = part.setdefault(name, {})
        part[last] = ["x"]
        problems = [problem.name for problem in refusal(**said).fields]
        assert any(path == name or path.startswith(f"{name}.") for name in problems), path


def test_a_member_of_a_newer_model_is_refused():
    said = params(newConfiguration={"a": 1}, lifecycleConfiguration={"maxLifetime": 600, "pauseAfter": 5})
    assert [problem.name for problem in refusal(**said).fields] == [
        "newConfiguration",
        "lifecycleConfiguration.pauseAfter",
    ]
