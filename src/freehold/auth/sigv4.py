"""Who signed this request: AWS Signature Version 4, verified in two steps.

For: control and gateway workers. `check_head` says all that can be said before the body has come, so that a stranger's
body is never spooled; `Pending.finish` then checks the signature with the hash of the real body. A request that says
its body's hash in a signed header is verified whole in the first step, and its body held to that hash in the second.
Not for the arithmetic (`aws.sigv4`), for bodies, or for permissions. Invariant: a Principal comes only from a request
whose signature, by a known key, over its method, path, query, host and every `x-amz-` header, was right, and whose
body is the one that was signed. Nothing is remembered of a signature: SDKs send the same one twice within a second.

Sources of codes and texts: answers of AWS services with this front (API Gateway's family); spec section 4.2.
"""

from __future__ import annotations

import functools
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from freehold.auth.keys import AccessKey, KeySource
from freehold.aws import sigv4
from freehold.aws.sigv4_template import Template
from freehold.domain.errors import AccessDenied
from freehold.domain.principals import Principal, account_owner

SERVICE: Final = "bedrock-agentcore"
"""The signing name of both planes (spec section 0)."""
MAX_SKEW: Final = timedelta(minutes=5)
MAX_EXPIRES_S: Final = 604_800
"""Of a presigned request: a week. Source: IAM User Guide, "Add signature to a query string"."""
MAX_SIGNING_KEYS: Final = 1024
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_]{1,128}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_ONCE: Final = (b"authorization", b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256")

Headers = sigv4.Headers


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
    def expired_key(cls) -> SignatureRefused:
        return cls("ExpiredTokenException", "The security token included in the request is expired")

    @classmethod
    def invalid(cls, message: str) -> SignatureRefused:
        return cls("InvalidSignatureException", message)

    @classmethod
    def wrong_signature(cls) -> SignatureRefused:
        return cls.invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )

    @classmethod
    def wrong_payload(cls) -> SignatureRefused:
        return cls.invalid("The x-amz-content-sha256 header does not match the request's body.")

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


class Signed(Protocol):
    """What is signed beside the body, as it was received."""

    @property
    def method(self) -> str: ...

    @property
    def raw_path(self) -> bytes:
        """Percent-encoded, without the query."""
        ...

    @property
    def raw_query(self) -> bytes: ...

    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class Head:
    """See Signed."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: Headers


class Pending:
    """A request whose head is in order. Unless `is_verified`, its signature is still to be checked."""

    __slots__ = ("_head", "_key", "_signature", "_signing_key", "_stamp", "claimed_payload_sha256", "is_verified")

    def __init__(
        self,
        head: Signed,
        signature: sigv4.Signature,
        stamp: str,
        key: AccessKey,
        signing_key: sigv4.SigningKey,
        claimed_payload_sha256: str | None,
    ) -> None:
        self._head = head
        self._signature = signature
        self._stamp = stamp
        self._key = key
        self._signing_key = signing_key
        self.claimed_payload_sha256: Final = claimed_payload_sha256
        """The signed header `x-amz-content-sha256`, if there is one: what the caller says the body's hash is."""
        self.is_verified = False
        """Whether the signature is known to be right, given that the body is what the caller says."""
        if claimed_payload_sha256 is not None:
            self._verify(claimed_payload_sha256)

    @property
    def access_key_id(self) -> str:
        return self._key.access_key_id

    @property
    def account(self) -> str:
        """Of the key that is named. Unless `is_verified`, anybody may have named it."""
        return self._key.account

    @property
    def is_temporary(self) -> bool:
        return self._key.session_token is not None

    def finish(self, payload_sha256: str) -> Principal:
        """The caller, given the SHA-256 of the real body in hex. Raises SignatureRefused."""
        claimed = self.claimed_payload_sha256
        if claimed is None:
            self._verify(payload_sha256)
        elif not hmac.compare_digest(claimed, payload_sha256):
            raise SignatureRefused.wrong_payload()
        return _root(self._key.account)

    def _verify(self, payload_sha256: str) -> None:
        head = self._head
        if not sigv4.signature_matches(
            self._signature,
            signing_key=self._signing_key,
            timestamp=self._stamp,
            method=head.method,
            raw_path=head.raw_path,
            raw_query=head.raw_query,
            headers=head.headers,
            payload_sha256=payload_sha256,
        ):
            raise SignatureRefused.wrong_signature()
        self.is_verified = True


