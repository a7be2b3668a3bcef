"""Signatures made by botocore, and by nobody: who is let in, and what the others are told."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from typing import Any
from unittest import mock

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from freehold.auth import sigv4
from freehold.auth.keys import AccessKey, mint_access_key
from freehold.auth.sigv4 import Head, SignatureRefused, Verifier

REGION = "eu-central-1"
NOW = dt.datetime(2026, 11, 23, 12, 0, 0, tzinfo=dt.UTC)
KEY = AccessKey("AKIAFHAAAAAAAAAAAAAA", "111122223333", "s" * 40)
ARN = "arn%3Aaws%3Abedrock-agentcore%3Aeu-central-1%3A111122223333%3Aruntime%2Fagent-0123456789"
PATH = f"/runtimes/{ARN}/invocations"


class Keys:
    def __init__(self, *keys: AccessKey) -> None:
        self.keys = {key.access_key_id: key for key in keys}
        self.asked = 0

    def known(self, access_key_id: str) -> AccessKey | None:
        return None

    async def get(self, access_key_id: str) -> AccessKey | None:
        self.asked += 1
        return self.keys.get(access_key_id)


def sign(
    method: str = "POST",
    url: str = f"http://127.0.0.1:2673{PATH}?qualifier=DEFAULT",
    body: bytes = b'{"a": 1}',
    *,
    headers: dict[str, str] | None = None,
    key: AccessKey = KEY,
    token: str | None = None,
    region: str = REGION,
    service: str = "bedrock-agentcore",
    at: dt.datetime = NOW,
) -> Head:
    """The head of a request that botocore signed at `at`, as a server receives it."""
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    request.headers["Host"] = url.split("/")[2]
    credentials = Credentials(key.access_key_id, key.secret, token)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(credentials, service, region).add_auth(request)
    _, _, rest = url.partition("//")
    path, _, query = rest[rest.index("/") :].partition("?")
    received = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    return Head(method, path.encode(), query.encode(), received)


def changed(head: Head, **headers: str | None) -> Head:
    """The head with headers replaced, or removed (None); `_` stands for `-`."""
    names = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    kept = [(name, value) for name, value in head.headers if name not in names]
    added = [(name, value.encode("latin-1")) for name, value in names.items() if value is not None]
    return Head(head.method, head.raw_path, head.raw_query, kept + added)


def value(head: Head, name: bytes) -> str:
    return next(value.decode() for key, value in head.headers if key == name)


def verify(head: Head, body: bytes = b'{"a": 1}', *, now: dt.datetime = NOW, keys: Keys | None = None) -> Any:
    async def both() -> Any:
        pending = await Verifier(keys or Keys(KEY), region=REGION).check_head(head, now=now)
        return pending.finish(hashlib.sha256(body).hexdigest())

    return asyncio.run(both())


def refused(head: Head, **more: Any) -> SignatureRefused:
    with pytest.raises(SignatureRefused) as refusal:
        verify(head, **more)
    assert KEY.secret not in refusal.value.message
    return refusal.value


def test_what_botocore_signs_is_the_accounts():
    principal = verify(sign())
    assert principal.account == "111122223333"
    assert principal.arn == "arn:aws:iam::111122223333:root"
    assert principal.owner == "account:111122223333"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/runtimes/",
        "http://localhost/runtimes/?maxResults=5&nextToken=a%2Fb%3D",
        "http://localhost/tags/x?tagKeys=b&tagKeys=a&tagKeys=B",
        "http://localhost/a%20b/~c/%C3%A4",
        "http://localhost/x?empty=&plain",
    ],
)
def test_any_path_and_query_is_verified_as_sent(url: str):
    assert verify(sign("GET", url, b""), b"").account == KEY.account


def test_signed_headers_with_odd_spaces_verify():
    assert verify(sign(headers={"X-Amz-Custom": "  a   b  "})).account == KEY.account


@pytest.mark.parametrize("authorization", [None, "", "   "])
def test_without_authorization_a_token_is_missing(authorization: str | None):
    refusal = refused(changed(sign(), authorization=authorization))
    assert (refusal.code, refusal.message) == ("MissingAuthenticationTokenException", "Missing Authentication Token")


def test_a_bearer_token_is_another_method():
    refusal = refused(changed(sign(), authorization="Bearer eyJhbGciOi"))
    assert refusal.code == "AccessDeniedException"
    assert refusal.message.startswith("Authorization method mismatch.")


def test_an_unknown_key_is_told_as_such():
    refusal = refused(sign(key=AccessKey("AKIAFHBBBBBBBBBBBBBB", "1" * 12, "s" * 40)))
    assert refusal.code == "UnrecognizedClientException"
    assert refusal.message == "The security token included in the request is invalid."


def test_a_session_token_is_of_no_key_of_ours():
    assert refused(sign(token="token")).code == "UnrecognizedClientException"


def test_a_wrong_secret_is_a_wrong_signature():
    refusal = refused(sign(key=AccessKey(KEY.access_key_id, KEY.account, "x" * 40)))
    assert refusal.code == "InvalidSignatureException"
    assert refusal.message.startswith("The request signature we calculated does not match")


def test_a_changed_method_path_query_host_or_body_is_a_wrong_signature():
    head = sign()
    for other in (
        Head("PUT", head.raw_path, head.raw_query, head.headers),
        Head("POST", head.raw_path + b"/", head.raw_query, head.headers),
        Head("POST", head.raw_path, b"qualifier=other", head.headers),
        Head("POST", head.raw_path, b"", head.headers),
        changed(head, host="127.0.0.1:1"),
    ):
        assert refused(other).code == "InvalidSignatureException"
    assert refused(head, body=b'{"a": 2}').code == "InvalidSignatureException"


def test_an_unsigned_header_may_be_added_on_the_way_but_not_one_of_amazons():
    assert verify(changed(sign(), user_agent="x", x_amzn_trace_id="Root=1", x_forwarded_for="::1"))
    refusal = refused(changed(sign(), x_amz_target="Other"))
    assert refusal.code == "IncompleteSignatureException"
    assert "x-amz-target" in refusal.message


def test_a_header_that_counts_may_not_be_there_twice():
    head = sign()
    for name in (b"authorization", b"x-amz-date"):
        twice = Head(head.method, head.raw_path, head.raw_query, [*head.headers, (name, b"x")])
        assert refused(twice).code == "IncompleteSignatureException"


@pytest.mark.parametrize("minutes", [-5, 0, 5])
def test_a_clock_may_be_five_minutes_off(minutes: int):
    assert verify(sign(at=NOW + dt.timedelta(minutes=minutes)))


def test_an_old_signature_has_expired():
    refusal = refused(sign(at=NOW - dt.timedelta(minutes=5, seconds=1)))
    assert refusal.code == "InvalidSignatureException"
    assert refusal.message == (
        "Signature expired: 20261123T115459Z is now earlier than 20261123T115500Z (20261123T120000Z - 5 min.)"
    )


def test_a_signature_of_the_future_is_not_yet_current():
    refusal = refused(sign(at=NOW + dt.timedelta(minutes=5, seconds=1)))
    assert refusal.message.startswith("Signature not yet current: 20261123T120501Z is still later than")


@pytest.mark.parametrize(
    "stamp", ["", "yesterday", "2026-11-23T12:00:00Z", "20261123T126000Z", "\u06620261123T120000Z", "20261323T120000Z"]
)
def test_an_unreadable_date_is_told(stamp: str):
    head = sign()
    kept = [(name, value) for name, value in head.headers if name != b"x-amz-date"]
    other = Head(head.method, head.raw_path, head.raw_query, [*kept, (b"x-amz-date", stamp.encode())])
    assert refused(other).code in ("IncompleteSignatureException", "InvalidSignatureException")


def test_without_any_date_the_signature_is_incomplete():
    assert "X-Amz-Date" in refused(changed(sign(), x_amz_date=None)).message


def test_a_scope_of_another_day_region_or_service_is_refused():
    head = sign()
    other_day = value(head, b"authorization").replace("/20261123/", "/20261122/")
    assert "Date in Credential scope" in refused(changed(head, authorization=other_day)).message
    assert "valid region" in refused(sign(region="us-east-1")).message
    assert "correct service: 'bedrock-agentcore'" in refused(sign(service="bedrock")).message


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 nonsense",
        "AWS4-HMAC-SHA256 Credential=AKIA, SignedHeaders=host, Signature=00",
        "AWS4-HMAC-SHA256 Credential=AKIA/20261123/eu-central-1/bedrock-agentcore/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Signature=00",
        "AWS4-ECDSA-P256-SHA256 Credential=AKIA/1/2/3/aws4_request, SignedHeaders=host, Signature=00",
        "Basic QUxBRERJTjpPUEVO",
    ],
)
def test_a_malformed_authorization_is_incomplete(authorization: str):
    assert refused(changed(sign(), authorization=authorization)).code == "IncompleteSignatureException"


def test_the_host_must_be_signed():
    head = sign()
    authorization = value(head, b"authorization").replace("SignedHeaders=host;", "SignedHeaders=")
    assert "Host" in refused(changed(head, authorization=authorization)).message


def test_a_claimed_hash_must_be_signed_and_true():
    body = b'{"a": 1}'
    true, false = hashlib.sha256(body).hexdigest(), hashlib.sha256(b"else").hexdigest()
    assert verify(sign(headers={"X-Amz-Content-SHA256": true}))
    assert refused(sign(headers={"X-Amz-Content-SHA256": false})).code == "InvalidSignatureException"
    assert refused(changed(sign(), x_amz_content_sha256=true)).code == "IncompleteSignatureException"
    assert refused(sign(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})).code == "InvalidSignatureException"


def test_everything_but_the_signature_is_checked_before_the_body():
    async def head_only(head: Head, keys: Keys) -> Any:
        return await Verifier(keys, region=REGION).check_head(head, now=NOW)

    claimed = hashlib.sha256(b"x").hexdigest()
    pending = asyncio.run(head_only(sign(headers={"X-Amz-Content-SHA256": claimed}), Keys(KEY)))
    assert pending.claimed_payload_sha256 == claimed
    for head in (sign(key=mint_access_key("1" * 12)), sign(region="us-east-1"), sign(at=NOW - dt.timedelta(hours=1))):
        with pytest.raises(SignatureRefused):
            asyncio.run(head_only(head, Keys(KEY)))


def test_a_key_that_was_disabled_is_refused_although_its_signing_key_is_known():
    keys = Keys(KEY)
    verifier = Verifier(keys, region=REGION)

    async def once() -> None:
        pending = await verifier.check_head(sign(), now=NOW)
        pending.finish(hashlib.sha256(b'{"a": 1}').hexdigest())

    asyncio.run(once())
    keys.keys.clear()
    with pytest.raises(SignatureRefused) as refusal:
        asyncio.run(once())
    assert refusal.value.code == "UnrecognizedClientException"


def test_signing_keys_are_kept_and_bounded():
    keys = [mint_access_key("1" * 12) for _ in range(4)]
    verifier = Verifier(Keys(*keys), region=REGION, max_signing_keys=2)

    async def once(key: AccessKey) -> None:
        await verifier.check_head(sign(key=key), now=NOW)

    with mock.patch.object(sigv4.sigv4, "derive_signing_key", wraps=sigv4.sigv4.derive_signing_key) as derive:
        for key in [*keys, keys[3], keys[2], keys[0]]:
            asyncio.run(once(key))
    assert derive.call_count == 5
    assert len(verifier._signing_keys) == 2


def template_of(head: Head, *, region: str = REGION) -> Any:
    start = dict(head.headers)[b"authorization"][:-64]
    return Verifier(Keys(KEY), region=region).template(
        start,
        method=head.method,
        raw_path=head.raw_path,
        raw_query=head.raw_query,
        names=[name for name, _ in head.headers],
    )


def test_what_no_request_may_leave_out_is_asked_of_requests_that_are_alike():
    head = sign(headers={"X-Amz-Custom": "a"})
    assert template_of(head)
    signed_without = value(head, b"authorization").replace("host;", "").replace("x-amz-custom;", "")
    for other in (
        sign(region="us-east-1"),
        sign(service="bedrock"),
        changed(head, x_amz_target="Other"),
        changed(head, x_amz_security_token="token"),
        changed(head, authorization=value(head, b"authorization").replace("x-amz-custom;", "")),
        changed(head, authorization=signed_without),
        changed(head, authorization=value(head, b"authorization")[:-1]),
        changed(head, authorization="Bearer " + "a" * 100),
        changed(head, authorization=""),
        changed(sign(headers={"Date": "Mon, 23 Nov 2026 12:00:00 GMT"}), x_amz_date=None),
    ):
        assert template_of(other) is None, other
    assert template_of(head, region="us-east-1") is None


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_no_text_in_authorization_is_more_than_a_refusal(text: str):
    refused(changed(sign(), authorization=text))
    refused(changed(sign(), authorization="AWS4-HMAC-SHA256 " + text))


def test_minted_keys_look_like_keys_and_never_repeat():
    keys = [mint_access_key("111122223333") for _ in range(200)]
    assert len({key.access_key_id for key in keys}) == len({key.secret for key in keys}) == 200
    for key in keys:
        assert key.access_key_id.startswith("AKIAFH")
        assert (len(key.access_key_id), len(key.secret)) == (20, 40)
        assert key.access_key_id.isalnum()
        assert key.secret not in repr(key)
