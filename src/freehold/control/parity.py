"""What AWS would refuse or do otherwise with a version that runs here: warnings, as data.

For: whoever means to move an agent to AWS, or from there. Pure. Not for what Freehold refuses (`configuration`).
Invariant: a warning has a code that stays the same, and says what is different and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from freehold.control import authorizers
from freehold.control import configuration as configurations
from freehold.control.reach import PUBLIC_INTERNET, Refused

AWS_MACHINE: Final = "aarch64"
DEPRECATED: Final[dict[str, date]] = {"PYTHON_3_10": date(2026, 6, 30), "PYTHON_3_11": date(2026, 6, 30)}
"""Managed runtimes and when AWS deprecated them (spec section 8)."""


@dataclass(frozen=True, slots=True)
class ParityWarning:
    """`member` is the configuration's member that it is about, if it is about one."""

    code: str
    message: str
    member: str | None = None

    def document(self) -> dict[str, Any]:
        told = {"code": self.code, "message": self.message}
        return told if self.member is None else {**told, "member": self.member}


@dataclass(frozen=True, slots=True)
class Here:
    """What of this server matters for a version. `machine` is as in uname(2)."""

    account: str
    machine: str


HoldsBucket = Callable[[str], bool]
"""Whether a bucket of this name is one of the server's own. Blocking."""


def warnings(configuration: Mapping[str, Any], here: Here, *, bucket_is_local: bool) -> list[ParityWarning]:
    """Everything that differs for one version's normalised configuration."""
    return [
        *_architecture(here),
        *_runtime(configuration),
        *_code(configuration, bucket_is_local),
        *_role(configuration, here),
        *_lifecycle(configuration),
        *_network(),
        *_authorizer(configuration),
    ]


def _architecture(here: Here) -> Iterator[ParityWarning]:
    if here.machine != AWS_MACHINE:
        yield ParityWarning(
            "ARCHITECTURE",
            f"Agents run on {here.machine} here and on arm64 at AWS: a bundle with compiled packages works in one "
            "place only. Package it again for the other, or keep it pure.",
            "agentRuntimeArtifact",
        )


def _runtime(configuration: Mapping[str, Any]) -> Iterator[ParityWarning]:
    runtime = configurations.artifact_of(configuration).runtime
    since = DEPRECATED.get(runtime)
    if since is not None:
        yield ParityWarning(
            "RUNTIME_DEPRECATED",
            f"AWS deprecated {runtime} on {since.isoformat()} and refuses new versions with it: choose a newer one.",
            "agentRuntimeArtifact.codeConfiguration.runtime",
        )


def _code(configuration: Mapping[str, Any], bucket_is_local: bool) -> Iterator[ParityWarning]:
    if bucket_is_local:
        bucket = configurations.artifact_of(configuration).source.bucket
        yield ParityWarning(
            "LOCAL_BUCKET",
            f"The bucket {bucket} is one of this server's own; AWS reads code from S3 alone: put the zip there.",
            "agentRuntimeArtifact.codeConfiguration.code.s3.bucket",
        )


def _role(configuration: Mapping[str, Any], here: Here) -> Iterator[ParityWarning]:
    role: str = configuration["roleArn"]
    yield ParityWarning(
        "NO_ROLE_CREDENTIALS",
        "Sessions get no credentials of the execution role here; at AWS the metadata service has them. Give the agent "
        "what it needs in its environmentVariables.",
        "roleArn",
    )
    account = role.split(":")[4] if role.count(":") >= 5 else ""
    if account != here.account:
        yield ParityWarning(
            "ROLE_ACCOUNT",
            f"AWS takes an execution role of the runtime's own account only; this one names account {account or '?'}.",
            "roleArn",
        )


def _lifecycle(configuration: Mapping[str, Any]) -> Iterator[ParityWarning]:
    idle_timeout_s, _ = configurations.lifecycle_of(configuration)
    yield ParityWarning(
        "IDLE_RULE",
        "A request in flight holds off the idle timeout here; at AWS only an answer HealthyBusy to /ping does. If "
        f"requests may take longer than {idle_timeout_s} s, have the agent answer that.",
        "lifecycleConfiguration.idleRuntimeSessionTimeout",
    )


def _authorizer(configuration: Mapping[str, Any]) -> Iterator[ParityWarning]:
    said = authorizers.of(configuration)
    if said is None:
        return
    at = f"{authorizers.MEMBER}.customJWTAuthorizer"
    try:
        PUBLIC_INTERNET.origin(said["discoveryUrl"], has_place=bool(said.get("privateEndpoint")))
    except Refused as refused:
        yield ParityWarning(
            "IDENTITY_PROVIDER",
            f"AWS can't reach the identity provider's discovery document: {refused}. It needs https, and a public "
            "address or a privateEndpoint.",
            f"{at}.discoveryUrl",
        )
    if said.get("certificateConfigurations") and not said.get("privateEndpoint"):
        yield ParityWarning(
            "PRIVATE_AUTHORITY",
            "AWS takes certificateConfigurations only together with privateEndpoint.",
            f"{at}.certificateConfigurations",
        )


def _network() -> Iterator[ParityWarning]:
    yield ParityWarning(
        "NETWORK",
        "In their sandbox, sessions have a network of their own with a loopback and no way out; at AWS, PUBLIC reaches "
        "the internet.",
        "networkConfiguration.networkMode",
    )
