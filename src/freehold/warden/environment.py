"""The environment an agent finds: what the platform says, and the version's own variables over it.

Not for: what depends on where it runs (PATH, HOME, PYTHONPATH: the backend). Invariant: nothing of the server's own
environment is ever in it. Source: spec sections 5 and 10.21.
"""

from __future__ import annotations

from urllib.parse import quote

from freehold.domain.arns import AgentRuntimeArn
from freehold.domain.launch import LaunchSpec


def agent_environment(launch: LaunchSpec, *, public_url: str) -> dict[str, str]:
    """What every session of `launch` finds. `public_url` is where callers reach this server, without a slash."""
    arn = AgentRuntimeArn(launch.region, launch.account, launch.runtime_id)
    platform = {
        "AWS_REGION": launch.region,
        "AWS_DEFAULT_REGION": launch.region,
        # The SDK's servers bind 0.0.0.0 only when they believe to be in a container.
        "DOCKER_CONTAINER": "1",
        "AGENTCORE_RUNTIME_URL": f"{public_url}/runtimes/{quote(str(arn), safe='')}/invocations/",
    }
    return platform | launch.environment
