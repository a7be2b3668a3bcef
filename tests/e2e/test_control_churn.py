"""Many clients at once and a kill of control in the middle; the long form is `./dev soak control`."""

from __future__ import annotations

import os

import pytest
from control_churn import Churn
from running_server import ROLE, RunningServer, agent

pytestmark = pytest.mark.slow
DURATION_S = float(os.environ.get("SOAK_CHURN_SECONDS", "6"))


def test_nothing_is_lost_doubled_or_skipped_while_control_is_killed():
    with RunningServer() as server:
        code = {"agentRuntimeArtifact": server.artifact(agent("probe")), "roleArn": ROLE}
        churn = Churn(lambda: server.client("bedrock-agentcore-control"), code)
        counts = churn.run(16, DURATION_S, lambda: server.kill("control"))
    print(dict(counts))
    assert counts["delete_agent_runtime"] > 16
