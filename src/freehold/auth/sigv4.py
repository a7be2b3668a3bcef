"""Who signed this request: AWS Signature Version 4, verified in two steps.

For: control and gateway workers. `check_head` says all that can be said before the body has come, so that a stranger's
body is never spooled; `Pending.finish` then checks the signature with the hash of the real body. Not for the
arithmetic (`aws.sigv4`), for bodies, or for permissions. Invariant: a Principal comes only from a request whose
signature, by a known key, over its method, path, query, host and every `x-amz-` header, was right.

Sources of codes and texts: answers of AWS services with this front (API Gateway's family); spec section 4.2.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from freehold.auth.keys import AccessKey, KeySource
from freehold.aws import sigv4
from freehold.domain.errors import AccessDenied
from freehold.domain.principals import Principal, account_owner

SERVICE: Final = "bedrock-agentcore"
"""The signing name of both planes (spec section 0)."""
MAX_SKEW: Final = timedelta(minutes=5)
MAX_SIGNING_KEYS: Final = 1024
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_STAMP: Final = "%Y%m%dT%H%M%SZ"

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values as received, in order."""


class SignatureRefused(AccessDenied):
    """The caller is not who they say, or did not say it well. `code` is AWS's name for why; the status is 403."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def missing(cls) -> SignatureRefused:
        return cls("MissingAuthenticationTokenException", "Missing Authentication Token")

    @classmethod
    def unknown_key(cls) -> SignatureRefused:
        return cls("UnrecognizedClientException", "The security token included in the request is invalid.")

    @classmethod
    def wrong_signature(cls) -> SignatureRefused:
        return cls(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )

    @classmethod
    def wrong_payload(cls) -> SignatureRefused:
        return cls("InvalidSignatureException", "The x-amz-content-sha256 header does not match the request's body.")

    @classmethod
    def incomplete(cls, message: str) -> SignatureRefused:
        return cls("IncompleteSignatureException", message)

    @classmethod
    def other_method(cls) -> SignatureRefused:
        return cls(
            "AccessDeniedException",
            "Authorization method mismatch. The agent is configured for a different authorization method than what "
            "was used in your request. Check the agent's authorization configuration and ensure your request uses "
            "the matching method (OAuth or SigV4)",
        )


@dataclass(frozen=True, slots=True)
class Head:
    """What is signed beside the body, as it was received."""

    method: str
    raw_path: bytes
    """Percent-encoded, without the query."""
    raw_query: bytes
    headers: Headers


class Pending:
    """A request whose head is in order, and whose signature is still to be checked."""

    __slots__ = ("_authorization", "_head", "_key", "_signing_key", "_stamp", "claimed_payload_sha256")

    def __init__(
        self,
        head: Head,
        authorization: sigv4.Authorization,
        stamp: str,
        key: AccessKey,
        signing_key: bytes,
        claimed_payload_sha256: str | None,
    ) -> None:
        self._head = head
        self._authorization = authorization
        self._stamp = stamp
        self._key = key
        self._signing_key = signing_key
        self.claimed_payload_sha256: Final = claimed_payload_sha256
        """The signed header `x-amz-content-sha256`, if there is one: what the caller says the body's hash is."""

    def finish(self, payload_sha256: str) -> Principal:
        """The caller, given the SHA-256 of the real body in hex. Raises SignatureRefused."""
        claimed = self.claimed_payload_sha256
        if claimed is not None and not hmac.compare_digest(claimed.encode(), payload_sha256.encode()):
            raise SignatureRefused.wrong_payload()
        head = self._head
        if not sigv4.signature_matches(
            self._authorization,
            signing_key=self._signing_key,
            timestamp=self._stamp,
            method=head.method,
            raw_path=head.raw_path,
            raw_query=head.raw_query,
            headers=head.headers,
            payload_sha256=payload_sha256,
        ):
            raise SignatureRefused.wrong_signature()
        account = self._key.account
        return Principal(account, f"arn:aws:iam::{account}:root", account_owner(account))


