"""Every operation of the control plane by the AWS CLI, and every listing by boto3's paginators."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import botocore
import pytest
from running_server import ONE_WORKER, ROLE, RunningServer, agent, wait_until

from freehold.control.operations import OPERATIONS

pytestmark = [pytest.mark.slow, ONE_WORKER]
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Principal": "*", "Action": "bedrock-agentcore:*", "Resource": "*"},
    }
)


class Cli:
    """The AWS CLI, pointed at a server; remembers which operations it has called.

    Run in this process, because it is called often and slow to start. `test_aws_cli` runs the command itself.
    """

    def __init__(self, main: Callable[[list[str]], int]) -> None:
        self._main = main
        self.called: set[str] = set()

    def __call__(self, operation: str, **options: Any) -> Any:
        self.called.add(operation)
        arguments: list[str] = []
        for name, value in options.items():
            words = [value] if isinstance(value, str) else [json.dumps(value)]
            arguments += [f"--{name.replace('_', '-')}", *words]
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            status = self._main(["bedrock-agentcore-control", botocore.xform_name(operation, "-"), *arguments])
        assert status == 0, complained.getvalue()
        return json.loads(said.getvalue() or "{}")


@pytest.fixture
def aws(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path), **server.exported}.items():
        monkeypatch.setenv(name, value)
    # awscli sets this when it is imported, for the whole process: here it is taken back.
    spec = find_spec("awscli")
    assert spec is not None
    assert spec.origin is not None
    monkeypatch.setenv("AWS_DATA_PATH", str(Path(spec.origin).with_name("data")))
    from awscli.clidriver import create_clidriver

    return Cli(create_clidriver().main)


def test_every_operation_by_the_aws_cli(server: RunningServer, aws: Cli):
    name = f"all_{uuid.uuid4().hex[:8]}"
    code: dict[str, Any] = {
        "agent_runtime_artifact": server.artifact(agent("probe")),
        "role_arn": ROLE,
        "network_configuration": {"networkMode": "PUBLIC"},
    }
    made = aws("CreateAgentRuntime", agent_runtime_name=name, tags={"team": "blue"}, **code)
    which, arn = {"agent_runtime_id": made["agentRuntimeId"]}, made["agentRuntimeArn"]
    server.until_settled(made["agentRuntimeId"])
    aws("UpdateAgentRuntime", **which, **code)
    server.until_settled(made["agentRuntimeId"])
    assert aws("GetAgentRuntime", **which)["agentRuntimeVersion"] == "2"
    assert name in [line["agentRuntimeName"] for line in aws("ListAgentRuntimes", page_size="1")["agentRuntimes"]]
    listed = aws("ListAgentRuntimeVersions", page_size="1", **which)["agentRuntimes"]
    assert [line["agentRuntimeVersion"] for line in listed] == ["1", "2"]

    aws("CreateAgentRuntimeEndpoint", name="prod", agent_runtime_version="1", **which)
    prod = {**which, "endpoint_name": "prod"}
    aws("UpdateAgentRuntimeEndpoint", agent_runtime_version="2", **prod)
    assert aws("GetAgentRuntimeEndpoint", **prod)["liveVersion"] == "2"
    listed = aws("ListAgentRuntimeEndpoints", page_size="1", **which)["runtimeEndpoints"]
    assert [line["name"] for line in listed] == ["DEFAULT", "prod"]

    aws("TagResource", resource_arn=arn, tags={"cost": "1"})
    aws("UntagResource", resource_arn=arn, tag_keys="team")
    assert aws("ListTagsForResource", resource_arn=arn)["tags"] == {"cost": "1"}
    assert aws("PutResourcePolicy", resource_arn=arn, policy=POLICY)["policy"] == POLICY
    assert aws("GetResourcePolicy", resource_arn=arn)["policy"] == POLICY
    aws("DeleteResourcePolicy", resource_arn=arn)

    identity = {"name": f"robot-{name}"}
    aws("CreateWorkloadIdentity", **identity)
    aws("UpdateWorkloadIdentity", allowed_resource_oauth2_return_urls=["https://example.com/back"], **identity)
    assert aws("GetWorkloadIdentity", **identity)["allowedResourceOauth2ReturnUrls"] == ["https://example.com/back"]
    listed = aws("ListWorkloadIdentities", page_size="1")["workloadIdentities"]
    assert {identity["name"], made["agentRuntimeId"]} <= {line["name"] for line in listed}
    aws("DeleteWorkloadIdentity", **identity)

    assert aws("DeleteAgentRuntimeEndpoint", **prod)["status"] == "DELETING"

    def alone() -> bool:
        found = server.control.list_agent_runtime_endpoints(agentRuntimeId=made["agentRuntimeId"])
        return len(found["runtimeEndpoints"]) == 1

    wait_until(alone, "the endpoint is gone")
    assert aws("DeleteAgentRuntime", **which)["status"] == "DELETING"
    assert aws.called == set(OPERATIONS)


def test_every_listing_by_boto3s_paginators(server: RunningServer):
    control, name = server.control, f"pages_{uuid.uuid4().hex[:8]}"
    runtime_id = server.deployed(name, agent("probe")).rpartition("/")[2]
    for letter in "abc":
        control.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name=letter)
        control.create_workload_identity(name=f"{name}-{letter}")
    of_runtime = {"agentRuntimeId": runtime_id}
    listings: dict[str, tuple[dict[str, Any], set[str]]] = {
        "list_agent_runtimes": ({}, {name}),
        "list_agent_runtime_versions": (of_runtime, {name}),
        "list_agent_runtime_endpoints": (of_runtime, {"DEFAULT", "a", "b", "c"}),
        "list_workload_identities": ({}, {f"{name}-{letter}" for letter in "abc"}),
    }
    assert {botocore.xform_name(each) for each in OPERATIONS if each.startswith("List")} - set(listings) == {
        "list_tags_for_resource"
    }
    for listing, (arguments, wanted) in listings.items():
        assert control.can_paginate(listing)
        found: list[str] = []
        for page in control.get_paginator(listing).paginate(**arguments, PaginationConfig={"PageSize": 2}):
            (lines,) = [value for value in page.values() if isinstance(value, list)]
            assert len(lines) <= 2
            found += [line.get("agentRuntimeName") or line["name"] for line in lines]
        assert wanted <= set(found)
        assert len(found) == len(set(found))
