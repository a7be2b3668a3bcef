"""The one table from Freehold's expected failures to the data plane's error codes.

Source of codes and statuses: botocore's model of bedrock-agentcore; spec sections 0 and 1.6. Not for the form in
which a protocol's callers are told (`contracts`). Invariant: a failure that is not in the table is an internal
error, and tells the caller nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from freehold.auth.sigv4 import SignatureRefused
from freehold.domain import errors

_TABLE: Final[tuple[tuple[type[errors.FreeholdError], str, int], ...]] = (
    (errors.ValidationFailed, "ValidationException", 400),
    # As on the control plane: the model has no code of its own for size.
    (errors.PayloadTooLarge, "ValidationException", 400),
    (errors.Unauthenticated, "UnauthorizedException", 401),
    (errors.AccessDenied, "AccessDeniedException", 403),
    # SessionEnded is among them.
    (errors.NotFound, "ResourceNotFoundException", 404),
    (errors.Conflict, "ConflictException", 409),
    (errors.RetryableConflict, "RetryableConflictException", 409),
    (errors.QuotaExceeded, "ServiceQuotaExceededException", 402),
    (errors.Throttled, "ThrottlingException", 429),
    # Not of the model, but SDKs know it: they may send the request again.
    (errors.TooSlow, "RequestTimeoutException", 408),
    (errors.AgentFailed, "RuntimeClientError", 424),
    (errors.Unavailable, "ServiceUnavailableException", 503),
)
STATUSES: Final = {code: status for _, code, status in _TABLE} | {"InternalServerException": 500}
"""The service's codes."""


@dataclass(frozen=True, slots=True)
class WireError:
    """An error as the wire wants it. `reason` is a member of ValidationException."""

    code: str
    status: int
    message: str
    reason: str | None = None
    case: str | None = None
    """Which case of the code it is, where a protocol tells of it in a way of its own."""


class UnknownOperation(errors.FreeholdError):
    """Freehold does not have this operation of the data plane."""


class Unacceptable(errors.FreeholdError):
    """The caller takes no answer of a kind that the agent's protocol has."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer that the gateway itself gives."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def to_wire(error: BaseException) -> WireError:
    """What the caller is told of `error`."""
    if isinstance(error, SignatureRefused):
        return WireError(error.code, 403, error.message, case="AccessDeniedException")
    if isinstance(error, UnknownOperation):
        return WireError("UnknownOperationException", 400, error.message)
    if isinstance(error, Unacceptable):
        return WireError("McpRequestUnacceptable", 406, error.message)
    for kind, code, status in _TABLE:
        if isinstance(error, kind):
            reason: str | None = None
            if isinstance(error, errors.ValidationFailed):
                reason = error.reason
            elif isinstance(error, errors.PayloadTooLarge):
                reason = "CannotParse"
            case = "SessionEnded" if isinstance(error, errors.SessionEnded) else None
            return WireError(code, status, error.message, reason, case)
    return WireError("InternalServerException", 500, "An internal error occurred")


def envelope(error: WireError) -> Answer:
    """An error in the envelope of the REST-JSON protocol (spec section 0)."""
    document = {"message": error.message}
    if error.reason is not None:
        document["reason"] = error.reason
    headers = ((b"content-type", b"application/json"), (b"x-amzn-errortype", error.code.encode()))
    return Answer(error.status, headers, msgspec.json.encode(document))


def answered_error(status: int) -> errors.AgentFailed:
    """The agent answered with a status that says it failed; its own words do not reach the caller (spec 1.6)."""
    return errors.AgentFailed(
        f"Received error ({status}) from runtime. Please check your CloudWatch logs for more information.",
        status=status,
    )
