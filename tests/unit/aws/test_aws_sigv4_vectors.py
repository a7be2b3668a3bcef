"""AWS's published test vectors: each signed request is taken as it stands, and no other is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from freehold.aws import sigv4
from freehold.aws.sigv4_template import Template

VECTORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "aws_sigv4" / "v4.json").read_text()
)
MORE_ENCODED = {"get-vanilla-utf8-query"}
"""Signed with a query more encoded than it is sent: the second form that is tried."""
S3_ONLY = {
    "get-relative-relative-unnormalized",
    "get-relative-unnormalized",
    "get-slash-dot-slash-unnormalized",
    "get-slash-pointless-dot-unnormalized",
    "get-slash-unnormalized",
    "get-slashes-unnormalized",
}
"""Signed with dot segments and empty segments kept, as S3 alone has it."""


def read(text: str) -> tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """A request of the vectors as a server receives it: method, path, query, headers, body."""
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    method, target = first.split(" ", 1)
    path, _, query = target.rpartition(" ")[0].partition("?")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] == " ":  # folded, which no server of ours would read
            name, value = headers.pop()
            headers.append((name, value + b" " + line.encode()))
        else:
            name, _, value = line.partition(":")
            headers.append((name.lower().encode(), value.encode()))
    return method, path.encode(), query.encode(), headers, body.strip("\n").encode()


def is_taken(vector: dict[str, Any], form: str, *, secret: str | None = None) -> bool:
    context = vector["context.json"]
    method, path, query, headers, body = read(vector[f"{form}-signed-request.txt"])
    if form == "header":
        signature = sigv4.parse_authorization(dict(headers)[b"authorization"])
    else:
        presigned = sigv4.parse_query(query)
        assert presigned is not None
        assert presigned.expires == str(context["expiration_in_seconds"])
        assert presigned.security_token == context["credentials"].get("token")
        signature = presigned.signature
    assert signature.value.decode() == vector[f"{form}-signature.txt"]
    assert signature.terms.access_key_id == context["credentials"]["access_key_id"]
    stamp = context["timestamp"].replace("-", "").replace(":", "")
    key = sigv4.derive_signing_key(
        secret or context["credentials"]["secret_access_key"], stamp[:8], context["region"], context["service"]
    )
    return sigv4.signature_matches(
        signature,
        signing_key=sigv4.SigningKey(key),
        timestamp=stamp,
        method=method,
        raw_path=path,
        raw_query=query,
        headers=headers,
        payload_sha256=hashlib.sha256(body).hexdigest(),
    )


@pytest.mark.parametrize("form", ["header", "query"])
@pytest.mark.parametrize("name", sorted(VECTORS))
def test_a_published_vector_is_taken_unless_only_s3_signs_so(name: str, form: str):
    assert is_taken(VECTORS[name], form) == (name not in S3_ONLY)
    assert not is_taken(VECTORS[name], form, secret="another")


def test_all_of_the_suite_is_here():
    assert len(VECTORS) == 38
    assert set(VECTORS) >= S3_ONLY


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_a_published_vector_is_taken_by_what_is_worked_out_for_requests_like_it(name: str):
    vector = VECTORS[name]
    context = vector["context.json"]
    method, path, query, headers, body = read(vector["header-signed-request.txt"])
    signature = sigv4.parse_authorization(dict(headers)[b"authorization"])
    names, values = [name for name, _ in headers], [value for _, value in headers]
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match="joined"):
            Template(signature.terms, method=method, raw_path=path, raw_query=query, names=names)
        return
    template = Template(signature.terms, method=method, raw_path=path, raw_query=query, names=names)
    stamp = context["timestamp"].replace("-", "").replace(":", "")
    secret = context["credentials"]["secret_access_key"]
    key = sigv4.SigningKey(sigv4.derive_signing_key(secret, stamp[:8], context["region"], context["service"]))
    canonical = template.canonical(values, hashlib.sha256(body).hexdigest().encode())
    taken = key.signs(signature.terms.to_sign(stamp, canonical), signature.value)
    assert taken == (name not in S3_ONLY | MORE_ENCODED)
