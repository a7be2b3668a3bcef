"""What Freehold does with each operation and field of the runtime API: data for `tools.coverage`, written by hand.

A path is members joined by dots, `[]` for a list's element, `{}` for a map's value. Invariant: every member of the
service model is named here, but those below one that is refused or never sent, which share its fate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    WORKS = "works"
    STORED = "stored"
    """Kept and given back, without an effect of its own."""
    REFUSED = "refused"
    """A request that asks for it gets a ValidationException that names it."""
    IGNORED = "ignored"
    """Checked against the model, and then without an effect."""
    NEVER = "never sent"
    """A member of an answer that Freehold has no reason to send."""
    ABSENT = "absent"
    """The operation is not there: UnknownOperationException."""


INHERITED = (Status.REFUSED, Status.NEVER)


@dataclass(frozen=True, slots=True)
class Entry:
    status: Status
    note: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    service: str
    input: dict[str, Entry] = field(default_factory=dict[str, Entry])
    output: dict[str, Entry] = field(default_factory=dict[str, Entry])


CONTROL = "bedrock-agentcore-control"
DATA = "bedrock-agentcore"


def works(note: str = "") -> Entry:
    return Entry(Status.WORKS, note)


def stored(note: str) -> Entry:
    return Entry(Status.STORED, note)


def refused(note: str = "") -> Entry:
    return Entry(Status.REFUSED, note)


def ignored(note: str) -> Entry:
    return Entry(Status.IGNORED, note)


def never(note: str = "") -> Entry:
    return Entry(Status.NEVER, note)


_HANDLED: dict[str, Entry] = {
    "agentRuntimeArtifact": works(),
    "agentRuntimeArtifact.codeConfiguration": works(),
    "agentRuntimeArtifact.codeConfiguration.code": works(),
    "agentRuntimeArtifact.codeConfiguration.code.s3": works("a zip in a local bucket of this server"),
    "agentRuntimeArtifact.codeConfiguration.code.s3.bucket": works(),
    "agentRuntimeArtifact.codeConfiguration.code.s3.prefix": works("the key of the zip"),
    "agentRuntimeArtifact.codeConfiguration.code.s3.versionId": refused("local buckets keep no versions"),
    "agentRuntimeArtifact.codeConfiguration.runtime": works("PYTHON_*, where the host has that interpreter"),
    "agentRuntimeArtifact.codeConfiguration.entryPoint": works(),
    "roleArn": stored("agents get no credentials of the role yet"),
    "networkConfiguration": works(),
    "networkConfiguration.networkMode": works("PUBLIC, without a way out of the sandbox yet; VPC is refused"),
    "requestHeaderConfiguration": works(),
    "requestHeaderConfiguration.requestHeaderAllowlist": works(
        "Authorization may be listed; SigV4's never reaches an agent"
    ),
    "protocolConfiguration": works(),
    "protocolConfiguration.serverProtocol": works("HTTP and AGUI; MCP and A2A are refused"),
    "protocolConfiguration.port": works(),
    "lifecycleConfiguration": works(),
    "lifecycleConfiguration.idleRuntimeSessionTimeout": works(),
    "lifecycleConfiguration.maxLifetime": works(),
    "environmentVariables": works(),
    "description": works(),
}
"""Members of a version's configuration that act, in requests and answers alike."""

_NOT_YET = (
    "agentRuntimeArtifact.containerConfiguration",
    "networkConfiguration.networkModeConfig",
    "authorizerConfiguration",
    "protocolConfiguration.path",
    "hooksConfiguration",
    "filesystemConfigurations",
    "capacityProviderConfiguration",
    "allowedPorts",
    "resourceConfigurations",
)

_ASKED = (
    _HANDLED
    | {name: refused() for name in _NOT_YET}
    | {"clientToken": works(), "platformVersion": works("V1; any other is refused")}
)
_TOLD = (
    _HANDLED
    | {"agentRuntimeArtifact.codeConfiguration.code.s3.versionId": never()}
    | {name: never() for name in _NOT_YET}
    | {
        "platformVersion": works("V1"),
        "metadataConfiguration": works(),
        "metadataConfiguration.requireMMDSV2": works("true"),
    }
)
_IDENTITY: dict[str, Entry] = {
    "agentRuntimeArn": works(),
    "agentRuntimeId": works(),
    "agentRuntimeVersion": works(),
    "workloadIdentityDetails": works(),
    "workloadIdentityDetails.workloadIdentityArn": stored("a name; Freehold has no identity service yet"),
    "createdAt": works(),
    "status": works(),
}
_TRACING: dict[str, Entry] = {
    "traceId": works("reaches the agent"),
    "traceParent": works("reaches the agent"),
    "traceState": works("reaches the agent"),
    "baggage": works("reaches the agent"),
}