class Verifier:
    """Checks requests to one region against the keys of `keys`."""

    def __init__(self, keys: KeySource, *, region: str, max_signing_keys: int = MAX_SIGNING_KEYS) -> None:
        self._keys = keys
        self._region = region
        self._max_signing_keys = max_signing_keys
        self._signing_keys: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    async def check_head(self, head: Head, *, now: datetime) -> Pending:
        """Everything that can be checked before the body: form, scope, date, key. Raises SignatureRefused."""
        authorization = _authorization(head.headers)
        stamp = _check_date(head.headers, authorization, now)
        self._check_scope(authorization)
        claimed = _check_signed(head.headers, authorization)
        key = await self._keys.get(authorization.access_key_id)
        # These keys are long-lived ones: a session token says that the caller means others.
        if key is None or _only(head.headers, b"x-amz-security-token") is not None:
            raise SignatureRefused.unknown_key()
        return Pending(head, authorization, stamp, key, self._signing_key(key, authorization.date), claimed)

    def _check_scope(self, authorization: sigv4.Authorization) -> None:
        if authorization.region != self._region:
            message = f"Credential should be scoped to a valid region, not '{authorization.region}'."
            raise SignatureRefused("InvalidSignatureException", message)
        if authorization.service != SERVICE:
            message = f"Credential should be scoped to correct service: '{SERVICE}'."
            raise SignatureRefused("InvalidSignatureException", message)

    def _signing_key(self, key: AccessKey, date: str) -> bytes:
        # By the secret, not the id: a key that is not what it was gets no old signing key.
        name = (key.access_key_id, key.secret, date)
        known = self._signing_keys.get(name)
        if known is not None:
            self._signing_keys.move_to_end(name)
            return known
        made = sigv4.derive_signing_key(key.secret, date, self._region, SERVICE)
        self._signing_keys[name] = made
        if len(self._signing_keys) > self._max_signing_keys:
            self._signing_keys.popitem(last=False)
        return made


# -- the head -----------------------------------------------------------------------------------------------------


def _only(headers: Headers, name: bytes) -> str | None:
    """The one value of a header that may be there once. Raises SignatureRefused when it is there twice."""
    values = [value for key, value in headers if key == name]
    if not values:
        return None
    if len(values) > 1:
        raise SignatureRefused.incomplete(f"The header {name.decode()} is there more than once.")
    return values[0].decode("latin-1").strip()


def _authorization(headers: Headers) -> sigv4.Authorization:
    value = _only(headers, b"authorization")
    if not value:
        raise SignatureRefused.missing()
    scheme = value.partition(" ")[0]
    if scheme.lower() == "bearer":
        raise SignatureRefused.other_method()
    if scheme != _ALGORITHM:
        raise SignatureRefused.incomplete(f"Unsupported AWS 'algorithm': '{scheme[:64]}'.")
    try:
        return sigv4.parse_authorization(value)
    except ValueError as error:
        raise SignatureRefused.incomplete(str(error)) from None


def _check_date(headers: Headers, authorization: sigv4.Authorization, now: datetime) -> str:
    """The request's instant as it was signed. Raises SignatureRefused when it is not near `now`."""
    stamp = _only(headers, b"x-amz-date")
    if stamp is None:
        date = _only(headers, b"date")
        stamp = None if date is None else _stamp_of(date)
    if stamp is None:
        raise SignatureRefused.incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    try:
        at = _instant(stamp)
    except ValueError:
        raise SignatureRefused.incomplete("Date must be in ISO-8601 'basic format'.") from None
    if authorization.date != stamp[:8]:
        raise SignatureRefused(
            "InvalidSignatureException",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{authorization.date}' != '{stamp[:8]}', from '{stamp}'.",
        )
    here = now.astimezone(UTC)
    minutes = int(MAX_SKEW.total_seconds() // 60)
    if at < here - MAX_SKEW:
        told = f"{stamp} is now earlier than {here - MAX_SKEW:{_STAMP}} ({here:{_STAMP}} - {minutes} min.)"
        raise SignatureRefused("InvalidSignatureException", f"Signature expired: {told}")
    if at > here + MAX_SKEW:
        told = f"{stamp} is still later than {here + MAX_SKEW:{_STAMP}} ({here:{_STAMP}} + {minutes} min.)"
        raise SignatureRefused("InvalidSignatureException", f"Signature not yet current: {told}")
    return stamp


def _instant(stamp: str) -> datetime:
    """Read `YYYYMMDDTHHMMSSZ`: strictly, and faster than strptime, which is felt in every invoke."""
    if len(stamp) != 16 or stamp[8] != "T" or stamp[15] != "Z" or not stamp.isascii():
        raise ValueError(stamp)
    day, time = stamp[:8], stamp[9:15]
    if not (day.isdecimal() and time.isdecimal()):
        raise ValueError(stamp)
    year, month, date = int(day[:4]), int(day[4:6]), int(day[6:])
    return datetime(year, month, date, int(time[:2]), int(time[2:4]), int(time[4:]), tzinfo=UTC)


def _stamp_of(date: str) -> str | None:
    try:
        return parsedate_to_datetime(date).astimezone(UTC).strftime(_STAMP)
    except (ValueError, OverflowError):
        return None


def _check_signed(headers: Headers, authorization: sigv4.Authorization) -> str | None:
    """That host and every `x-amz-` header is signed; the claimed hash of the body, if there is one."""
    signed = set(authorization.signed_headers)
    if "host" not in signed:
        raise SignatureRefused.incomplete("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    for name, _ in headers:
        if name.startswith(b"x-amz-") and name.decode("latin-1") not in signed:
            raise SignatureRefused.incomplete(
                f"'{name.decode('latin-1')[:128]}' must be a 'SignedHeader' in the AWS Authorization."
            )
    return _only(headers, b"x-amz-content-sha256")
