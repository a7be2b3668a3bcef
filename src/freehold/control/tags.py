"""TagResource, UntagResource, ListTagsForResource: of runtimes, endpoints and workload identities.

Not for tags given at creation, which the resources' own operations keep. Invariant: tags have no effect but to be
listed; they go with their resource.
"""

from __future__ import annotations

from typing import Final

from freehold.control import resources
from freehold.control.context import Context, Operation, Outcome, Params
from freehold.domain import limits
from freehold.store.base import Scope


def tag(context: Context, scope: Scope, params: Params) -> Outcome:
    """Add tags; those of the same key are replaced."""
    context.store.tag(resources.of_arn(scope, params["resourceArn"]), params["tags"], max_tags=limits.MAX_TAGS)
    return Outcome({})


def untag(context: Context, scope: Scope, params: Params) -> Outcome:
    """Remove tags; keys that are not there don't matter."""
    context.store.untag(resources.of_arn(scope, params["resourceArn"]), params["tagKeys"])
    return Outcome({})


def list_(context: Context, scope: Scope, params: Params) -> Outcome:
    """All tags of a resource."""
    return Outcome({"tags": context.store.get_tags(resources.of_arn(scope, params["resourceArn"]))})


OPERATIONS: Final[dict[str, Operation]] = {
    "TagResource": tag,
    "UntagResource": untag,
    "ListTagsForResource": list_,
}
