"""The arithmetic of AWS Signature Version 4, as a verifier needs it: read, derive, canonicalise, compare.

Not for who the caller is, clocks, scopes or which headers must be signed (`freehold.auth.sigv4`). Pure and fast: it is
on the path of every invocation. Invariant: path and query are hashed as they were received: the path encoded once
more and never decoded, the query sorted, with its escapes as they are; so that two requests which differ on the wire
never share a signature, except where AWS's own signers make them.

Sources: IAM User Guide, "Create a signed AWS API request" and "Add signature to a query string"; `botocore.auth`,
matched exactly; AWS's test vectors (`tests/data/aws_sigv4`).
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"
SIGNATURE_SIZE: Final = 64
"""In hexadecimal."""

_ECHO: Final = 64
_OWS: Final = " \t"
_MAX_KNOWN_BYTES: Final = 1024
"""Of a path, query or credential that is remembered: strangers may ask, too."""
_MAX_KNOWN: Final = 1024
_UNSAFE_IN_PATH: Final = re.compile(rb"[^A-Za-z0-9_.~/-]")
_UNSAFE_IN_QUERY: Final = re.compile(rb"[^A-Za-z0-9_.~%-]")
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BEFORE_SIGNATURE: Final = (b" Signature=", b",Signature=")
_SIGNATURE_NAME: Final = b"X-Amz-Signature"
_TOKEN_NAME: Final = b"X-Amz-Security-Token"
_REQUIRED: Final = (
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    _SIGNATURE_NAME,
    b"X-Amz-Date",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Expires",
)
_QUERY_NAMES: Final = frozenset({*_REQUIRED, _TOKEN_NAME})

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, values as received, in order."""


class Terms:
    """What a signature says of itself: whose key, for what, over which headers. All of it is as the caller wrote it."""

    __slots__ = ("_prefix", "access_key_id", "date", "header_names", "region", "service", "signed_headers", "starts")

    def __init__(self, credential: str, signed_headers: str) -> None:
        """Raises ValueError."""
        parts = credential.split("/")
        if len(parts) != 5 or not all(parts):
            raise ValueError(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
                f"got '{credential[:_ECHO]}'"
            )
        self.access_key_id, self.date, self.region, self.service, terminator = parts
        if terminator != TERMINATOR:
            raise ValueError(
                f"Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{terminator[:_ECHO]}'."
            )
        names = signed_headers.split(";")
        if names != sorted(set(names)) or not all(_HEADER_NAME.fullmatch(name) for name in names):
            raise ValueError("'SignedHeaders' must be distinct header names in lower case, sorted, joined by ';'.")
        self.header_names: Final = frozenset(name.encode() for name in names)
        self.signed_headers: Final = signed_headers.encode()
        # Parts of what is signed, made once: the same terms come with every request of a client's day.
        self.starts: Final = tuple((name.encode(), f"{name}:".encode()) for name in names)
        self._prefix = (f"{ALGORITHM}\n", f"\n{credential.partition('/')[2]}\n")

    def to_sign(self, timestamp: str, canonical: bytes) -> bytes:
        """The string to sign, given the canonical request."""
        before, after = self._prefix
        return (before + timestamp + after + hashlib.sha256(canonical).hexdigest()).encode()


class Signature:
    """A signature and where it stood: in the `Authorization` header, or, with `in_query`, in the query."""

    __slots__ = ("in_query", "terms", "value")

    def __init__(self, terms: Terms, value: bytes, in_query: bool = False) -> None:
        self.terms = terms
        self.value = value
        """Hexadecimal, lower case in every valid one."""
        self.in_query = in_query


