"""What is seen of a running server: spans at a receiver, metrics, the access log, and the way out of a session."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import pytest
from otlp_receiver import OtlpReceiver, attributes
from packages import bundle_of
from ports import lease
from prometheus_client.parser import text_string_to_metric_families
from running_server import ROLE, RunningServer, agent, session_id, wait_until

COLLECTOR = Path(__file__).parents[1] / "support" / "collector.py"
SESSION = session_id()
KEY = "x-receiver-key"
SECRET = "only-the-receiver-knows"

INSTRUMENTED = """
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from opentelemetry import trace
from opentelemetry.propagate import extract

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer({"status": "Healthy"})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        tracer = trace.get_tracer("the-agent")
        with tracer.start_as_current_span("thinking", context=extract(dict(self.headers))) as span:
            span.set_attribute("thought", "deep")
        self.answer({"trace": f"{span.get_span_context().trace_id:032x}"})
    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return lease()


@pytest.fixture(scope="module")
def server(receiver: OtlpReceiver, metrics_port: int) -> Iterator[RunningServer]:
    settings = (
        f'[observability]\notlp_endpoint = "{receiver.url}"\nmetrics_port = {metrics_port}\n'
        "metrics_interval_s = 1\n"
        f'[observability.otlp_headers]\n{KEY} = "{SECRET}"\n'
    )
    with RunningServer(settings=settings, FREEHOLD_LOG__FORMAT="json") as running:
        yield running


@pytest.fixture(scope="module")
def evaluating(server: RunningServer) -> str:
    return server.deployed("evaluating", agent("evaluating"))


def evaluate(server: RunningServer, arn: str, session: str, code: str, **more: Any) -> Any:
    """What the agent answers after it has run `code`."""
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=code.encode(), **more
    )
    return json.loads(answer["response"].read())


def instrumented(server: RunningServer, name: str) -> dict[str, Any]:
    """A runtime whose agent runs under `opentelemetry-instrument`, READY."""
    bundle = bundle_of("opentelemetry-distro", "opentelemetry-exporter-otlp-proto-http")
    artifact = server.artifact({**bundle, "main.py": INSTRUMENTED})
    artifact["codeConfiguration"]["entryPoint"] = ["opentelemetry-instrument", "main.py"]
    made = server.control.create_agent_runtime(
        agentRuntimeName=name,
        agentRuntimeArtifact=artifact,
        roleArn=ROLE,
        networkConfiguration={"networkMode": "PUBLIC"},
        environmentVariables={"OTEL_BSP_SCHEDULE_DELAY": "50"},
    )
    found = server.until_settled(made["agentRuntimeId"])
    assert found["status"] == "READY", found.get("failureReason")
    return found


def access_lines(server: RunningServer, **wanted: Any) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    return [
        line
        for line in lines
        if line.get("event") == "request" and all(line.get(name) == value for name, value in wanted.items())
    ]


