"""Canonical requests that are alike but for the values of their headers and the hash of their body.

For: verifying a client's next request with what was worked out for one before it. Not for who the caller is, clocks or
scopes, as `aws.sigv4`. Invariant: what is filled in is the first canonical request that `sigv4.signature_matches` would
try; some signers mean another, so that a signature which does not fit is not yet wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from freehold.aws import sigv4


class Template:
    """The canonical request of all requests with one method, path, query, order of headers, and set of terms."""

    __slots__ = ("after", "at", "before", "claimed", "compiled", "stamp", "starts", "terms", "token")

    def __init__(
        self, terms: sigv4.Terms, *, method: str, raw_path: bytes, raw_query: bytes, names: Sequence[bytes]
    ) -> None:
        """`names` of the headers in order, in lower case. Raises ValueError when there is none for such requests."""
        if sigv4.is_presigned(raw_query) or len(set(names)) < len(names):
            raise ValueError("the query holds the signature, or a header's values have to be joined")
        path, query = sigv4.canonical_path(raw_path), sigv4.query_forms(raw_query)[0]
        self.terms: Final = terms
        self.before: Final = b"%b\n%b\n%b\n" % (method.encode(), path, query)
        self.after: Final = b"\n%b\n" % terms.signed_headers
        self.starts: Final = tuple(start for _, start in terms.starts)
        """What each line of the canonical headers begins with."""
        self.at: Final = tuple(names.index(name) for name, _ in terms.starts)
        """Which header's value follows."""
        self.stamp: Final = names.index(b"x-amz-date")
        """Where values are that say something about the signature; -1 where there is none."""
        self.token: Final = _place(names, b"x-amz-security-token")
        self.claimed: Final = _place(names, b"x-amz-content-sha256")
        self.compiled: object = None
        """What `gateway.fastpath` has made of it."""

    def canonical(self, values: Sequence[bytes], payload_sha256: bytes) -> bytes:
        """The canonical request, given all headers' values as received."""
        lines = [start + b" ".join(values[at].split()) for start, at in zip(self.starts, self.at, strict=True)]
        return b"%b%b\n%b%b" % (self.before, b"\n".join(lines), self.after, payload_sha256)


def _place(names: Sequence[bytes], name: bytes) -> int:
    return names.index(name) if name in names else -1
