"""Every operation that Freehold's control plane has, by its name in the service model.

Not for what they do (one module per resource). Invariant: an operation that changes which version an endpoint serves,
or whether it does, is in REROUTING, so that gateways have forgotten the old route before it is answered.
"""

from __future__ import annotations

from typing import Final

from freehold.control import endpoints, policies, runtimes, tags, versions, workload_identities
from freehold.control.context import Operation

OPERATIONS: Final[dict[str, Operation]] = {
    **runtimes.OPERATIONS,
    **versions.OPERATIONS,
    **endpoints.OPERATIONS,
    **tags.OPERATIONS,
    **policies.OPERATIONS,
    **workload_identities.OPERATIONS,
}

REROUTING: Final = frozenset(
    {
        "DeleteAgentRuntime",
        "CreateAgentRuntimeEndpoint",
        "UpdateAgentRuntimeEndpoint",
        "DeleteAgentRuntimeEndpoint",
    }
)
"""All of them have `agentRuntimeId`."""
