"""The environment an agent finds: what the platform says, and the version's own variables over it.

Not for: what depends on where it runs (PATH, HOME, PYTHONPATH: the backend). Invariant: nothing of the server's own
environment is ever in it. Source: spec sections 5 and 10.21; where the OTEL variables differ from the service's,
docs/reference/divergences.md says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from freehold.domain.arns import AgentRuntimeArn
from freehold.domain.launch import LaunchSpec

_AWS_DISTRO: Final = Path("amazon", "opentelemetry", "distro")
"""The package of `aws-opentelemetry-distro` in a bundle."""


def agent_environment(
    launch: LaunchSpec, *, endpoint: str, public_url: str, otlp_endpoint: str | None = None
) -> dict[str, str]:
    """What a session of `launch` at `endpoint` finds. `public_url` is where callers reach this server, without a slash.

    `otlp_endpoint` is where the agent finds an OTLP/HTTP receiver; None: there is none.
    """
    arn = AgentRuntimeArn(launch.region, launch.account, launch.runtime_id)
    platform = {
        "AWS_REGION": launch.region,
        "AWS_DEFAULT_REGION": launch.region,
        # The SDK's servers bind 0.0.0.0 only when they believe to be in a container.
        "DOCKER_CONTAINER": "1",
        "AGENTCORE_RUNTIME_URL": arn.url(public_url, endpoint),
    }
    return platform | _telemetry(launch, endpoint, str(arn), otlp_endpoint) | launch.environment


def _telemetry(launch: LaunchSpec, endpoint: str, arn: str, otlp_endpoint: str | None) -> dict[str, str]:
    log_group = f"/aws/bedrock-agentcore/runtimes/{launch.runtime_id}-{endpoint}"
    resource = {
        "service.name": f"{launch.runtime_name}.{endpoint}",
        "aws.service.type": "gen_ai_agent",
        "aws.log.group.names": log_group,
        "cloud.provider": "aws",
        "cloud.region": launch.region,
        "cloud.account.id": launch.account,
        # Clients cut the runtime's ARN out of this one.
        "cloud.resource_id": f"{arn}/runtime-endpoint/{endpoint}:{endpoint}",
    }
    told = {"OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{name}={value}" for name, value in resource.items())}
    signals = ("TRACES", "METRICS", "LOGS")
    if otlp_endpoint is None:
        # Exporters would try their default receiver again and again, and say so in the agent's log.
        return told | {f"OTEL_{signal}_EXPORTER": "none" for signal in signals}
    told |= {f"OTEL_{signal}_EXPORTER": "otlp" for signal in signals}
    told |= {
        "AGENT_OBSERVABILITY_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint,
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": (
            f"x-aws-log-group={log_group},x-aws-log-stream=otel-rt-logs,x-aws-metric-namespace=bedrock-agentcore"
        ),
    }
    if Path(launch.code_dir, _AWS_DISTRO).is_dir():
        # Only there: OpenTelemetry configures nothing at all when the configurator that is named is not installed.
        told |= {"OTEL_PYTHON_DISTRO": "aws_distro", "OTEL_PYTHON_CONFIGURATOR": "aws_configurator"}
        if "OTEL_EXPORTER_OTLP_ENDPOINT" not in launch.environment:
            # Unless each signal's is named, this distribution sends to the service's own addresses.
            told |= {
                f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT": f"{otlp_endpoint}/v1/{signal.lower()}" for signal in signals
            }
    return told
