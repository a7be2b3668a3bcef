"""Agent runtimes, their immutable versions and their endpoints: states and what may follow on what.

Not for: where they are kept (`store`) or how a version is launched (`domain.launch`). Invariant: every status
change in the project goes through `check_transition`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from freehold.domain.errors import Conflict

DEFAULT_ENDPOINT: Final = "DEFAULT"
"""The endpoint that every runtime has and that follows the newest version."""
MANAGED_RUNTIMES: Final = ("PYTHON_3_10", "PYTHON_3_11", "PYTHON_3_12", "PYTHON_3_13", "PYTHON_3_14", "NODE_22")
"""AgentManagedRuntimeType of the service model: what runs the code of a version."""


class RuntimeStatus(StrEnum):
    """AgentRuntimeStatus of the service model."""

    CREATING = "CREATING"
    CREATE_FAILED = "CREATE_FAILED"
    UPDATING = "UPDATING"
    UPDATE_FAILED = "UPDATE_FAILED"
    READY = "READY"
    DELETING = "DELETING"
    DELETE_FAILED = "DELETE_FAILED"


class ServerProtocol(StrEnum):
    """ServerProtocol of the service model: what the agent speaks."""

    HTTP = "HTTP"
    MCP = "MCP"
    A2A = "A2A"
    AGUI = "AGUI"


_S = RuntimeStatus
TRANSITIONS: Final[dict[RuntimeStatus, frozenset[RuntimeStatus]]] = {
    _S.CREATING: frozenset({_S.READY, _S.CREATE_FAILED}),
    _S.UPDATING: frozenset({_S.READY, _S.UPDATE_FAILED}),
    _S.READY: frozenset({_S.UPDATING, _S.DELETING}),
    _S.CREATE_FAILED: frozenset({_S.UPDATING, _S.DELETING}),
    _S.UPDATE_FAILED: frozenset({_S.UPDATING, _S.DELETING}),
    _S.DELETING: frozenset({_S.DELETE_FAILED}),
    _S.DELETE_FAILED: frozenset({_S.DELETING}),
}
"""What may follow on what. A runtime that is deleted for good has no status: it is gone."""


def check_transition(current: RuntimeStatus, target: RuntimeStatus, *, what: str = "Agent runtime") -> None:
    """Raise Conflict unless `current` may become `target`; `what` it is of begins the message."""
    if target not in TRANSITIONS[current]:
        verb = {_S.UPDATING: "updated", _S.DELETING: "deleted"}.get(target, f"moved to {target}")
        raise Conflict(f"{what} is in status {current} and can't be {verb} until that operation has ended")


def endpoint_status(
    *, live_version: int | None, target_version: int, target: RuntimeStatus, runtime: RuntimeStatus
) -> RuntimeStatus:
    """Of an endpoint that is not being deleted itself: it follows from its versions and its runtime.

    `target` is the status of its target version, `runtime` that of the agent runtime.
    """
    if runtime in (_S.DELETING, _S.DELETE_FAILED):
        return runtime
    if live_version == target_version:
        return _S.READY
    if target in (_S.CREATE_FAILED, _S.UPDATE_FAILED):
        return _S.CREATE_FAILED if live_version is None else _S.UPDATE_FAILED
    return _S.CREATING if live_version is None else _S.UPDATING
