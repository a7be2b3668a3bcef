"""What an agent is told in its environment: of itself, and of telemetry."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.warden.environment import agent_environment

RECEIVER = "http://127.0.0.1:4318"


def environment(
    code_dir: Path, otlp_endpoint: str | None = RECEIVER, endpoint: str = "prod", **own: str
) -> dict[str, str]:
    launch = LaunchSpec(
        "111122223333",
        "eu-central-1",
        "agent-0123456789",
        "agent",
        3,
        ServerProtocol.HTTP,
        8080,
        str(code_dir),
        Program(Interpreter("python"), ("main.py",)),
        900,
        28800,
        own,
    )
    return agent_environment(launch, endpoint=endpoint, public_url="http://here", otlp_endpoint=otlp_endpoint)


@pytest.fixture
def with_distro(tmp_path: Path) -> Path:
    (tmp_path / "amazon" / "opentelemetry" / "distro").mkdir(parents=True)
    return tmp_path


def test_the_resource_names_the_endpoint_as_the_service_does(tmp_path: Path) -> None:
    told = environment(tmp_path)
    resource = dict(pair.split("=", 1) for pair in told["OTEL_RESOURCE_ATTRIBUTES"].split(","))
    arn = "arn:aws:bedrock-agentcore:eu-central-1:111122223333:runtime/agent-0123456789"
    assert resource["service.name"] == "agent.prod"
    assert resource["cloud.resource_id"] == f"{arn}/runtime-endpoint/prod:prod"
    assert resource["cloud.resource_id"].split("/runtime-endpoint/")[0] == arn
    assert resource["aws.log.group.names"] == "/aws/bedrock-agentcore/runtimes/agent-0123456789-prod"


def test_an_agent_knows_by_which_url_its_callers_reach_its_endpoint(tmp_path: Path) -> None:
    arn = "arn%3Aaws%3Abedrock-agentcore%3Aeu-central-1%3A111122223333%3Aruntime%2Fagent-0123456789"
    url = f"http://here/runtimes/{arn}/invocations/"
    assert environment(tmp_path)["AGENTCORE_RUNTIME_URL"] == f"{url}?qualifier=prod"
    assert environment(tmp_path, endpoint="DEFAULT")["AGENTCORE_RUNTIME_URL"] == url


def test_without_a_receiver_nothing_is_exported(tmp_path: Path) -> None:
    told = environment(tmp_path, None)
    assert {told[f"OTEL_{signal}_EXPORTER"] for signal in ("TRACES", "METRICS", "LOGS")} == {"none"}
    assert not {name for name in told if "OTLP" in name or name == "AGENT_OBSERVABILITY_ENABLED"}


def test_with_a_receiver_all_signals_go_there(tmp_path: Path) -> None:
    told = environment(tmp_path)
    assert {told[f"OTEL_{signal}_EXPORTER"] for signal in ("TRACES", "METRICS", "LOGS")} == {"otlp"}
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == RECEIVER
    assert told["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    assert told["AGENT_OBSERVABILITY_ENABLED"] == "true"
    assert told["OTEL_EXPORTER_OTLP_LOGS_HEADERS"].endswith(
        "agent-0123456789-prod,x-aws-log-stream=otel-rt-logs,x-aws-metric-namespace=bedrock-agentcore"
    )


def test_the_aws_distribution_is_named_only_where_the_bundle_has_it(tmp_path: Path, with_distro: Path) -> None:
    assert environment(with_distro)["OTEL_PYTHON_CONFIGURATOR"] == "aws_configurator"
    assert environment(with_distro)["OTEL_PYTHON_DISTRO"] == "aws_distro"
    assert environment(with_distro)["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == f"{RECEIVER}/v1/traces"
    without = tmp_path / "without"
    without.mkdir()
    assert not {name for name in environment(without) if name.startswith("OTEL_PYTHON")}


def test_the_versions_own_variables_win(with_distro: Path) -> None:
    told = environment(with_distro, OTEL_TRACES_EXPORTER="console", OTEL_EXPORTER_OTLP_ENDPOINT="http://other")
    assert (told["OTEL_TRACES_EXPORTER"], told["OTEL_EXPORTER_OTLP_ENDPOINT"]) == ("console", "http://other")
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" not in told
