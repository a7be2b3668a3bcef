"""The requests of the measurements, ready as bytes: who sends them, in which sessions, with which credentials.

Every request has headers as an AWS SDK sends them, an id of its own among them, so that no two heads are alike. 1,000
users have a session and a token each; in SHARE_UNSEEN of the requests the token is one that has never been seen
before, since tokens are refreshed. Signed requests are signed by botocore, each by itself.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

REGION = "us-east-1"
ACCOUNT = "123456789012"
ISSUER = "https://idp.example.com/pool"
AUDIENCE = "4tqbq6ev1d5g2mbdlm3t0example"
KEY_ID = "benchmark-key"
ACCESS_KEY = ("AKIAFHBENCHBENCHBENC", "b" * 40)
SESSIONS = 1000
SHARE_UNSEEN = 0.05
BODY_BYTES = 200
BULK_BYTES = 50_000_000
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
HOST = "127.0.0.1:8080"


def arn(runtime_id: str) -> str:
    return f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{runtime_id}"


def invocations(runtime_id: str) -> str:
    return f"/runtimes/{quote(arn(runtime_id), safe='')}/invocations"


def web_socket(runtime_id: str) -> str:
    return f"/runtimes/{quote(arn(runtime_id), safe='')}/ws"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and how many of its bytes come before the body."""

    head: bytes
    body: bytes

    def record(self) -> bytes:
        return struct.pack("=II", len(self.head) + len(self.body), len(self.head)) + self.head + self.body


def write(path: Path, requests: Iterable[Request]) -> Path:
    """A file of records for `load.c`."""
    with path.open("wb") as file:
        for request in requests:
            file.write(request.record())
    return path


@dataclass
class Issuer:
    """An identity provider's key, and the tokens it signs."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def jwks(self) -> dict[str, object]:
        numbers = self.key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": KEY_ID,
                    "n": _number(numbers.n),
                    "e": _number(numbers.e),
                }
            ]
        }

    def token(self, user: int) -> str:
        """A new access token of the form that Cognito gives, for an hour."""
        now = int(time.time())
        header = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT"}
        claims = {
            "sub": str(uuid.UUID(int=user)),
            "iss": ISSUER,
            "version": 2,
            "client_id": AUDIENCE,
            "aud": AUDIENCE,
            "token_use": "access",
            "scope": "agents/invoke",
            "auth_time": now,
            "exp": now + 3600,
            "iat": now,
            "jti": str(uuid.uuid4()),
        }
        signed = f"{_part(header)}.{_part(claims)}"
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"


class Traffic:
    """Requests to one runtime by JWT, and to another by signature."""

    def __init__(self, jwt_runtime: str, signed_runtime: str, *, seed: int = 1) -> None:
        self.issuer = Issuer()
        self._jwt_runtime = jwt_runtime
        self._signed_runtime = signed_runtime
        self._random = random.Random(seed)
        self._sessions = [
            str(uuid.UUID(int=self._random.getrandbits(128), version=4)) + "-session" for _ in range(SESSIONS)
        ]
        self._signer = SigV4Auth(Credentials(*ACCESS_KEY), "bedrock-agentcore", REGION)

    @cached_property
    def _tokens(self) -> list[str]:
        return [self.issuer.token(user) for user in range(SESSIONS)]

    # -- by token -------------------------------------------------------------------------------------------------

    def with_tokens(self, count: int) -> list[Request]:
        """Of random users, SHARE_UNSEEN of them with a new token."""
        made: list[Request] = []
        for _ in range(count):
            user = self._random.randrange(SESSIONS)
            token = self.issuer.token(user) if self._random.random() < SHARE_UNSEEN else None
            made.append(self.bearer(user, self._text(), token))
        return made

    def bearer(self, user: int, body: bytes, token: str | None = None, *, chunked: bool = False) -> Request:
        headers = {**self._headers(user, body), "Authorization": f"Bearer {token or self._tokens[user]}"}
        if chunked:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body, 64 * 1024)) + b"0\r\n\r\n"
        return _request("POST", invocations(self._jwt_runtime), headers, body)

    def web_socket(self, user: int) -> Request:
        headers = {
            "Host": HOST,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(self._random.randbytes(16)).decode(),
            "Authorization": f"Bearer {self._tokens[user]}",
            SESSION_HEADER: self._sessions[user],
        }
        return _request("GET", web_socket(self._jwt_runtime), headers, b"")

    # -- by signature ---------------------------------------------------------------------------------------------

    def signed_by_some(self, count: int) -> list[Request]:
        return [self.signed(self._random.randrange(SESSIONS), self._text()) for _ in range(count)]

    def signed(self, user: int, body: bytes) -> Request:
        path = invocations(self._signed_runtime)
        sent = self._headers(user, body)
        # What botocore signs: it does not sign what proxies may change.
        request = AWSRequest("POST", f"http://{HOST}{path}", data=body)
        for name in ("Host", "Content-Type", SESSION_HEADER):
            request.headers[name] = sent[name]
        self._signer.add_auth(request)
        return _request("POST", path, {**sent, **dict(request.headers.items())}, body)

    # -- kinds ----------------------------------------------------------------------------------------------------

    def streams(self, count: int, *, silent: bool, of: Callable[[int, bytes], Request] | None = None) -> list[Request]:
        body = b'idle {"prompt": "hello"}' if silent else b'stream {"prompt": "hello"}'
        return [(of or self.bearer)(user, body) for user in range(count)]

    def _text(self) -> bytes:
        prompt = "x" * (BODY_BYTES - 70)
        return json.dumps({"prompt": prompt, "id": str(uuid.uuid4())}).ljust(BODY_BYTES).encode()

    def _headers(self, user: int, body: bytes) -> dict[str, str]:
        return {
            "Host": HOST,
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            SESSION_HEADER: self._sessions[user],
            "User-Agent": "Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.12.1 "
            "md/pyimpl#CPython cfg/retry-mode#standard",
            "amz-sdk-invocation-id": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "amz-sdk-request": "attempt=1",
            "Accept": "application/json",
            "Content-Length": str(len(body)),
        }


def upload() -> bytes:
    return b"u" * BULK_BYTES


def download() -> bytes:
    return b"d%d" % BULK_BYTES


def _request(method: str, path: str, headers: dict[str, str], body: bytes) -> Request:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return Request("\r\n".join(lines).encode(), body)


def _parts(body: bytes, size: int) -> Iterable[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(document: dict[str, object]) -> str:
    return _base64(json.dumps(document, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
