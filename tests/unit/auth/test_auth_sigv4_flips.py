"""Every bit of a signed request counts: turned over, the request is refused, unless HTTP says that it is the same."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from signed_requests import KEYS, PATH, REGION, TEMPORARY, sign

from freehold.auth.keys import AccessKey
from freehold.auth.sigv4 import SignatureRefused, Verifier
from freehold.gateway import heads

NOW = dt.datetime(2026, 11, 23, 12, 0, 0, tzinfo=dt.UTC)
SESSION = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 40, "X-Amz-Custom": "a b"}


class Keys:
    def known(self, access_key_id: str) -> AccessKey | None:
        return next((key for key in KEYS if key.access_key_id == access_key_id), None)

    async def get(self, access_key_id: str) -> AccessKey | None:
        return self.known(access_key_id)


async def is_taken(verifier: Verifier, data: bytes) -> bool:
    """Whether a server would serve these bytes: a head that can be read, a whole body, a right signature."""
    end = data.find(b"\r\n\r\n") + 4
    try:
        head = heads.parse_request(data[:end])
        body = data[end:]
        if head.chunked or (head.content_length or 0) > len(body):
            return False
        pending = await verifier.check_head(head, now=NOW)
        pending.finish(hashlib.sha256(body[: head.content_length or 0]).hexdigest())
    except (heads.BadHead, SignatureRefused):
        return False
    return True


def same_to_http(data: bytes) -> Iterator[bytes]:
    """What one bit can do without changing the request: a header's name in other letters, version 1.0, and the like."""
    end = data.find(b"\r\n\r\n")
    yield data.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    if b"Content-Length: " in data:
        yield data.replace(b"Content-Length: ", b"Content-Length:0", 1)
    at = data.find(b"\r\n") + 2
    for line in data[at:end].split(b"\r\n"):
        for index in range(line.find(b":")):
            if chr(line[index]).isalpha():
                yield data[: at + index] + bytes([data[at + index] ^ 0x20]) + data[at + index + 1 :]
        at += len(line) + 2


def same_token(data: bytes) -> Iterator[bytes]:
    """Of a token outside the signature: its escapes in lower case, which say the same."""
    token = re.search(rb"X-Amz-Security-Token=([^& ]*)", data)
    assert token
    for found in re.finditer(rb"%[0-9A-F]{2}", token[1]):
        at = token.start(1) + found.start()
        for index in (at + 1, at + 2):
            if chr(data[index]).isalpha():
                yield data[:index] + bytes([data[index] ^ 0x20]) + data[index + 1 :]


@pytest.mark.parametrize(
    "signed",
    [
        {"headers": SESSION, "query": "qualifier=DEFAULT&x=%2Fa"},
        {"headers": SESSION, "claimed": True},
        {"headers": SESSION, "key": TEMPORARY},
        {"form": "query", "body": b"", "method": "GET", "path": PATH.replace("invocations", "ws")},
        {"form": "query", "expires_s": 300, "key": TEMPORARY},
        {"form": "token outside", "key": TEMPORARY},
    ],
    ids=["header", "hash", "token", "query", "query with token and body", "token outside"],
)
def test_no_bit_of_a_signed_request_may_be_turned_over(signed: dict[str, Any]):
    wire = sign(NOW, **signed)
    data = wire.to_bytes() if wire.body else wire.to_bytes().replace(b"Content-Length: 0\r\n", b"")

    async def taken() -> set[bytes]:
        verifier = Verifier(Keys(), region=REGION)
        assert await is_taken(verifier, data)
        found: set[bytes] = set()
        for index in range(len(data)):
            for bit in range(8):
                other = data[:index] + bytes([data[index] ^ (1 << bit)]) + data[index + 1 :]
                if await is_taken(verifier, other):
                    found.add(other)
        return found

    same = set(same_to_http(data))
    if signed.get("form") == "token outside":
        same |= set(same_token(data))
    assert asyncio.run(taken()) == same