def scraped(port: int) -> dict[tuple[str, str], float]:
    """The values of every sample, by its name and the runtime it is about."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                name = sample.name, sample.labels.get("runtime", "")
                found[name] = found.get(name, 0) + sample.value
    return found


# -- traces -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_spans_of_an_instrumented_agent_and_of_the_server_arrive_as_one_trace(
    server: RunningServer, receiver: OtlpReceiver
) -> None:
    found = instrumented(server, "instrumented")
    session = session_id()
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=found["agentRuntimeArn"], runtimeSessionId=session, payload=b"{}"
    )
    trace_id = json.loads(answer["response"].read())["trace"]
    assert answer["traceParent"].split("-")[1] == trace_id

    def both() -> Any:
        spans = {span.name: (resource, span) for resource, span in receiver.spans() if span.trace_id.hex() == trace_id}
        return spans if {"InvokeAgentRuntime", "thinking"} <= spans.keys() else None

    spans = receiver.wait_for(both)
    resource, ours = spans["InvokeAgentRuntime"]
    runtime_id = found["agentRuntimeId"]
    told = attributes(ours.attributes)
    assert told["aws.operation.name"] == "InvokeAgentRuntime"
    assert told["aws.resource.arn"] == f"{found['agentRuntimeArn']}/runtime-endpoint/DEFAULT:DEFAULT"
    assert told["aws.request_id"] == answer["ResponseMetadata"]["RequestId"]
    assert (told["aws.agent.id"], told["aws.endpoint.name"]) == (runtime_id, "DEFAULT")
    assert (told["aws.account.id"], told["aws.region"]) == ("000000000000", "us-east-1")
    assert told["session.id"] == session
    assert told["latency_ms"] > 0
    assert "error_type" not in told
    assert resource["service.name"] == "freehold"
    assert not ours.parent_span_id
    resource, theirs = spans["thinking"]
    assert theirs.parent_span_id == ours.span_id
    assert attributes(theirs.attributes) == {"thought": "deep"}
    assert resource["service.name"] == "instrumented.DEFAULT"
    assert resource["cloud.resource_id"] == f"{found['agentRuntimeArn']}/runtime-endpoint/DEFAULT:DEFAULT"
    assert all(headers[KEY] == SECRET for path, headers, _ in receiver.requests if path == "/v1/traces")


@pytest.mark.slow
def test_a_collector_takes_the_spans_of_agent_and_server(receiver: OtlpReceiver, tmp_path: Path) -> None:
    pytest.importorskip("rotel", reason="there is a wheel of it for some versions of Python only")
    http, grpc = lease(), lease()
    command = [sys.executable, str(COLLECTOR), str(tmp_path), str(http), str(grpc), receiver.url]
    collector = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        wait_until(lambda: is_listening(http), "the collector")
        with RunningServer(FREEHOLD_OBSERVABILITY__OTLP_ENDPOINT=f"http://127.0.0.1:{http}") as server:
            made = instrumented(server, "collected")
            server.data.invoke_agent_runtime(
                agentRuntimeArn=made["agentRuntimeArn"], runtimeSessionId=session_id(), payload=b"{}"
            )["response"].read()
            found = receiver.wait_for(
                lambda: [s for resource, s in receiver.spans() if resource["service.name"] == "collected.DEFAULT"]
            )
            receiver.wait_for(lambda: [s for _, s in receiver.spans() if s.span_id == found[0].parent_span_id])
    finally:
        assert collector.stdin is not None
        collector.stdin.close()
        collector.wait(20)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_callers_trace_goes_on_and_an_unsampled_one_has_no_spans(
    server: RunningServer, receiver: OtlpReceiver, evaluating: str
) -> None:
    session = session_id()
    trace, span = "5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8"
    for sampled in "01":
        root = trace.replace("5759", f"575{sampled}")
        header = f"Root=1-{root[:8]}-{root[8:]};Parent={span};Sampled={sampled}"
        answer = server.data.invoke_agent_runtime(
            agentRuntimeArn=evaluating, runtimeSessionId=session, payload=b"return 1", traceId=header
        )
        assert answer["traceParent"].startswith(f"00-{root}-")
        assert answer["traceParent"].endswith(f"-0{sampled}")
        assert answer["traceId"].startswith(f"Root=1-{root[:8]}-{root[8:]};Parent=")
    # The sampled one came last.
    found = receiver.wait_for(lambda: [s for _, s in receiver.spans() if s.trace_id.hex().startswith("5751")])
    assert found[0].parent_span_id.hex() == span
    assert not [s for _, s in receiver.spans() if s.trace_id.hex().startswith("5750")]


def test_a_failed_request_has_a_span_that_says_whose_fault_it_is(
    server: RunningServer, receiver: OtlpReceiver, evaluating: str
) -> None:
    with pytest.raises(botocore.exceptions.ClientError):
        server.data.invoke_agent_runtime(agentRuntimeArn=evaluating, qualifier="missing", payload=b"")
    found = receiver.wait_for(lambda: [s for _, s in receiver.spans() if s.status.message])
    assert found[0].status.message == "ResourceNotFoundException"
    assert attributes(found[0].attributes)["error_type"] == "user"


# -- the way out --------------------------------------------------------------------------------------------------

ASK = """
import socket
def ask(data, port=4318):
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(data)
        sock.settimeout(10)
        told = b""
        while part := sock.recv(65536):
            told += part
        return told.decode()
