"""Calls of the control plane that its tests share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

ROLE = "arn:aws:iam::111122223333:role/agent"
ClientError = botocore.exceptions.ClientError


def token() -> str:
    """A client token that nobody else has."""
    return str(uuid.uuid4())


def until(condition: Callable[[], Any], limit_s: float = 20) -> Any:
    """Poll until `condition` holds; what it returned."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.01)
    return found


def artifact(key: str = "agent.zip", bucket: str = "code") -> dict[str, Any]:
    s3 = {"bucket": bucket, "prefix": key}
    return {"codeConfiguration": {"code": {"s3": s3}, "runtime": "PYTHON_3_11", "entryPoint": ["main.py"]}}


def create(client: Any, name: str = "agent", **more: Any) -> dict[str, Any]:
    arguments = {"agentRuntimeName": name, "agentRuntimeArtifact": artifact(), "roleArn": ROLE, **more}
    return client.create_agent_runtime(**arguments)


def update(client: Any, runtime_id: str, **more: Any) -> dict[str, Any]:
    arguments = {"agentRuntimeArtifact": artifact(), "roleArn": ROLE, **more}
    return client.update_agent_runtime(agentRuntimeId=runtime_id, **arguments)


def rested(client: Any, runtime_id: str) -> dict[str, Any]:
    """Poll as users do, until the runtime is at rest."""

    def at_rest() -> dict[str, Any] | None:
        got = client.get_agent_runtime(agentRuntimeId=runtime_id)
        return None if got["status"].endswith("ING") else got

    return until(at_rest)


def deployed(client: Any, name: str = "agent", **more: Any) -> str:
    """The id of a new runtime that is READY."""
    runtime_id: str = create(client, name, **more)["agentRuntimeId"]
    assert rested(client, runtime_id)["status"] == "READY"
    return runtime_id


def gone(client: Any, runtime_id: str) -> None:
    """Poll until there is no such runtime any more."""

    def missing() -> bool:
        try:
            client.get_agent_runtime(agentRuntimeId=runtime_id)
        except client.exceptions.ResourceNotFoundException:
            return True
        return False

    until(missing)


def refused(call: Any, *arguments: Any, **more: Any) -> ClientError:
    with pytest.raises(ClientError) as refusal:
        call(*arguments, **more)
    assert refusal.value.response["ResponseMetadata"]["RequestId"]
    return refusal.value


def said(error: ClientError) -> tuple[str, int]:
    return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
