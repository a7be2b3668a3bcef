"""What a version's configuration may say beyond the service model, and what it means when it says nothing.

For: `control.runtimes`, which gets a configuration normalised once, and the reconciler and feed, which read it back
through the functions below. Not for shapes, patterns and required members (`aws.validate` has checked them).
Invariant: a member that Freehold can't make act is refused, by name; nothing is stored and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from freehold.artifacts.base import CodeArtifact, Prepared, S3Object
from freehold.control import authorizers, restricted_headers
from freehold.control.reach import PUBLIC_INTERNET, Reach
from freehold.domain import limits
from freehold.domain.errors import FieldProblem, ValidationFailed
from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import ServerProtocol
from freehold.store.base import RuntimeKey

Json = dict[str, Any]

CONTRACT_MEMBERS: Final = frozenset({"protocolConfiguration", "requestHeaderConfiguration", authorizers.MEMBER})
"""What running sessions of a version need of its configuration after the version was deleted."""

PLATFORM_VERSION: Final = "V1"
DEFAULT_PORTS: Final = {
    ServerProtocol.HTTP: 8080,
    ServerProtocol.MCP: 8000,
    ServerProtocol.A2A: 9000,
    ServerProtocol.AGUI: 8080,
}
"""Where agents listen (spec section 1.1)."""
RESERVED_PORT: Final = 8443
_BROKEN_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")

_VALUE: Final[Json] = {}
_UNDERSTOOD: Final[Json] = {
    **dict.fromkeys(("agentRuntimeId", "agentRuntimeName", "clientToken", "tags"), _VALUE),
    **dict.fromkeys(("description", "roleArn", "environmentVariables", "platformVersion"), _VALUE),
    "agentRuntimeArtifact": {
        "codeConfiguration": {
            "code": {"s3": dict.fromkeys(("bucket", "prefix", "versionId"), _VALUE)},
            "runtime": _VALUE,
            "entryPoint": _VALUE,
        }
    },
    "networkConfiguration": {"networkMode": _VALUE},
    "protocolConfiguration": dict.fromkeys(("serverProtocol", "port", "path"), _VALUE),
    "lifecycleConfiguration": {"idleRuntimeSessionTimeout": _VALUE, "maxLifetime": _VALUE},
    "requestHeaderConfiguration": {"requestHeaderAllowlist": _VALUE},
    authorizers.MEMBER: authorizers.UNDERSTOOD,
    "metadataConfiguration": {"requireMMDSV2": _VALUE},
}
"""Members that act here, by structure. Whatever else the model has, now or after an upgrade of botocore, is refused."""


def normalise(params: Mapping[str, Any], reach: Reach = PUBLIC_INTERNET) -> Json:
    """The full configuration that `params` (a validated Create or Update request) asks for, defaults filled in.

    The members are those of GetAgentRuntime's answer. `reach` says where a discovery document may be. Raises
    ValidationFailed with every problem found.
    """
    problems = list(_unsupported(params))
    authorizer_is_read = not any(problem.name.startswith(authorizers.MEMBER) for problem in problems)
    problems += _broken_rules(params)
    if authorizer_is_read and (authorizer := authorizers.of(params)) is not None:
        problems += authorizers.problems(authorizer, reach)
    if problems:
        raise _refusal(problems)
    protocol = _part(params, "protocolConfiguration") or {"serverProtocol": ServerProtocol.HTTP.value}
    configuration: Json = {
        "agentRuntimeArtifact": params["agentRuntimeArtifact"],
        "roleArn": params["roleArn"],
        "networkConfiguration": {"networkMode": "PUBLIC"},
        "protocolConfiguration": {k: v for k, v in protocol.items() if v is not None},
        "lifecycleConfiguration": _lifecycle(_part(params, "lifecycleConfiguration")),
        "metadataConfiguration": {"requireMMDSV2": True},
        "platformVersion": PLATFORM_VERSION,
    }
    for optional in ("description", "requestHeaderConfiguration", "environmentVariables", authorizers.MEMBER):
        if params.get(optional):
            configuration[optional] = params[optional]
    return configuration


# -- reading a normalised configuration ---------------------------------------------------------------------------


def artifact_of(configuration: Mapping[str, Any]) -> CodeArtifact:
    """The code that the version runs."""
    code = configuration["agentRuntimeArtifact"]["codeConfiguration"]
    s3 = code["code"]["s3"]
    return CodeArtifact(
        source=S3Object(s3["bucket"], s3["prefix"], s3.get("versionId")),
        runtime=code["runtime"],
        entry_point=tuple(code["entryPoint"]),
    )


def protocol_of(configuration: Mapping[str, Any]) -> tuple[ServerProtocol, int]:
    """What the agent speaks, and on which port of its own network."""
    said = configuration["protocolConfiguration"]
    protocol = ServerProtocol(said["serverProtocol"])
    return protocol, said.get("port") or DEFAULT_PORTS[protocol]


def path_of(configuration: Mapping[str, Any]) -> str | None:
    """Where the agent takes what InvokeAgentRuntime carries, if not where its protocol says."""
    return configuration["protocolConfiguration"].get("path")


def lifecycle_of(configuration: Mapping[str, Any]) -> tuple[int, int]:
    """(idle timeout, maximum lifetime) of its sessions, in seconds."""
    lifecycle = configuration["lifecycleConfiguration"]
    return lifecycle["idleRuntimeSessionTimeout"], lifecycle["maxLifetime"]


def launch_of(
    key: RuntimeKey, name: str, configuration: Mapping[str, Any], prepared: Prepared, *, version: int
) -> LaunchSpec:
    """How sessions of a version are started, whose bundle is `prepared`."""
    protocol, port = protocol_of(configuration)
    idle_timeout_s, max_lifetime_s = lifecycle_of(configuration)
    return LaunchSpec(
        account=key.scope.account,
        region=key.scope.region,
        runtime_id=key.runtime_id,
        runtime_name=name,
        version=version,
        protocol=protocol,
        port=port,
        code_dir=prepared.code_dir,
        program=prepared.program,
        idle_timeout_s=idle_timeout_s,
        max_lifetime_s=max_lifetime_s,
        environment=configuration.get("environmentVariables") or {},
    )


def forwarded_headers(configuration: Mapping[str, Any]) -> list[str]:
    """Lower-case names of the request headers that reach the agent beyond those of its contract.

    `Authorization` may be listed, but is forwarded only where a JWT authorizer reads it (spec section 1.5): a SigV4
    Authorization never reaches an agent.
    """
    listed: list[str] = _part(configuration, "requestHeaderConfiguration").get("requestHeaderAllowlist") or []
    has_tokens = authorizers.of(configuration) is not None
    return [name.lower() for name in listed if has_tokens or name.lower() != "authorization"]


# -- rules --------------------------------------------------------------------------------------------------------


def _unsupported(params: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Members and values that AWS has and this Freehold does not."""
    yield from _not_understood("", params, _UNDERSTOOD)
    network_mode = _part(params, "networkConfiguration").get("networkMode", "PUBLIC")
    if network_mode != "PUBLIC":
        yield _not_yet("networkConfiguration.networkMode", f"value {network_mode}")
    if params.get("platformVersion", PLATFORM_VERSION) != PLATFORM_VERSION:
        yield _not_yet("platformVersion", "any value but V1")
    if _part(params, "metadataConfiguration").get("requireMMDSV2") is False:
        yield _not_yet("metadataConfiguration.requireMMDSV2", "value false")


