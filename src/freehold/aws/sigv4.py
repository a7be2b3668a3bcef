"""The arithmetic of AWS Signature Version 4, as a verifier needs it: read, derive, canonicalise, compare.

Not for who the caller is, clocks, scopes or which headers must be signed (`freehold.auth.sigv4`). Pure and fast: it is
on the path of every invocation. Invariant: the path is hashed as it was received, encoded once more and never decoded,
so that two requests which differ on the wire never share a signature, except where AWS's own signers make them.

Source: AWS General Reference, "Create a signed AWS API request"; `botocore.auth.SigV4Auth`, matched exactly.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"
_ECHO: Final = 64
_MAX_KNOWN_PATH_BYTES: Final = 1024
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_.~/-]")
_QUERY_SAFE: Final = "~"


@dataclass(frozen=True, slots=True)
class Authorization:
    """An `Authorization` header of SigV4, taken apart. Everything is as the caller wrote it."""

    access_key_id: str
    date: str
    """`YYYYMMDD`."""
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    """Hexadecimal, lower case in every valid one."""


def parse_authorization(value: str) -> Authorization:
    """Take apart `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.

    Raises ValueError in AWS's words for whatever is missing or malformed; values are cut to 64 characters.
    """
    scheme, _, rest = value.strip().partition(" ")
    if scheme != ALGORITHM:
        raise ValueError(f"Unsupported AWS 'algorithm': '{scheme[:_ECHO]}'.")
    parts = _parameters(rest)
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        raise ValueError(" ".join(f"Authorization header requires '{name}' parameter." for name in missing))
    credential = parts["Credential"].split("/")
    if len(credential) != 5 or not all(credential):
        raise ValueError(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{parts['Credential'][:_ECHO]}'"
        )
    access_key_id, date, region, service, terminator = credential
    if terminator != TERMINATOR:
        raise ValueError(
            f"Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{terminator[:_ECHO]}'."
        )
    signed_headers = tuple(parts["SignedHeaders"].split(";"))
    if not all(signed_headers) or len(set(signed_headers)) != len(signed_headers):
        raise ValueError("'SignedHeaders' must be distinct header names, joined by ';'.")
    return Authorization(access_key_id, date, region, service, signed_headers, parts["Signature"])


def derive_signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key (32 bytes) of one secret, day (`YYYYMMDD`), region and service."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature_matches(
    authorization: Authorization,
    *,
    signing_key: bytes,
    timestamp: str,
    method: str,
    raw_path: bytes,
    raw_query: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    payload_sha256: str,
) -> bool:
    """Whether `authorization` signs this request.

    `raw_path` and `raw_query` as received, still encoded, without `?`; `headers` with names in lower case, in order;
    `timestamp` is `YYYYMMDDTHHMMSSZ`; `payload_sha256` hexadecimal. Compares in constant time.
    """
    blocks = _header_blocks(authorization.signed_headers, headers)
    if blocks is None:
        return False
    scope = f"{authorization.date}/{authorization.region}/{authorization.service}/{TERMINATOR}"
    prefix = f"{ALGORITHM}\n{timestamp}\n{scope}\n".encode()
    path = canonical_path(raw_path)
    claimed = authorization.signature.encode()
    for block in blocks:
        for query in _canonical_queries(raw_query):
            canonical = b"\n".join(
                (
                    method.upper().encode(),
                    path,
                    query,
                    block,
                    ";".join(authorization.signed_headers).encode(),
                    payload_sha256.encode(),
                )
            )
            to_sign = prefix + hashlib.sha256(canonical).hexdigest().encode()
            if hmac.compare_digest(hmac.digest(signing_key, to_sign, "sha256").hex().encode(), claimed):
                return True
    return False


def canonical_path(raw_path: bytes) -> bytes:
    """The canonical URI of every service but S3: dot segments and empty segments removed, then encoded once more."""
    # Callers ask for the same few paths again and again; long ones are not worth the memory.
    return _known_canonical_path(raw_path) if len(raw_path) <= _MAX_KNOWN_PATH_BYTES else _canonical_path(raw_path)


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
    return _UNSAFE.sub(_escaped, path)


_known_canonical_path = functools.lru_cache(maxsize=1024)(_canonical_path)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]


def _canonical_queries(raw_query: bytes) -> Iterator[bytes]:
    """The query as botocore signs it (sorted, as sent), and, where it differs, as the specification has it.

    Signers that send a query less encoded than they sign it (`a=b:c` as `a=b%3Ac`) follow the specification. Both
    forms bind the same names and values.
    """
    if not raw_query:
        yield b""
        return
    pairs = [pair.partition(b"=")[::2] for pair in raw_query.split(b"&")]
    as_sent = b"&".join(b"=".join(pair) for pair in sorted(pairs))
    yield as_sent
    encoded = [(_encode_once(name), _encode_once(value)) for name, value in pairs]
    by_the_book = b"&".join(b"=".join(pair) for pair in sorted(encoded))
    if by_the_book != as_sent:
        yield by_the_book


def _encode_once(part: bytes) -> bytes:
    return quote_from_bytes(unquote_to_bytes(part), safe=_QUERY_SAFE).encode()


def _header_blocks(signed: tuple[str, ...], headers: Sequence[tuple[bytes, bytes]]) -> list[bytes] | None:
    """The canonical headers, each line ended; None when a signed header is not in the request.

    A value beyond ASCII has two forms: its bytes as sent, and, from clients that send Latin-1 but sign UTF-8 (botocore
    over http.client), the same text in UTF-8.
    """
    values: dict[bytes, list[bytes]] = {name.encode(): [] for name in signed}
    for name, value in headers:
        found = values.get(name)
        if found is not None:
            found.append(value)
    if not all(values.values()):
        return None
    block = b"".join(name + b":" + b",".join(_trimmed(v) for v in values[name]) + b"\n" for name in values)
    if block.isascii():
        return [block]
    lines = (
        f"{name.decode()}:{','.join(' '.join(v.decode('latin-1').split()) for v in values[name])}\n" for name in values
    )
    return [block, "".join(lines).encode()]


def _trimmed(value: bytes) -> bytes:
    return b" ".join(value.split())


def _parameters(rest: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for pair in rest.split(","):
        stripped = pair.strip()
        if not stripped:
            continue
        name, equals, value = stripped.partition("=")
        if not equals:
            raise ValueError(
                f"'{stripped[:_ECHO]}' not a valid key=value pair (missing equal-sign) in Authorization header."
            )
        if name in parts:
            raise ValueError(f"Authorization header has the '{name[:_ECHO]}' parameter more than once.")
        parts[name] = value
    return parts