OPERATIONS: dict[str, Operation] = {
    "CreateAgentRuntime": Operation(
        CONTROL,
        input=_ASKED | {"agentRuntimeName": works(), "tags": stored("no operation reads them back yet")},
        output=_IDENTITY,
    ),
    "GetAgentRuntime": Operation(
        CONTROL,
        input={"agentRuntimeId": works(), "agentRuntimeVersion": works()},
        output=_TOLD
        | _IDENTITY
        | {
            "agentRuntimeName": works(),
            "lastUpdatedAt": works(),
            "failureReason": works("when the status is a failure"),
        },
    ),
    "UpdateAgentRuntime": Operation(
        CONTROL,
        input=_ASKED
        | {
            "agentRuntimeId": works(),
            "metadataConfiguration": works(),
            "metadataConfiguration.requireMMDSV2": works("true; false is refused"),
        },
        output=_IDENTITY | {"lastUpdatedAt": works()},
    ),
    "DeleteAgentRuntime": Operation(
        CONTROL,
        input={
            "agentRuntimeId": works(),
            "agentRuntimeVersion": works("one version that no endpoint serves"),
            "clientToken": works(),
        },
        output={"agentRuntimeId": works(), "agentRuntimeVersion": works(), "status": works()},
    ),
    "ListAgentRuntimes": Operation(
        CONTROL,
        input={"maxResults": works(), "nextToken": works()},
        output={
            "agentRuntimes": works("oldest first"),
            "agentRuntimes[].agentRuntimeArn": works(),
            "agentRuntimes[].agentRuntimeId": works(),
            "agentRuntimes[].agentRuntimeVersion": works(),
            "agentRuntimes[].agentRuntimeName": works(),
            "agentRuntimes[].description": works("empty when there is none"),
            "agentRuntimes[].lastUpdatedAt": works(),
            "agentRuntimes[].status": works(),
            "nextToken": works(),
        },
    ),
    "InvokeAgentRuntime": Operation(
        DATA,
        input=_TRACING
        | {
            "contentType": works("reaches the agent; application/json when absent"),
            "accept": works("reaches the agent"),
            "mcpSessionId": ignored("for MCP agents, which are not there yet"),
            "mcpProtocolVersion": ignored("for MCP agents, which are not there yet"),
            "mcpMethod": ignored("for MCP agents, which are not there yet"),
            "mcpName": ignored("for MCP agents, which are not there yet"),
            "runtimeSessionId": works("a new session when absent"),
            "runtimeUserId": works("reaches the agent"),
            "agentRuntimeArn": works("an ARN, or an id with accountId"),
            "qualifier": works("DEFAULT; there are no other endpoints yet"),
            "accountId": works(),
            "payload": works("100 MB at the most"),
        },
        output=_TRACING
        | {
            "runtimeSessionId": works(),
            "sessionEndpointUrl": never("needs allowedPorts"),
            "mcpSessionId": never("for MCP agents"),
            "mcpProtocolVersion": never("for MCP agents"),
            "contentType": works("what the agent answered, or else application/octet-stream"),
            "response": works("streamed as it comes, unbuffered"),
            "statusCode": works(),
            "traceId": works("what the agent answered"),
            "traceParent": works("what the agent answered"),
            "traceState": works("what the agent answered"),
            "baggage": works("what the agent answered"),
        },
    ),
    "StopRuntimeSession": Operation(
        DATA,
        input={
            "runtimeSessionId": works(),
            "agentRuntimeArn": works(),
            "qualifier": works(),
            "clientToken": works("a stop is idempotent by nature: it is read and not kept"),
        },
        output={"runtimeSessionId": works(), "statusCode": works()},
    ),
}
"""What is there."""

ABSENT: dict[str, str] = {
    "ListAgentRuntimeVersions": CONTROL,
    "CreateAgentRuntimeEndpoint": CONTROL,
    "GetAgentRuntimeEndpoint": CONTROL,
    "UpdateAgentRuntimeEndpoint": CONTROL,
    "DeleteAgentRuntimeEndpoint": CONTROL,
    "ListAgentRuntimeEndpoints": CONTROL,
    "ListAgentRuntimeVersionsByCapacityProvider": CONTROL,
    "CreateCapacityProvider": CONTROL,
    "GetCapacityProvider": CONTROL,
    "UpdateCapacityProvider": CONTROL,
    "DeleteCapacityProvider": CONTROL,
    "ListCapacityProviders": CONTROL,
    "TagResource": CONTROL,
    "UntagResource": CONTROL,
    "ListTagsForResource": CONTROL,
    "PutResourcePolicy": CONTROL,
    "GetResourcePolicy": CONTROL,
    "DeleteResourcePolicy": CONTROL,
    "InvokeAgentRuntimeCommand": DATA,
    "GetAgentCard": DATA,
    "DeleteCapacityProviderSession": DATA,
}
"""Operations of the runtime API that are not there."""