class Verifier:
    """Checks requests to one region against the keys of `keys`."""

    def __init__(self, keys: KeySource, *, region: str, max_signing_keys: int = MAX_SIGNING_KEYS) -> None:
        self._keys = keys
        self._region = region
        self._max_signing_keys = max_signing_keys
        self._signing_keys: OrderedDict[tuple[str, str], sigv4.SigningKey] = OrderedDict()

    async def check_head(self, head: Signed, *, now: datetime) -> Pending:
        """Everything that can be checked before the body: form, scope, date, key; see Pending.

        Raises SignatureRefused, and Unavailable when the key can't be known just now.
        """
        found = dict(head.headers)
        if len(found) != len(head.headers):
            _check_repeated(head.headers)
        presigned = _presigned(head.raw_query)
        if presigned is None:
            signature, token = _authorization(found), found.get(b"x-amz-security-token")
            stamp = _stamp(found)
            _check_date(stamp, signature.terms.date, now)
        else:
            _check_one_form(found)
            signature, token, stamp = presigned.signature, presigned.security_token, presigned.date
            _check_expiry(presigned, now)
        terms = signature.terms
        self._check_terms(terms, found)
        claimed = _claimed_hash(found)
        key = self._keys.known(terms.access_key_id) or await self._find(terms.access_key_id)
        _check_usable(key, token, now)
        return Pending(head, signature, stamp, key, self._signing_key(key, terms.date), claimed)

    def template(
        self, start: bytes, *, method: str, raw_path: bytes, raw_query: bytes, names: Sequence[bytes]
    ) -> Template | None:
        """What `signer` asks for of requests that are alike: `start` is all of the Authorization header but its
        signature, `names` are those of the headers in order. None when `check_head` has to look at each."""
        try:
            terms = sigv4.terms_before(start)
            if terms is None:
                return None
            self._check_terms(terms, names)
            return Template(terms, method=method, raw_path=raw_path, raw_query=raw_query, names=names)
        except (ValueError, SignatureRefused):
            return None

    def signer(
        self, template: Template, canonical: bytes, stamp: bytes, token: bytes | None, signature: bytes, now: datetime
    ) -> Principal | None:
        """Whose signature that of a canonical request is, of which `stamp` and `token` are the values of `x-amz-date`
        and `x-amz-security-token`; None when the whole request has to be looked at (`check_head`) for who it is, or
        what is wrong."""
        terms = template.terms
        key = self._keys.known(terms.access_key_id)
        if key is None:
            return None
        timestamp = stamp.decode("latin-1")
        try:
            _check_date(timestamp, terms.date, now)
            _check_usable(key, token, now)
        except SignatureRefused:
            return None
        signing_key = self._signing_key(key, terms.date)
        return _root(key.account) if signing_key.signs(terms.to_sign(timestamp, canonical), signature) else None

    def _check_terms(self, terms: sigv4.Terms, names: Iterable[bytes]) -> None:
        """That a signature is for here, and over what it must be over. Raises SignatureRefused."""
        if terms.region != self._region:
            raise SignatureRefused.invalid(f"Credential should be scoped to a valid region, not '{terms.region[:64]}'.")
        if terms.service != SERVICE:
            raise SignatureRefused.invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
        _check_signed(names, terms)

    async def _find(self, access_key_id: str) -> AccessKey:
        key = await self._keys.get(access_key_id) if _KEY_ID.fullmatch(access_key_id) else None
        if key is None:
            raise SignatureRefused.unknown_key()
        return key

    def _signing_key(self, key: AccessKey, date: str) -> sigv4.SigningKey:
        # By the secret, not the id: a key that is not what it was gets no old signing key.
        name = (key.secret, date)
        known = self._signing_keys.get(name)
        if known is not None:
            self._signing_keys.move_to_end(name)
            return known
        made = sigv4.SigningKey(sigv4.derive_signing_key(key.secret, date, self._region, SERVICE))
        self._signing_keys[name] = made
        if len(self._signing_keys) > self._max_signing_keys:
            self._signing_keys.popitem(last=False)
        return made


