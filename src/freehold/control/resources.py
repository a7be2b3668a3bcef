"""From an ARN in a request to a resource of the caller's.

For: operations on any kind of resource (tags, policies). Not for whether it exists, which the store says. Invariant: a
resource of another account or region, and one of a kind that Freehold does not have, are not found: the same answer.
"""

from __future__ import annotations

from freehold.domain import arns
from freehold.domain.errors import NotFound
from freehold.store.base import NO_RESOURCE, Resource, Scope


def of_arn(scope: Scope, text: str) -> Resource:
    """The resource that `text` names. Raises NotFound."""
    kind, _, rest = text.rpartition(":")[2].partition("/")
    if kind == "runtime":
        runtime_id, _, below = rest.partition("/")
        arn = arns.AgentRuntimeArn(scope.region, scope.account, runtime_id)
        if text == str(arn):
            return Resource(scope, text, runtime_id=runtime_id)
        endpoint = below.removeprefix("runtime-endpoint/")
        if text == arn.endpoint(endpoint):
            return Resource(scope, text, runtime_id=runtime_id, endpoint=endpoint)
    elif kind == "workload-identity-directory":
        found = identity(scope, text.rpartition("/")[2])
        if text == found.arn:
            return found
    raise NotFound(NO_RESOURCE)


def identity(scope: Scope, name: str) -> Resource:
    """The workload identity of that name."""
    return Resource(scope, arns.workload_identity(scope.region, scope.account, name), identity=name)
