"""What nginx asks by auth_request: whether a bearer token is good. Remembers nothing; nginx does.

Run as a program: PORT KEY ISSUER AUDIENCE. Only here to be measured beside Freehold, so that it is as quick as the
library that checks.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

_BEARER = re.compile(rb"\r\nauthorization: bearer ([^\r]*)\r\n", re.IGNORECASE)
_YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_NO = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


class Checker(asyncio.Protocol):
    def __init__(self, key: RSAKey, issuer: str, audience: str) -> None:
        self._key = key
        self._registry = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
            self._transport.write(_YES if self._is_good(head) else _NO)

    def _is_good(self, head: bytes) -> bool:
        bearer = _BEARER.search(head)
        if bearer is None:
            return False
        try:
            token = jwt.decode(bearer[1].decode(), self._key, algorithms=["RS256"])
            self._registry.validate(token.claims)
        except (JoseError, ValueError):
            return False
        return bool(token.claims["exp"] > time.time())


async def _main(port: int, key: RSAKey, issuer: str, audience: str) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Checker(key, issuer, audience), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), RSAKey.import_key(Path(sys.argv[2]).read_bytes()), *sys.argv[3:5]))
