"""The one tree of expected failures.

For: everything a caller can be told. Not for: bugs, which stay ordinary exceptions and become an internal
error where they are caught. Invariant: no class here knows a status code; `control` and `gateway` each hold one
table that maps the tree to AWS codes and to protocol envelopes.
"""

from __future__ import annotations

from dataclasses import dataclass


class FreeholdError(Exception):
    """An expected failure. `message` may be shown to the caller, so it holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One member that was refused: `name` as the caller wrote it (dotted path), and why."""

    name: str
    message: str


class ValidationFailed(FreeholdError):
    """The input breaks a rule. `reason` is a member of the service's ValidationExceptionReason."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "FieldValidationFailed",
        fields: tuple[FieldProblem, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.fields = fields


class Unauthenticated(FreeholdError):
    """Nobody has shown who is calling: there is no token, or one that is not good here."""


class AccessDenied(FreeholdError):
    """The caller is known or unknown, and may not."""


class NotFound(FreeholdError):
    """No such thing, or not the caller's: the same answer."""


class SessionEnded(NotFound):
    """The session has ended, and what its agent held for the caller with it: going on makes no sense, beginning anew
    does."""


class Conflict(FreeholdError):
    """The thing's present state forbids this."""


class RetryableConflict(FreeholdError):
    """The thing is changing just now; the same call may succeed soon."""


class QuotaExceeded(FreeholdError):
    """A bound of this installation is reached."""


class Throttled(FreeholdError):
    """Too many calls in too short a time."""


class TooSlow(FreeholdError):
    """The request does not come, or comes too slowly to be waited for."""


class PayloadTooLarge(FreeholdError):
    """The request is larger than the service takes."""


class AgentFailed(FreeholdError):
    """The agent's own code failed: it answered an error, or broke off. `status` is its HTTP status, if it had one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StartFailed(AgentFailed):
    """The session's agent could not be brought to readiness. `exit_code` and `output_tail` say why, where known."""

    def __init__(self, message: str, *, exit_code: int | None = None, output_tail: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.output_tail = output_tail


class Unavailable(FreeholdError):
    """A part of the server is away just now (it is being restarted); nothing was done."""
