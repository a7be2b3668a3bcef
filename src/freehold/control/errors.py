"""The one table from Freehold's expected failures to the control plane's error codes.

Source of codes and statuses: botocore's model of bedrock-agentcore-control; spec sections 0 and 3.6. Not for the
data plane, whose table is the gateway's. Invariant: a failure that is not in the table is an internal error, and
tells the caller nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from freehold.auth.sigv4 import SignatureRefused
from freehold.domain import errors

INTERNAL_CODE: Final = "InternalServerException"
INTERNAL_MESSAGE: Final = "An internal error occurred"

_TABLE: Final[tuple[tuple[type[errors.FreeholdError], str, int], ...]] = (
    (errors.ValidationFailed, "ValidationException", 400),
    (errors.AccessDenied, "AccessDeniedException", 403),
    (errors.NotFound, "ResourceNotFoundException", 404),
    (errors.Conflict, "ConflictException", 409),
    # The control plane's model has no retryable conflict.
    (errors.RetryableConflict, "ConflictException", 409),
    (errors.QuotaExceeded, "ServiceQuotaExceededException", 402),
    (errors.Throttled, "ThrottlingException", 429),
    # Not of the model, but SDKs know it: they may send the request again.
    (errors.TooSlow, "RequestTimeoutException", 408),
    # The model has no code of its own for size; 400 is not retried by any SDK.
    (errors.PayloadTooLarge, "ValidationException", 400),
    # Nothing was done, so SDKs may try again, and do.
    (errors.Unavailable, "ServiceUnavailableException", 503),
)


@dataclass(frozen=True, slots=True)
class WireError:
    """An error as the wire wants it: `members` are those of the error's shape beside `message`."""

    code: str
    status: int
    message: str
    members: dict[str, Any] = field(default_factory=dict[str, Any])
    headers: tuple[tuple[bytes, bytes], ...] = ()


class UnknownOperation(errors.FreeholdError):
    """No operation answers to this method and path, or Freehold does not have it. `allowed`: methods that do."""

    def __init__(self, message: str, *, status: int, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.allowed = allowed


def to_wire(error: Exception) -> WireError:
    """What the caller is told of `error`."""
    if isinstance(error, SignatureRefused):
        return WireError(error.code, 403, error.message)
    if isinstance(error, UnknownOperation):
        allow = ((b"allow", ", ".join(error.allowed).encode()),) if error.allowed else ()
        return WireError("UnknownOperationException", error.status, error.message, headers=allow)
    for kind, code, status in _TABLE:
        if isinstance(error, kind):
            return WireError(code, status, error.message, _members(error))
    return WireError(INTERNAL_CODE, 500, INTERNAL_MESSAGE)


def _members(error: errors.FreeholdError) -> dict[str, Any]:
    if isinstance(error, errors.PayloadTooLarge):
        return {"reason": "CannotParse"}
    if not isinstance(error, errors.ValidationFailed):
        return {}
    members: dict[str, Any] = {"reason": error.reason}
    if error.fields:
        members["fieldList"] = [{"name": f.name, "message": f.message} for f in error.fields]
    return members
