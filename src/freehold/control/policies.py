"""PutResourcePolicy, GetResourcePolicy, DeleteResourcePolicy: policies of runtimes and endpoints, kept and checked.

Not for what a policy allows: nothing evaluates one yet. Invariant: a policy that is kept is one that IAM's grammar
takes and that speaks of this service, so that whoever evaluates it later need not guess; its text is never echoed in a
message.

Source of the grammar: IAM's "Grammar of the JSON policy language"; what a resource policy adds to it (`Principal`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, cast

from freehold.control import resources
from freehold.control.context import Context, Operation, Outcome, Params
from freehold.domain.errors import FieldProblem, ValidationFailed
from freehold.store.base import Resource, Scope

MAX_PROBLEMS: Final = 20
_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_STATEMENT: Final = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"}
)
_ACTION: Final = re.compile(r"\*|bedrock-agentcore:[A-Za-z0-9*?]+")
_RESOURCE: Final = re.compile(r"\*|arn:[^:\s]*:bedrock-agentcore:[^:\s]*:[^:\s]*:\S+")
_PRINCIPALS: Final = {
    "AWS": re.compile(r"\*|[0-9]{12}|arn:[^:\s]+:(?:iam|sts)::[0-9]{12}:\S+"),
    "Service": re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.[a-z]+)?"),
    "Federated": re.compile(r"\S+"),
    "CanonicalUser": re.compile(r"[0-9a-f]{64}"),
}
_OPERATOR: Final = re.compile(
    r"(?:(?:ForAllValues|ForAnyValue):)?"
    r"(?:String(?:Not)?Equals(?:IgnoreCase)?|String(?:Not)?Like"
    r"|(?:Numeric|Date)(?:(?:Not)?Equals|LessThan(?:Equals)?|GreaterThan(?:Equals)?)"
    r"|Bool|BinaryEquals|(?:Not)?IpAddress|Arn(?:Not)?(?:Equals|Like))(?:IfExists)?"
    r"|Null"
)

Problem = tuple[str, str]
"""(where in the policy, what is wrong)."""


def put(context: Context, scope: Scope, params: Params) -> Outcome:
    """Keep a policy in place of the one before."""
    resource = _resource(scope, params)
    problems = list(problems_of(params["policy"]))[:MAX_PROBLEMS]
    if problems:
        told = "; ".join(f"at '{where}': {problem}" for where, problem in problems)
        raise ValidationFailed(
            f"The policy is invalid: {told}",
            fields=tuple(FieldProblem(where, problem) for where, problem in problems),
        )
    context.store.put_policy(resource, params["policy"], now=context.now())
    return Outcome({"policy": params["policy"]})


def get(context: Context, scope: Scope, params: Params) -> Outcome:
    """The policy; nothing when the resource has none."""
    policy = context.store.get_policy(_resource(scope, params))
    return Outcome({} if policy is None else {"policy": policy})


def delete(context: Context, scope: Scope, params: Params) -> Outcome:
    """Remove the policy, if there is one."""
    context.store.delete_policy(_resource(scope, params))
    return Outcome({})


OPERATIONS: Final[dict[str, Operation]] = {
    "PutResourcePolicy": put,
    "GetResourcePolicy": get,
    "DeleteResourcePolicy": delete,
}


def _resource(scope: Scope, params: Params) -> Resource:
    found = resources.of_arn(scope, params["resourceArn"])
    if found.runtime_id is None:
        problem = FieldProblem("resourceArn", "policies are of agent runtimes and their endpoints")
        raise ValidationFailed("This resource can't have a policy", fields=(problem,))
    return found


# -- the grammar --------------------------------------------------------------------------------------------------


class _Twice(Exception):
    """A name is given twice in an object: which of the two counts would be a guess."""


def problems_of(text: str) -> Iterator[Problem]:
    """What keeps `text` from being a policy of a resource."""
    try:
        policy: Any = json.loads(text, object_pairs_hook=_once_each)
    except _Twice:
        yield "policy", "a name is given twice in the same object"
        return
    except (ValueError, RecursionError):
        yield "policy", "is not a JSON document"
        return
    if not isinstance(policy, dict):
        yield "policy", "is not a JSON object"
        return
    said = cast("dict[str, Any]", policy)
    if set(said) - {"Version", "Id", "Statement"}:
        yield "policy", "has a member that is none of Version, Id, Statement"
    if said.get("Version", _VERSIONS[0]) not in _VERSIONS:
        yield "policy.Version", f"is not one of {', '.join(_VERSIONS)}"
    if not isinstance(said.get("Id", ""), str):
        yield "policy.Id", "is not a string"
    statements: Any = said.get("Statement")
    if isinstance(statements, dict):
        statements = [cast("Any", statements)]
    if not isinstance(statements, list) or not statements:
        yield "policy.Statement", "is not a statement or a list of them"
        return
    for number, statement in enumerate(cast("list[Any]", statements), 1):
        yield from _statement(f"policy.Statement.{number}", statement)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _statement(where: str, statement: Any) -> Iterator[Problem]:
    if not isinstance(statement, dict):
        yield where, "is not an object"
        return
    said = cast("dict[str, Any]", statement)
    if set(said) - _STATEMENT:
        yield where, "has a member that statements don't have"
    sid = said.get("Sid", "")
    if not isinstance(sid, str) or not re.fullmatch(r"[A-Za-z0-9]*", sid):
        yield f"{where}.Sid", "is not letters and digits"
    if said.get("Effect") not in ("Allow", "Deny"):
        yield f"{where}.Effect", "is not Allow or Deny"
    for name in ("Principal", "Action", "Resource"):
        given = [member for member in (name, f"Not{name}") if member in said]
        if len(given) != 1:
            yield where, f"does not have exactly one of {name} and Not{name}"
            continue
        yield from _PARTS[name](f"{where}.{given[0]}", said[given[0]])
    yield from _condition(f"{where}.Condition", said.get("Condition", {}))


def _principal(where: str, principal: Any) -> Iterator[Problem]:
    if principal == "*":
        return
    if not isinstance(principal, dict) or not principal:
        yield where, "is neither '*' nor an object of principals"
        return
    for kind, value in cast("dict[str, Any]", principal).items():
        if kind not in _PRINCIPALS:
            yield where, f"has a member that is none of {', '.join(_PRINCIPALS)}"
        else:
            yield from _strings(f"{where}.{kind}", value, _PRINCIPALS[kind], "a principal of that kind")


def _action(where: str, action: Any) -> Iterator[Problem]:
    yield from _strings(where, action, _ACTION, "an action of bedrock-agentcore")


def _resources(where: str, named: Any) -> Iterator[Problem]:
    yield from _strings(where, named, _RESOURCE, "'*' or an ARN of bedrock-agentcore")


def _condition(where: str, condition: Any) -> Iterator[Problem]:
    if not isinstance(condition, dict):
        yield where, "is not an object"
        return
    for operator, tests in cast("dict[str, Any]", condition).items():
        if not _OPERATOR.fullmatch(operator):
            yield where, "has a member that is not a condition operator"
        elif not isinstance(tests, dict) or not tests:
            yield f"{where}.{operator}", "is not an object of condition keys and values"
        else:
            for key, value in cast("dict[str, Any]", tests).items():
                if not re.fullmatch(r"[A-Za-z0-9-]+:\S{1,256}", key):
                    yield f"{where}.{operator}", "has a name that is not a condition key"
                values = cast("list[Any]", value) if isinstance(value, list) else [value]
                if not values or not all(isinstance(v, (str, int, float, bool)) for v in values):
                    yield (
                        f"{where}.{operator}",
                        "has a value that is neither scalar nor a list of scalars",
                    )


def _strings(where: str, value: Any, pattern: re.Pattern[str], what: str) -> Iterator[Problem]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not values:
        yield where, "is empty"
    if not all(isinstance(each, str) and pattern.fullmatch(each) for each in values):
        yield where, f"holds something that is not {what}"


_PARTS: Final = {"Principal": _principal, "Action": _action, "Resource": _resources}