class SigningKey:
    """The key of one secret, day, region and service: HMAC-SHA256 (RFC 2104), with the key's own blocks hashed once.

    Twice as fast as `hmac.digest`, which with OpenSSL 3 looks its algorithm up each time.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        """`key` has at most 64 bytes."""
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return "SigningKey(...)"

    def sign(self, data: bytes) -> str:
        """In hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.hexdigest()

    def signs(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is that of `data`. Compares in constant time."""
        return hmac.compare_digest(self.sign(data).encode(), signature)


class Presigned(NamedTuple):
    """What a presigned query says, percent-decoded."""

    signature: Signature
    date: str
    """`YYYYMMDDTHHMMSSZ` in every valid one."""
    expires: str
    """Seconds, in every valid one."""
    security_token: str | None


def parse_authorization(value: bytes) -> Signature:
    """Take apart `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.

    Raises ValueError in AWS's words for whatever is missing or malformed; values are cut to 64 characters.
    """
    if value[-SIGNATURE_SIZE:].isalnum():
        # All but the signature is the same in every request of a client's day.
        terms = terms_before(value[:-SIGNATURE_SIZE])
        if terms is not None:
            return Signature(terms, value[-SIGNATURE_SIZE:])
    parts = _parameters(value.decode("latin-1"))
    return Signature(_terms_of(parts), parts["Signature"].encode())


def terms_before(start: bytes) -> Terms | None:
    """What all but the signature of an `Authorization` header says; None when that does not end where a signature
    begins, or is long. Raises ValueError as parse_authorization does."""
    if len(start) > _MAX_KNOWN_BYTES or start[-11:] not in _BEFORE_SIGNATURE:
        return None
    return _known_terms_before(start)


@functools.lru_cache(maxsize=_MAX_KNOWN)
def _known_terms_before(start: bytes) -> Terms:
    return _terms_of(_parameters(start.decode("latin-1") + "0"))


def _terms_of(parts: dict[str, str]) -> Terms:
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        raise ValueError(" ".join(f"Authorization header requires '{name}' parameter." for name in missing))
    return Terms(parts["Credential"], parts["SignedHeaders"])


def _parameters(value: str) -> dict[str, str]:
    scheme, _, rest = value.strip(_OWS).partition(" ")
    if scheme != ALGORITHM:
        raise ValueError(f"Unsupported AWS 'algorithm': '{scheme[:_ECHO]}'.")
    parts: dict[str, str] = {}
    for pair in rest.split(","):
        stripped = pair.strip(_OWS)
        if not stripped:
            continue
        name, equals, told = stripped.partition("=")
        if not equals:
            raise ValueError(
                f"'{stripped[:_ECHO]}' not a valid key=value pair (missing equal-sign) in Authorization header."
            )
        if name in parts:
            raise ValueError(f"Authorization header has the '{name[:_ECHO]}' parameter more than once.")
        parts[name] = told
    return parts


def is_presigned(raw_query: bytes) -> bool:
    """Whether a query speaks of a signature, completely or not."""
    if raw_query.find(b"X-Amz-") < 0:
        return False
    return any(pair.partition(b"=")[0] in _QUERY_NAMES for pair in raw_query.split(b"&"))


def parse_query(raw_query: bytes) -> Presigned | None:
    """What a query says of a signature; None when it doesn't speak of one.

    Names count as AWS's signers write them, unescaped. Raises ValueError for whatever is missing, malformed or there
    twice; values are cut to 64 characters.
    """
    found: dict[bytes, str] = {}
    for pair in raw_query.split(b"&"):
        name, _, raw = pair.partition(b"=")
        if name in _QUERY_NAMES:
            if name in found:
                raise ValueError(f"The query has the parameter {name.decode()} more than once.")
            found[name] = _decoded(name, raw)
    if not found:
        return None
    missing = [name.decode() for name in _REQUIRED if not found.get(name)]
    if missing:
        raise ValueError(f"Query-string authentication requires {', '.join(missing)}.")
    algorithm, credential, value, date, signed_headers, expires = (found[name] for name in _REQUIRED)
    if algorithm != ALGORITHM:
        raise ValueError(f"Unsupported AWS 'algorithm': '{algorithm[:_ECHO]}'.")
    signature = Signature(Terms(credential, signed_headers), value.encode(), in_query=True)
    return Presigned(signature, date, expires, found.get(_TOKEN_NAME))


def _decoded(name: bytes, raw: bytes) -> str:
    if not _BROKEN_ESCAPE.search(raw):
        try:
            return unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            pass
    raise ValueError(f"The query's parameter {name.decode()} is not percent-encoded UTF-8.")


def derive_signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key (32 bytes) of one secret, day (`YYYYMMDD`), region and service."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature_matches(
    signature: Signature,
    *,
    signing_key: SigningKey,
    timestamp: str,
    method: str,
    raw_path: bytes,
    raw_query: bytes,
    headers: Headers,
    payload_sha256: str,
) -> bool:
    """Whether `signature` signs this request.

    `raw_path` and `raw_query` as received, still encoded, without `?`; `headers` with names in lower case, in order;
    `timestamp` is `YYYYMMDDTHHMMSSZ`; `payload_sha256` hexadecimal. Compares in constant time.
    """
    terms = signature.terms
    blocks = _header_blocks(terms, headers)
    path = canonical_path(raw_path)
    for query in _presigned_forms(raw_query) if signature.in_query else query_forms(raw_query):
        for block in blocks:
            canonical = b"\n".join((method.encode(), path, query, block, terms.signed_headers, payload_sha256.encode()))
            if signing_key.signs(terms.to_sign(timestamp, canonical), signature.value):
                return True
    return False


# -- the path -----------------------------------------------------------------------------------------------------


def canonical_path(raw_path: bytes) -> bytes:
    """The canonical URI of every service but S3: dot segments and empty segments removed, then encoded once more."""
    # Callers ask for the same few paths again and again; long ones are not worth the memory.
    return _known_canonical_path(raw_path) if len(raw_path) <= _MAX_KNOWN_BYTES else _canonical_path(raw_path)


def _canonical_path(raw_path: bytes) -> bytes:
    if not raw_path:
        return b"/"
    kept: list[bytes] = []
    for segment in raw_path.split(b"/"):
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    path = (b"/" if raw_path[:1] == b"/" else b"") + b"/".join(kept)
    if kept and raw_path[-1:] == b"/":
        path += b"/"
    return _UNSAFE_IN_PATH.sub(_escaped, path)


_known_canonical_path = functools.lru_cache(maxsize=_MAX_KNOWN)(_canonical_path)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]


# -- the query ----------------------------------------------------------------------------------------------------


def _presigned_forms(raw_query: bytes) -> Iterator[bytes]:
    """The forms in which signers sign a query that will hold the signature, the likeliest first."""
    pairs = [pair for pair in raw_query.split(b"&") if pair.partition(b"=")[0] != _SIGNATURE_NAME]
    yield from query_forms(b"&".join(pairs))
    # Some services sign before the token is added, and some signers do so for all (`omit_session_token`).
    without = [pair for pair in pairs if pair.partition(b"=")[0] != _TOKEN_NAME]
    if len(without) < len(pairs):
        yield from query_forms(b"&".join(without))


def query_forms(raw_query: bytes) -> tuple[bytes, ...]:
    """The query sorted as botocore signs it, as sent; then, where it differs, as the specification has it.

    Signers that send a query less encoded than they sign it (`a=b:c` as `a=b%3Ac`) follow the specification. An escape
    stays as it is: `%3a` is not `%3A`.
    """
    return _known_forms(raw_query) if len(raw_query) <= _MAX_KNOWN_BYTES else _sorted_forms(raw_query)


def _sorted_forms(raw_query: bytes) -> tuple[bytes, ...]:
    if not raw_query:
        return (b"",)
    pairs = [pair.partition(b"=")[::2] for pair in raw_query.split(b"&")]
    encoded = [(_UNSAFE_IN_QUERY.sub(_escaped, name), _UNSAFE_IN_QUERY.sub(_escaped, value)) for name, value in pairs]
    # By name, then value: not as one text, in which `=` would stand after `-`.
    forms = [b"&".join([b"%b=%b" % pair for pair in sorted(form)]) for form in (pairs, encoded)]
    return tuple(forms) if forms[0] != forms[1] else (forms[0],)


_known_forms = functools.lru_cache(maxsize=_MAX_KNOWN)(_sorted_forms)


# -- headers ------------------------------------------------------------------------------------------------------


def _header_blocks(terms: Terms, headers: Headers) -> tuple[bytes, ...]:
    """The canonical headers, each line ended; nothing when a signed header is not in the request.

    A value beyond ASCII has two forms: its bytes as sent, and, from clients that send Latin-1 but sign UTF-8 (botocore
    over http.client), the same text in UTF-8.
    """
    found = dict(headers)
    if len(found) != len(headers):
        found = _joined(headers, _trimmed)
    try:
        # In each value, white space is one space. (Cheaper than to look whether it is.)
        block = b"\n".join([start + b" ".join(found[name].split()) for name, start in terms.starts]) + b"\n"
    except KeyError:
        return ()
    if block.isascii():
        return (block,)
    texts = _joined(headers, _trimmed_text)
    return (block, b"".join([start + texts[name] + b"\n" for name, start in terms.starts]))


def _joined(headers: Headers, trim: Callable[[bytes], bytes]) -> dict[bytes, bytes]:
    """Canonical values by name, those of a header that is there more than once in order."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(trim(value))
    host = found.get(b"host")
    if host and len(set(host)) == 1:
        # Clients that add a Host of their own to the one that was signed send it twice alike (spec, section 13).
        del host[1:]
    return {name: b",".join(values) for name, values in found.items()}


def _trimmed(value: bytes) -> bytes:
    return b" ".join(value.split())


def _trimmed_text(value: bytes) -> bytes:
    # White space is ASCII's in both forms, although to botocore a no-break space is white space, too: nothing that
    # reaches an agent may differ from what was signed.
    return _trimmed(value).decode("latin-1").encode()