"""


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (repr(b"GET /v1/traces HTTP/1.1\r\nHost: x\r\n\r\n"), 405),
        (repr(b"POST /v1/other HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 404),
        (repr(b"POST /v1/traces/../../x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 404),
        (repr(b"POST http://127.0.0.1:22/v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 404),
        (repr(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n"), 404),
        (repr(b"nonsense\r\n\r\n"), 400),
        (repr(b"POST /v1/traces HTTP/1.0\r\nContent-Length: 0\r\n\r\n"), 400),
        (repr(b"POST /v1/traces HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        ("b'POST /v1/traces HTTP/1.1\\r\\nX: ' + b'y' * 20_000", 400),
        ("b'POST /v1/traces HTTP/1.1\\r\\nContent-Length: 5000000\\r\\n\\r\\n' + b'y' * 4_194_305", 413),
    ],
)
def test_an_agent_reaches_nothing_of_the_receiver_but_its_export_paths(
    server: RunningServer, receiver: OtlpReceiver, evaluating: str, request_text: str, status: int
) -> None:
    before = len(receiver.requests)
    told = evaluate(server, evaluating, SESSION, f"{ASK}\nreturn ask({request_text})")
    assert told["value"].startswith(f"HTTP/1.1 {status} "), told
    assert not [r for r in receiver.requests[before:] if r[0] == "/v1/traces" and not r[2].resource_spans]


def test_an_export_reaches_the_receiver_with_its_key_and_without_other_headers(
    server: RunningServer, receiver: OtlpReceiver, evaluating: str
) -> None:
    request = (
        b"POST /v1/logs HTTP/1.1\r\nHost: elsewhere\r\nContent-Type: application/x-protobuf\r\nX-Aws-Log-Group: g\r\n"
        b"X-Receiver-Key: forged\r\nCookie: c\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    told = evaluate(server, evaluating, SESSION, f"{ASK}\nreturn ask({request!r})")
    assert "value" in told, told
    told = told["value"]
    assert told.startswith("HTTP/1.1 200 ")
    assert SECRET not in told
    (headers,) = [headers for path, headers, _ in receiver.requests if path == "/v1/logs"]
    assert headers[KEY] == SECRET
    assert headers["x-aws-log-group"] == "g"
    assert headers["host"] in receiver.url
    assert "cookie" not in headers


def test_a_session_holds_no_more_connections_to_the_relay_than_its_share(
    server: RunningServer, evaluating: str
) -> None:
    code = f"""{ASK}
held = [socket.create_connection(("127.0.0.1", 4318), 10) for _ in range(20)]
request = b"POST /v1/other HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n"
import time
served = 0
for sock in held:
    sock.sendall(request)
for sock in held[:8]:
    sock.settimeout(10)
    assert sock.recv(4096)
for sock in held:
    sock.close()
return ask(request)
"""
    assert evaluate(server, evaluating, session_id(), code)["value"].startswith("HTTP/1.1 404 ")


# -- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_count_what_callers_did(server: RunningServer, metrics_port: int, evaluating: str) -> None:
    runtime = evaluating.rpartition("/")[2]
    session = session_id()
    before = scraped(metrics_port)
    for _ in range(3):
        evaluate(server, evaluating, session, "return 1")
    with pytest.raises(botocore.exceptions.ClientError):
        server.data.invoke_agent_runtime(agentRuntimeArn=evaluating, runtimeSessionId=session[:30] + "!!!", payload=b"")
    after = scraped(metrics_port)

    def grown(name: str, about: str = runtime) -> float:
        return after.get((name, about), 0) - before.get((name, about), 0)

    assert grown("freehold_invocations_total") == 3
    assert grown("freehold_latency_seconds_count") == 3
    assert grown("freehold_bytes_in_total") == 3 * len("return 1")
    assert grown("freehold_user_errors_total") == 0
    assert grown("freehold_user_errors_total", "") == 1
    assert grown("freehold_sessions_total") == 1
    assert grown("freehold_active_sessions") == 1
    assert after["freehold_vcpu_hours_total", runtime] > 0
    server.data.stop_runtime_session(agentRuntimeArn=evaluating, runtimeSessionId=session)
    ended = scraped(metrics_port)
    assert ended["freehold_active_sessions", runtime] == after["freehold_active_sessions", runtime] - 1
    assert ended["freehold_session_ends_total", runtime] >= 1


@pytest.mark.slow
def test_a_killed_worker_counts_anew_and_takes_nothing_from_the_others() -> None:
    port = lease()

    def counted() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found: dict[str, float] = {}
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == "freehold_invocations_total":
                process = sample.labels["process"]
                found[process] = found.get(process, 0) + sample.value
            elif sample.name == "freehold_connections":
                found.setdefault(sample.labels["process"], 0)
        return found

    with RunningServer(workers=2, FREEHOLD_OBSERVABILITY__METRICS_PORT=str(port)) as server:
        for _ in range(20):
            urllib.request.urlopen(f"{server.url}/_freehold/live", timeout=10).close()
        before = counted()
        assert sum(before.values()) == 20
        server.kill("gateway-0")
        after = wait_until(lambda: found if len(found := counted()) == 2 else None, "both workers count")
        assert after == {"gateway-0": 0, "gateway-1": before["gateway-1"]}


def test_metrics_reach_the_receiver_under_the_services_names(
    server: RunningServer, receiver: OtlpReceiver, evaluating: str
) -> None:
    runtime, session = evaluating.rpartition("/")[2], session_id()
    evaluate(server, evaluating, session, "return 1")

    def latest() -> dict[str, Any] | None:
        """The last value of each metric of this runtime's invocations and sessions, once there are any."""
        found: dict[str, Any] = {}
        for path, headers, message in list(receiver.requests):
            if path == "/v1/metrics" and headers.get(KEY) == SECRET:
                found |= points_of(message, runtime)
        return found if {"Invocations", "Latency", "ActiveSessionCount"} <= set(found) else None

    found = receiver.wait_for(latest)
    assert found["Invocations"].as_double >= 1
    assert found["ActiveSessionCount"].as_double >= 1
    latency = found["Latency"]
    assert latency.count == sum(latency.bucket_counts) == found["Invocations"].as_double
    assert len(latency.bucket_counts) == len(latency.explicit_bounds) + 1
    assert 0 < latency.sum < 60


