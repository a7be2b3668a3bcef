"""What the `bedrock-agentcore` SDK signs for WebSockets: without a body, in headers or in the URL."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import Callable
from urllib.parse import urlsplit

import boto3
import pytest
from bedrock_agentcore.runtime import AgentCoreRuntimeClient
from signed_requests import ACCOUNT, KEY, KEYS, REGION, RUNTIME_ID, TEMPORARY

from freehold.auth.keys import AccessKey
from freehold.auth.sigv4 import Head, SignatureRefused, Verifier
from freehold.domain.principals import Principal

ARN = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{RUNTIME_ID}"
SESSION = "s" * 40

Sign = Callable[[AgentCoreRuntimeClient], Head]


class Keys:
    def known(self, access_key_id: str) -> AccessKey | None:
        return None

    async def get(self, access_key_id: str) -> AccessKey | None:
        return next((key for key in KEYS if key.access_key_id == access_key_id), None)


def client(key: AccessKey) -> AgentCoreRuntimeClient:
    session = boto3.Session(key.access_key_id, key.secret, key.session_token, region_name=REGION)
    return AgentCoreRuntimeClient(region=REGION, session=session)


def received(url: str, headers: dict[str, str]) -> Head:
    """As it arrives: clients add a Host of their own to the one that the SDK signed."""
    parts = urlsplit(url)
    host = [(b"host", parts.netloc.encode())]
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Head("GET", parts.path.encode(), parts.query.encode(), host + sent)


def in_headers(sdk: AgentCoreRuntimeClient) -> Head:
    return received(*sdk.generate_ws_connection(ARN, session_id=SESSION, endpoint_name="DEFAULT"))


def in_url(sdk: AgentCoreRuntimeClient) -> Head:
    more = {"X-Amzn-Bedrock-AgentCore-Runtime-Custom-Who": "a b/c:d+e"}
    return received(
        sdk.generate_presigned_url(ARN, session_id=SESSION, endpoint_name="DEFAULT", custom_headers=more), {}
    )


def of_a_shell(sdk: AgentCoreRuntimeClient) -> Head:
    url = sdk.generate_presigned_url(ARN, expires=60)
    return received(url, {"User-Agent": "browser", "Sec-WebSocket-Key": "x", "Origin": "http://localhost"})


def verify(head: Head, *, after_s: float = 0) -> Principal:
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=after_s)
    pending = asyncio.run(Verifier(Keys(), region=REGION).check_head(head, now=now))
    return pending.finish(hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize("key", [KEY, TEMPORARY], ids=["long-lived", "temporary"])
@pytest.mark.parametrize("sign", [in_headers, in_url, of_a_shell])
def test_what_the_sdk_signs_for_a_websocket_is_taken(sign: Sign, key: AccessKey):
    head = sign(client(key))
    assert verify(head).account == ACCOUNT
    moved = Head("GET", head.raw_path.replace(b"/ws", b"/ws/shells"), head.raw_query, head.headers)
    for other in (moved, Head("POST", head.raw_path, head.raw_query, head.headers)):
        with pytest.raises(SignatureRefused):
            verify(other)


@pytest.mark.parametrize(("sign", "valid_s"), [(in_headers, 300), (in_url, 300), (of_a_shell, 60)])
def test_it_is_taken_for_its_time_and_no_longer(sign: Sign, valid_s: int):
    head = sign(client(KEY))
    assert verify(head, after_s=valid_s - 5)
    with pytest.raises(SignatureRefused, match="Signature expired"):
        verify(head, after_s=valid_s + 2)
