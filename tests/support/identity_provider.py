"""An identity provider for tests: documents over http or https on a loopback port, which do as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DISCOVERY = "/.well-known/openid-configuration"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Provider:
    """Answers what is in `documents`, by path; `answers` does otherwise for some paths."""

    def __init__(self, keys: dict[str, Any], *, host: str = "127.0.0.1", tls: bool = False) -> None:
        self.keys = keys
        self.host = host
        self.tls = tls
        self.port = 0
        self.asked: Counter[str] = Counter()
        self.hosts: list[str] = []
        """Host headers."""
        self.answers: dict[str, Answer] = {}
        self.issuer: str | None = None
        """If it is not the URL."""

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def discovery_url(self) -> str:
        return self.url + DISCOVERY

    def document(self, path: str) -> bytes | None:
        if path == DISCOVERY:
            said = {"issuer": self.issuer or self.url, "jwks_uri": f"{self.url}/keys"}
        elif path == "/keys":
            said = self.keys
        else:
            return None
        return json.dumps(said).encode()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Provider]:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority().certificate_of(self.host))
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.asked[path] += 1
            self.hosts += [line[6:] for line in head.split("\r\n") if line.lower().startswith("host: ")]
            if (answer := self.answers.get(path)) is not None:
                await answer(reader, writer)
            elif (document := self.document(path)) is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(document), document))
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Authority:
    """A private certificate authority, and what it has signed."""

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="freehold-authority-")
        self._directory = Path(self._kept.name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests")])
        self._name = name
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = (
            self._builder(name, self._key).add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certificate_of(self, host: str) -> Path:
        """A file with a certificate of `host` and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        path = self._directory / f"{host}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )


@cache
def authority() -> Authority:
    return Authority()