def _not_understood(path: str, said: Mapping[str, Any], understood: Json) -> Iterator[FieldProblem]:
    """An empty list or structure asks for nothing."""
    for name, value in said.items():
        if value is None or value == [] or value == {}:
            continue
        inner = understood.get(name)
        if inner is None:
            yield _not_yet(path + name)
        elif inner and isinstance(value, list):
            for number, element in enumerate(cast(list[Json], value), 1):
                yield from _not_understood(f"{path}{name}.{number}.member.", element, inner)
        elif inner:
            yield from _not_understood(f"{path}{name}.", value, inner)


def _broken_rules(params: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Rules of the service that its model does not hold."""
    protocol = _part(params, "protocolConfiguration")
    if protocol.get("port") == RESERVED_PORT:
        yield FieldProblem("protocolConfiguration.port", f"port {RESERVED_PORT} is reserved")
    if _BROKEN_ESCAPE.search(protocol.get("path") or ""):
        yield FieldProblem("protocolConfiguration.path", "a '%' must be followed by two hexadecimal digits")
    yield from _lifecycle_problems(_part(params, "lifecycleConfiguration"))
    yield from _environment_problems(_part(params, "environmentVariables"))
    headers = _part(params, "requestHeaderConfiguration")
    yield from _allowlist_problems(headers.get("requestHeaderAllowlist") or [])


def _lifecycle_problems(lifecycle: Mapping[str, int]) -> Iterator[FieldProblem]:
    wrong = False
    for member, rule, holds in _LIFECYCLE_RULES:
        value = lifecycle.get(member)
        if value is not None and not holds(value):
            wrong = True
            yield FieldProblem(f"lifecycleConfiguration.{member}", f"Member must have value {rule}")
    if not wrong:
        filled = _lifecycle(lifecycle)
        if filled["idleRuntimeSessionTimeout"] > filled["maxLifetime"]:
            yield FieldProblem(
                "lifecycleConfiguration", "idleRuntimeSessionTimeout must be less than or equal to maxLifetime"
            )


def _at_least(value: int) -> bool:
    return value >= limits.MIN_LIFECYCLE_S


def _at_most(value: int) -> bool:
    return value <= limits.MAX_LIFECYCLE_S


_LIFECYCLE_RULES: Final[tuple[tuple[str, str, Callable[[int], bool]], ...]] = tuple(
    (member, rule, holds)
    for member in ("idleRuntimeSessionTimeout", "maxLifetime")
    for rule, holds in (
        (f"greater than or equal to {limits.MIN_LIFECYCLE_S}", _at_least),
        (f"less than or equal to {limits.MAX_LIFECYCLE_S}", _at_most),
    )
)


def _lifecycle(said: Mapping[str, int]) -> dict[str, int]:
    """Defaults of spec section 2.1: a short maximum lifetime alone is the idle timeout too."""
    idle, longest = said.get("idleRuntimeSessionTimeout"), said.get("maxLifetime")
    if idle is None:
        short = longest is not None and longest <= limits.DEFAULT_IDLE_TIMEOUT_S
        idle = longest if short and longest is not None else limits.DEFAULT_IDLE_TIMEOUT_S
    return {
        "idleRuntimeSessionTimeout": idle,
        "maxLifetime": limits.DEFAULT_MAX_LIFETIME_S if longest is None else longest,
    }


def _environment_problems(variables: Mapping[str, str]) -> Iterator[FieldProblem]:
    """Values are sensitive: problems name keys at the most."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in variables.items())
    if size > limits.MAX_ENVIRONMENT_BYTES:
        yield FieldProblem(
            "environmentVariables",
            f"keys and values together are {size} bytes; the maximum is {limits.MAX_ENVIRONMENT_BYTES}",
        )
    for key, value in variables.items():
        if "=" in key or "\0" in key or "\0" in value:
            yield FieldProblem(
                "environmentVariables",
                "a process's environment can't hold '=' or NUL in a key, nor NUL in a value",
            )
            return


def _allowlist_problems(names: list[str]) -> Iterator[FieldProblem]:
    where = "requestHeaderConfiguration.requestHeaderAllowlist"
    seen: set[str] = set()
    for name in names:
        lower = name.lower()
        if lower in seen:
            yield FieldProblem(where, f"header {name} is listed twice (names are case-insensitive)")
        elif restricted_headers.is_restricted(lower):
            yield FieldProblem(where, f"header {name} is restricted and can't be forwarded")
        seen.add(lower)


def _part(structure: Mapping[str, Any], member: str) -> Json:
    """A member that is itself a structure or map; empty when absent."""
    return structure.get(member) or {}


def _not_yet(name: str, what: str = "") -> FieldProblem:
    subject = f"{name} ({what})" if what else name
    return FieldProblem(name, f"Freehold does not support {subject} yet")


def _refusal(problems: list[FieldProblem]) -> ValidationFailed:
    first = problems[0]
    if len(problems) == 1 and (first.name == "lifecycleConfiguration" or first.message == authorizers.NOT_SCP):
        message = first.message  # the service's own sentence
    else:
        noun = "error" if len(problems) == 1 else "errors"
        told = "; ".join(f"at '{problem.name}': {problem.message}" for problem in problems)
        message = f"{len(problems)} validation {noun} detected: {told}"
    return ValidationFailed(message, fields=tuple(problems))
