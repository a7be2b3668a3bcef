"""Signatures against botocore's signer: whatever it signs is taken, and nothing else is."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from typing import Any
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from freehold.aws import sigv4
from freehold.aws.sigv4_template import Template

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "eu-central-1"
SERVICE = "bedrock-agentcore"
STAMP = "20261123T120000Z"
NOW = dt.datetime(2026, 11, 23, 12, 0, 0)

Parts = tuple[bytes, bytes, list[tuple[bytes, bytes]]]

# What may stand in a request line: no spaces, controls, `#` or `?` in a path.
PATH = st.text(st.sampled_from("abzAZ09-._~/%2F%3a:@!$&'()*+,;=[]äß"), max_size=60).map(lambda text: "/" + text)
QUERY = st.text(st.sampled_from("abZ09-._~%2F%20+=&&:/?@!$'()*,;ä"), max_size=60)
# Without what is white space to botocore alone.
HEADER_VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0"), max_size=40
)


def signed(method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes) -> tuple[Any, Parts]:
    """A request that botocore signed, and its parts on the wire."""
    request = AWSRequest(method=method, url=f"http://localhost:2673{path}{'?' + query if query else ''}", data=body)
    request.headers["Host"] = "localhost:2673"
    for name, value in headers:
        request.headers[name] = value
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        botocore.auth.SigV4Auth(Credentials("AKIDEXAMPLE", SECRET), SERVICE, REGION).add_auth(request)
    wire = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    return sigv4.parse_authorization(request.headers["Authorization"].encode()), (path.encode(), query.encode(), wire)


def signing_key(key: bytes | None = None) -> sigv4.SigningKey:
    return sigv4.SigningKey(key or sigv4.derive_signing_key(SECRET, STAMP[:8], REGION, SERVICE))


def fits(signature: Any, template: Template, values: list[bytes], body: bytes) -> bool:
    """Whether it is that of the filled-in template."""
    canonical = template.canonical(values, hashlib.sha256(body).hexdigest().encode())
    return signing_key().signs(signature.terms.to_sign(STAMP, canonical), signature.value)


def matches(authorization: Any, method: str, parts: Parts, body: bytes, *, key: bytes | None = None) -> bool:
    path, query, headers = parts
    return sigv4.signature_matches(
        authorization,
        signing_key=signing_key(key),
        timestamp=STAMP,
        method=method,
        raw_path=path,
        raw_query=query,
        headers=headers,
        payload_sha256=hashlib.sha256(body).hexdigest(),
    )


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    PATH,
    QUERY,
    st.lists(st.tuples(st.sampled_from(["X-Amz-Meta", "X-Custom", "Accept"]), HEADER_VALUE), max_size=4),
    st.binary(max_size=40),
)
def test_whatever_botocore_signs_is_taken(
    method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes
):
    assume(not path.startswith("//"))  # no path, but an authority, to botocore
    authorization, parts = signed(method, path, query, headers, body)
    assert matches(authorization, method, parts, body)
    assert not matches(authorization, method, parts, body + b"x")
    assert not matches(authorization, method, (parts[0] + b"x", *parts[1:]), body)
    assert not matches(authorization, method, (parts[0], parts[1] + b"&x=y", parts[2]), body)
    assert not matches(authorization, method, parts, body, key=b"\0" * 32)


@settings(max_examples=300, deadline=None)
@given(PATH, QUERY, st.lists(HEADER_VALUE, min_size=2, max_size=2), HEADER_VALUE, st.binary(max_size=40))
def test_what_was_worked_out_for_one_request_takes_others_like_it_and_none_that_was_not_signed(
    path: str, query: str, values: list[str], other: str, body: bytes
):
    assume(not path.startswith("//"))
    named = list(zip(["X-Amz-Meta", "Accept"], values, strict=True))
    signature, (raw_path, raw_query, wire) = signed("POST", path, query, named, body)
    names, sent = [name for name, _ in wire], [value for _, value in wire]
    template = Template(signature.terms, method="POST", raw_path=raw_path, raw_query=raw_query, names=names)
    # botocore signs a value beyond ASCII as UTF-8, and it is sent as Latin-1: that is for the arithmetic to find out.
    assert fits(signature, template, sent, body) == all(value.isascii() for value in values)
    changed = [other.encode("latin-1") if name == b"x-amz-meta" else value for name, value in wire]
    for tried, payload in ((changed, body), (sent, body + b"x"), ([value[::-1] for value in sent], body)):
        if fits(signature, template, tried, payload):
            parts = raw_path, raw_query, list(zip(names, tried, strict=True))
            assert matches(signature, "POST", parts, payload)


@pytest.mark.parametrize("what", ["a header twice", "a header that is not there", "no date", "presigned"])
def test_some_requests_have_nothing_worked_out(what: str):
    signature, (path, query, wire) = signed("POST", "/x", "", [("X-Amz-Meta", "a")], b"")
    names = [name for name, _ in wire]
    assert Template(signature.terms, method="POST", raw_path=path, raw_query=query, names=names)
    names, query = {
        "a header twice": ([*names, b"x-amz-meta"], query),
        "a header that is not there": ([name for name in names if name != b"x-amz-meta"], query),
        "no date": ([name for name in names if name != b"x-amz-date"], query),
        "presigned": (names, b"X-Amz-Date=20261123T120000Z"),
    }[what]
    with pytest.raises(ValueError, match=r"."):
        Template(signature.terms, method="POST", raw_path=path, raw_query=query, names=names)


ARN = "arn%3Aaws%3Abedrock-agentcore%3Aeu-central-1%3A111122223333%3Aruntime%2Fagent-0123456789"


def test_a_decoded_path_is_another_path():
    authorization, (path, query, headers) = signed("POST", f"/runtimes/{ARN}/invocations", "", [], b"")
    assert matches(authorization, "POST", (path, query, headers), b"")
    decoded = path.replace(b"%3A", b":")
    for other in (decoded, decoded.replace(b"%2F", b"/"), path.replace(b"%2F", b"%252F"), path.lower()):
        assert not matches(authorization, "POST", (other, query, headers), b"")


def test_the_order_of_the_query_does_not_count_and_values_do():
    authorization, (path, _, headers) = signed("GET", "/tags/x", "tagKeys=b&tagKeys=a&z=1", [], b"")
    assert matches(authorization, "GET", (path, b"z=1&tagKeys=a&tagKeys=b", headers), b"")
    assert not matches(authorization, "GET", (path, b"z=1&tagKeys=a", headers), b"")
    assert not matches(authorization, "GET", (path, b"z=1&tagKeys=a&tagKeys=c", headers), b"")


def test_a_query_that_was_signed_more_encoded_than_it_was_sent_is_taken():
    authorization, (path, _, headers) = signed("GET", "/x", "a=b%3Ac%2Fd", [], b"")
    assert matches(authorization, "GET", (path, b"a=b:c/d", headers), b"")


def test_repeated_headers_are_joined_in_their_order():
    authorization, (path, query, headers) = signed("GET", "/x", "", [("X-Amz-A", "1"), ("X-Amz-A", "2")], b"")
    assert matches(authorization, "GET", (path, query, headers), b"")
    assert not matches(authorization, "GET", (path, query, headers[::-1]), b"")


def test_a_signed_header_that_is_not_there_is_no_match():
    authorization, (path, query, headers) = signed("GET", "/x", "", [("X-Amz-A", "")], b"")
    kept = [header for header in headers if header[0] != b"x-amz-a"]
    assert matches(authorization, "GET", (path, query, headers), b"")
    assert not matches(authorization, "GET", (path, query, kept), b"")


def test_an_example_of_the_documentation_has_its_signing_key():
    # AWS General Reference, "Deriving the signing key": 20120215, us-east-1, iam.
    key = sigv4.derive_signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("AWS4-HMAC-SHA256", "requires 'Credential' parameter. Authorization header requires 'Signature' parameter"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, Signature=0", "requires 'SignedHeaders' parameter"),
        ("AWS4-HMAC-SHA256 nonsense", "not a valid key=value pair"),
        ("AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=0", "exactly 5 slash-delimited elements"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=0", "valid terminator"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=;, Signature=0", "SignedHeaders"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=a;a, Signature=0", "SignedHeaders"),
        ("AWS4-HMAC-SHA256 Signature=0, Signature=1", "more than once"),
        ("Basic abc", "Unsupported AWS 'algorithm'"),
    ],
)
def test_a_malformed_authorization_says_what_is_wrong(value: str, told: str):
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        sigv4.parse_authorization(value.encode())


def test_an_authorization_without_spaces_is_read_too():
    for value in (
        b"AWS4-HMAC-SHA256 Signature=ab,SignedHeaders=a;host,Credential=k/1/r/s/aws4_request",
        b"AWS4-HMAC-SHA256 SignedHeaders=a;host,Credential=k/1/r/s/aws4_request,Signature=ab",
    ):
        read = sigv4.parse_authorization(value)
        terms = read.terms
        assert (terms.access_key_id, terms.date, terms.region, terms.service) == ("k", "1", "r", "s")
        assert (terms.signed_headers, read.value, read.in_query) == (b"a;host", b"ab", False)


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_a_signing_key_signs_as_hmac_does(key: bytes, data: bytes):
    assert sigv4.SigningKey(key).sign(data) == hmac.digest(key, data, "sha256").hex()


@given(st.text(max_size=200))
def test_no_text_is_more_than_a_value_error(text: str):
    for value in (text, "AWS4-HMAC-SHA256 " + text):
        try:
            read = sigv4.parse_authorization(value.encode())
        except ValueError:
            continue
        assert not matches(read, "GET", (b"/", b"", [(b"host", b"x")]), b"")
