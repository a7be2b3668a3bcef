"""What it costs to know a caller: CPU time per verified request, SigV4 and JWT, beside the bare library's check.

All by turns in one run and one process; the ratios are of that run. `cached` is a client's second request of the day
or token's second use, `uncached` its first. Bare is what a verifier has to do at least: for SigV4 the two hashes and
one HMAC (`hmac`), or botocore's own signing of the same request (`botocore`); for JWT joserfc's decoding of the token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from joserfc import jwk
from joserfc import jwt as bare_jwt

from freehold.auth import jwt
from freehold.auth.jwt_claims import Authorizer
from freehold.auth.jwt_keys import Keys, read_key_set
from freehold.auth.keys import AccessKey, mint_access_key
from freehold.auth.sigv4 import Head, Verifier
from freehold.gateway.bearers import Bearers
from freehold.gateway.resource_metadata import Resources

REGION = "us-east-1"
PATH = "/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-east-1%3A000000000000%3Aruntime%2Fagent-0123456789/invocations"
BODY = b'{"prompt": "hello"}'
ISSUER = "https://issuer.example"
ROUNDS = 9
HEADERS = {
    "Host": "127.0.0.1:2673",
    "Content-Type": "application/json",
    "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 40,
}
UNSIGNED = [(b"user-agent", b"Boto3/1.44"), (b"accept-encoding", b"identity"), (b"content-length", b"19")]


def measure(samples: int) -> dict[str, Any]:
    """`samples` requests of each kind in each of ROUNDS rounds."""
    return asyncio.run(_measure(samples))


async def _measure(samples: int) -> dict[str, Any]:
    keys = _Source()
    now = datetime.now(UTC)
    warm = Verifier(keys, region=REGION)
    usual = _signed(keys.new(), "qualifier=DEFAULT")
    presigned = _signed(keys.new(), "qualifier=DEFAULT", in_query=True)
    first_ones = [_signed(keys.new(), f"qualifier=DEFAULT&n={number}") for number in range(samples)]
    token, key_set, authorizer, bare_key = _token()
    bearers, exchange, target = _bearers(key_set, authorizer)

    async def sigv4(number: int) -> None:
        (await warm.check_head(usual, now=now)).finish(hashlib.sha256(BODY).hexdigest())

    async def sigv4_query(number: int) -> None:
        (await warm.check_head(presigned, now=now)).finish(hashlib.sha256(b"").hexdigest())

    async def sigv4_first(number: int) -> None:
        (await warm.check_head(first_ones[number], now=now)).finish(hashlib.sha256(BODY).hexdigest())

    async def of_token(number: int) -> None:
        await bearers.check(exchange, target, [b"Bearer " + token])

    async def of_token_first(number: int) -> None:
        jwt.verify(token, key_set, authorizer, now=time.time())

    async def bare_token(number: int) -> None:
        bare_jwt.decode(token, bare_key, algorithms=["RS256"])

    ways = {
        "sigv4_cached": sigv4,
        "sigv4_presigned_cached": sigv4_query,
        "sigv4_uncached": sigv4_first,
        "sigv4_bare_hmac": _bare_hmac(),
        "sigv4_bare_botocore": _bare_botocore(),
        "jwt_cached": of_token,
        "jwt_uncached": of_token_first,
        "jwt_bare_joserfc": bare_token,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, check in ways.items():
            if name == "sigv4_uncached":
                warm = Verifier(keys, region=REGION)
            taken[name].append(await _cpu_us(check, samples))
    median = {name: round(statistics.median(of), 2) for name, of in taken.items()}
    return {"samples_per_round": samples, "rounds": ROUNDS, "cpu_us": median, "ratios": _ratios(median)}


def _ratios(us: dict[str, float]) -> dict[str, float]:
    pairs = {
        "sigv4_cached/hmac": ("sigv4_cached", "sigv4_bare_hmac"),
        "sigv4_cached/botocore": ("sigv4_cached", "sigv4_bare_botocore"),
        "sigv4_uncached/botocore": ("sigv4_uncached", "sigv4_bare_botocore"),
        "jwt_uncached/joserfc": ("jwt_uncached", "jwt_bare_joserfc"),
        "jwt_cached/joserfc": ("jwt_cached", "jwt_bare_joserfc"),
        "sigv4_cached/jwt_cached": ("sigv4_cached", "jwt_cached"),
    }
    return {name: round(us[ours] / us[other], 2) for name, (ours, other) in pairs.items()}


async def _cpu_us(check: Callable[[int], Coroutine[Any, Any, None]], samples: int) -> float:
    began = time.process_time()
    for number in range(samples):
        await check(number)
    return (time.process_time() - began) / samples * 1e6


class _Source:
    """A KeySource that has every key at hand."""

    def __init__(self) -> None:
        self._keys: dict[str, AccessKey] = {}

    def new(self) -> AccessKey:
        key = mint_access_key("000000000000")
        self._keys[key.access_key_id] = key
        return key

    def known(self, access_key_id: str) -> AccessKey | None:
        return self._keys.get(access_key_id)

    async def get(self, access_key_id: str) -> AccessKey | None:
        return self._keys.get(access_key_id)


def _signed(key: AccessKey, query: str, *, in_query: bool = False) -> Head:
    """As a gateway receives what botocore signed."""
    method, body = ("GET", b"") if in_query else ("POST", BODY)
    request = botocore.awsrequest.AWSRequest(method, f"http://127.0.0.1:2673{PATH}?{query}", headers=HEADERS, data=body)
    credentials = botocore.credentials.Credentials(key.access_key_id, key.secret)
    signer = botocore.auth.SigV4QueryAuth if in_query else botocore.auth.SigV4Auth
    signer(credentials, "bedrock-agentcore", REGION).add_auth(request)
    received = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    return Head(method, PATH.encode(), request.url.partition("?")[2].encode(), received + UNSIGNED)


def _bare_hmac() -> Callable[[int], Coroutine[Any, Any, None]]:
    canonical, to_sign, key = b"c" * 700, b"s" * 74, b"k" * 32
    right = hmac.digest(key, to_sign + hashlib.sha256(canonical).hexdigest().encode(), "sha256").hex()

    async def check(number: int) -> None:
        hashlib.sha256(BODY).hexdigest()
        told = hmac.digest(key, to_sign + hashlib.sha256(canonical).hexdigest().encode(), "sha256").hex()
        assert hmac.compare_digest(told, right)

    return check


def _bare_botocore() -> Callable[[int], Coroutine[Any, Any, None]]:
    key = mint_access_key("000000000000")
    credentials = botocore.credentials.Credentials(key.access_key_id, key.secret)
    signer = botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION)
    url = f"http://127.0.0.1:2673{PATH}?qualifier=DEFAULT"

    async def check(number: int) -> None:
        signer.add_auth(botocore.awsrequest.AWSRequest("POST", url, headers=HEADERS, data=BODY))

    return check


def _token() -> tuple[bytes, Keys, Authorizer, Any]:
    private = jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
    claims = {"iss": ISSUER, "sub": "user", "aud": "agents", "exp": int(time.time()) + 3600}
    token = bare_jwt.encode({"alg": "RS256", "kid": "one"}, claims, private).encode()
    public, _ = read_key_set(json.dumps({"keys": [private.as_dict(private=False)]}).encode())
    return token, Keys(ISSUER, "1", public), Authorizer("digest", "keys", audiences=("agents",)), private


def _bearers(key_set: Keys, authorizer: Authorizer) -> tuple[Bearers, Any, Any]:
    """As a gateway worker has them; what they ask is answered at once."""
    key_sets: Any = SimpleNamespace(current=lambda _name: key_set)
    bearers = Bearers(key_sets, Resources("http://127.0.0.1:2673", REGION), now=time.time)
    exchange = SimpleNamespace(head=SimpleNamespace(raw_query=b"qualifier=DEFAULT", headers=[]))
    contract = SimpleNamespace(authorizer=authorizer)
    return bearers, exchange, SimpleNamespace(contract=contract, named=SimpleNamespace(account="000000000000"))