def _check_usable(key: AccessKey, token: bytes | str | None, now: datetime) -> None:
    """That a key comes with its token, and is not past its time. Raises SignatureRefused."""
    expected = key.session_token
    if expected is None:
        # A long-lived key has no token: whoever sends one means another key.
        if token is not None:
            raise SignatureRefused.unknown_key()
    else:
        given = token.encode() if isinstance(token, str) else token or b""
        if not hmac.compare_digest(given, expected.encode()):
            raise SignatureRefused.unknown_key()
    if key.expires_at is not None and now >= key.expires_at:
        raise SignatureRefused.unknown_key() if expected is None else SignatureRefused.expired_key()


@functools.lru_cache(maxsize=1024)
def _root(account: str) -> Principal:
    return Principal(account, f"arn:aws:iam::{account}:root", account_owner(account))


# -- the head -----------------------------------------------------------------------------------------------------


def _check_repeated(headers: Headers) -> None:
    """Raise SignatureRefused when a header that may be there once is there twice."""
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise SignatureRefused.incomplete(f"The header {name.decode()} is there more than once.")


def is_presigned(raw_query: bytes) -> bool:
    """Whether a request with this query is to be verified here, whatever its headers say."""
    return sigv4.is_presigned(raw_query)


def _presigned(raw_query: bytes) -> sigv4.Presigned | None:
    if not sigv4.is_presigned(raw_query):
        return None
    try:
        return sigv4.parse_query(raw_query)
    except ValueError as error:
        raise SignatureRefused.incomplete(str(error)) from None


def _check_one_form(found: dict[bytes, bytes]) -> None:
    """Of a presigned request: that no header speaks of the same."""
    authorization = found.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        raise SignatureRefused.other_method()
    for name in (b"authorization", b"x-amz-date", b"x-amz-security-token"):
        if name in found:
            raise SignatureRefused.incomplete(
                f"A request is signed in its headers or in its query, not in both: there is a header {name.decode()}."
            )


def _authorization(found: dict[bytes, bytes]) -> sigv4.Signature:
    value = found.get(b"authorization", b"").strip()
    if not value:
        raise SignatureRefused.missing()
    if value[:7].lower() in (b"bearer", b"bearer "):
        raise SignatureRefused.other_method()
    try:
        return sigv4.parse_authorization(value)
    except ValueError as error:
        raise SignatureRefused.incomplete(str(error)) from None


def _stamp(found: dict[bytes, bytes]) -> str:
    """The request's instant as it was signed in the header form."""
    value = found.get(b"x-amz-date")
    if value is not None:
        return value.decode("latin-1")
    date = found.get(b"date")
    if date is None:
        raise SignatureRefused.incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    try:
        return parsedate_to_datetime(date.decode("latin-1")).astimezone(UTC).strftime(_STAMP)
    except (ValueError, OverflowError):
        raise SignatureRefused.incomplete("Date must be an HTTP date, or X-Amz-Date given instead.") from None


def _check_date(stamp: str, scope_date: str, now: datetime) -> None:
    """That the instant is of the scope's day and near `now`. Raises SignatureRefused."""
    age = now - _check_day(stamp, scope_date)
    if age > MAX_SKEW:
        raise _expired(stamp, now, MAX_SKEW)
    if age < -MAX_SKEW:
        raise _early(stamp, now)


