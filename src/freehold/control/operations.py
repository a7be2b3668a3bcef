"""Every operation that Freehold's control plane has, by its name in the service model.

Not for what they do (one module per resource). Invariant: an operation that changes which version an endpoint serves,
or whether it does, is in REROUTING, so that gateways have forgotten the old route before it is answered; one that is
in READING reads the store, and does nothing else that could wait.
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
        "UpdateAgentRuntime",
        "DeleteAgentRuntime",
        "CreateAgentRuntimeEndpoint",
        "UpdateAgentRuntimeEndpoint",
        "DeleteAgentRuntimeEndpoint",
    }
)
"""All of them have `agentRuntimeId`."""

READING: Final = frozenset(
    {
        "GetAgentRuntime",
        "ListAgentRuntimes",
        "ListAgentRuntimeVersions",
        "GetAgentRuntimeEndpoint",
        "ListAgentRuntimeEndpoints",
        "ListTagsForResource",
        "GetResourcePolicy",
        "GetWorkloadIdentity",
        "ListWorkloadIdentities",
    }
)
"""Where the store's reads don't wait, these are done with at once, without a worker thread."""