def points_of(message: Any, runtime: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in message.resource_metrics:
        if attributes(group.resource.attributes).get("service.name") != "freehold":
            continue
        for metric in (metric for scope in group.scope_metrics for metric in scope.metrics):
            data = getattr(metric, metric.WhichOneof("data"))
            for point in data.data_points:
                told = attributes(point.attributes)
                if (
                    told.get("runtime") == runtime
                    and told.get("operation", "InvokeAgentRuntime") == "InvokeAgentRuntime"
                ):
                    found[metric.name] = point
    return found


def test_metrics_are_shown_to_whoever_signs_and_to_nobody_else(server: RunningServer) -> None:
    url = f"{server.url}/_freehold/metrics"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    assert refused.value.code == 403
    found = server.exported
    keys = botocore.credentials.Credentials(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])
    request = botocore.awsrequest.AWSRequest("GET", url)
    botocore.auth.SigV4Auth(keys, "bedrock-agentcore", found["AWS_REGION"]).add_auth(request)
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=dict(request.headers.items())), timeout=10
    ) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"freehold_invocations_total" in answer.read()
        assert not [name for name in answer.headers if name.lower().startswith("x-freehold")]


# -- access log ---------------------------------------------------------------------------------------------------


def test_each_request_is_one_line_without_secrets(server: RunningServer, evaluating: str) -> None:
    session = session_id()
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=evaluating, runtimeSessionId=session, payload=b"return 'a secret'", baggage="b=hidden"
    )
    body = answer["response"].read()
    request_id = answer["ResponseMetadata"]["RequestId"]
    (line,) = wait_until(lambda: access_lines(server, request_id=request_id), "the line")
    assert line["operation"] == "InvokeAgentRuntime"
    assert (line["method"], line["status"], line["account"]) == ("POST", 200, "000000000000")
    assert line["runtime_id"] == evaluating.rpartition("/")[2]
    assert (line["endpoint"], line["session_id"]) == ("DEFAULT", session)
    assert line["generation"] > 0
    assert (line["bytes_in"], line["bytes_out"]) == (len("return 'a secret'"), len(body))
    assert line["duration_ms"] >= line["first_byte_ms"] > 0
    text = server.log_text()
    for secret in ("a secret", "hidden", server.exported["AWS_SECRET_ACCESS_KEY"], SECRET):
        assert secret not in text


def test_an_operation_of_the_control_plane_is_logged_by_name_with_what_went_wrong(server: RunningServer) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        server.control.get_agent_runtime(agentRuntimeId="missing-0123456789")
    request_id = refused.value.response["ResponseMetadata"]["RequestId"]
    (line,) = wait_until(lambda: access_lines(server, request_id=request_id), "the line")
    assert (line["operation"], line["status"], line["error"]) == ("GetAgentRuntime", 404, "ResourceNotFoundException")
    assert line["account"] == "000000000000"