def _check_expiry(presigned: sigv4.Presigned, now: datetime) -> None:
    """That a presigned request is of its scope's day and valid by now. Raises SignatureRefused."""
    age = now - _check_day(presigned.date, presigned.signature.terms.date)
    if not _SECONDS.fullmatch(presigned.expires):
        raise SignatureRefused.incomplete("X-Amz-Expires should be a number")
    expires_s = int(presigned.expires)
    if not 1 <= expires_s <= MAX_EXPIRES_S:
        raise SignatureRefused.incomplete(f"X-Amz-Expires must be between 1 and {MAX_EXPIRES_S} seconds")
    if age > timedelta(seconds=expires_s):
        raise _expired(presigned.date, now, timedelta(seconds=expires_s))
    if age < -MAX_SKEW:
        raise _early(presigned.date, now)


@functools.lru_cache(maxsize=1024)
def _check_day(stamp: str, scope_date: str) -> datetime:
    """The instant that `stamp` is. Remembered: all requests of a second have the same. Raises SignatureRefused."""
    try:
        at = _instant(stamp)
    except ValueError:
        raise SignatureRefused.incomplete("Date must be in ISO-8601 'basic format'.") from None
    if scope_date != stamp[:8]:
        raise SignatureRefused.invalid(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{scope_date[:16]}' != '{stamp[:8]}', from '{stamp}'."
        )
    return at


def _expired(stamp: str, now: datetime, valid: timedelta) -> SignatureRefused:
    here = now.astimezone(UTC)
    seconds = int(valid.total_seconds())
    told = f"{seconds} s." if seconds % 60 else f"{seconds // 60} min."
    return SignatureRefused.invalid(
        f"Signature expired: {stamp} is now earlier than {here - valid:{_STAMP}} ({here:{_STAMP}} - {told})"
    )


def _early(stamp: str, now: datetime) -> SignatureRefused:
    here, minutes = now.astimezone(UTC), int(MAX_SKEW.total_seconds() // 60)
    return SignatureRefused.invalid(
        f"Signature not yet current: {stamp} is still later than {here + MAX_SKEW:{_STAMP}} "
        f"({here:{_STAMP}} + {minutes} min.)"
    )


def _instant(stamp: str) -> datetime:
    """Read `YYYYMMDDTHHMMSSZ`, strictly."""
    if len(stamp) != 16 or stamp[8] != "T" or stamp[15] != "Z" or not stamp.isascii():
        raise ValueError(stamp)
    day, time = stamp[:8], stamp[9:15]
    if not (day.isdecimal() and time.isdecimal()):
        raise ValueError(stamp)
    year, month, date = int(day[:4]), int(day[4:6]), int(day[6:])
    return datetime(year, month, date, int(time[:2]), int(time[2:4]), int(time[4:]), tzinfo=UTC)


def _check_signed(names: Iterable[bytes], terms: sigv4.Terms) -> None:
    """That host and every `x-amz-` header is signed. Raises SignatureRefused."""
    if b"host" not in terms.header_names:
        raise SignatureRefused.incomplete("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    for name in names:
        if name not in terms.header_names and name[:6] == b"x-amz-":
            raise SignatureRefused.incomplete(
                f"'{name.decode('latin-1')[:128]}' must be a 'SignedHeader' in the AWS Authorization."
            )


def _claimed_hash(found: dict[bytes, bytes]) -> str | None:
    """What the caller says the body's hash is. Raises SignatureRefused for what would leave the body unsigned."""
    value = found.get(b"x-amz-content-sha256")
    if value is None:
        return None
    claimed = value.decode("latin-1").strip()
    if not _HASH.fullmatch(claimed):
        # No operation of either service model allows an unsigned payload, or one signed in chunks.
        raise SignatureRefused.invalid(
            f"x-amz-content-sha256 must be the SHA-256 of the body in hexadecimal, not '{claimed[:64]}'."
        )
    return claimed
