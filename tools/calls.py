"""Signed calls to a server without an SDK in between: for benchmarks and the soak, which count and time requests.

Not for tests of compatibility: those use the real clients.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from tools import ephemeral

SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


class CallFailed(Exception):
    """The server answered something else than success."""


@dataclass(frozen=True, slots=True)
class Caller:
    url: str
    region: str
    access_key_id: str
    secret: str

    def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        claimed: bool = True,
    ) -> dict[str, str]:
        """The headers of one request, signed; they may be sent again for some minutes.

        `claimed` puts the body's hash among them, so that the signature can be checked before the body comes.
        """
        request = botocore.awsrequest.AWSRequest(method, self.url + path, headers=dict(headers or {}), data=body)
        request.headers["Host"] = urlsplit(self.url).netloc
        if claimed:
            request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
        credentials = botocore.credentials.Credentials(self.access_key_id, self.secret)
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", self.region).add_auth(request)
        return dict(request.headers.items())

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=180)

    def call(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> bytes:
        """Send a request whose headers are complete. Raises CallFailed."""
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise CallFailed(f"{method} {path}: {answer.status} {told.decode(errors='replace')[:500]}")
        return told

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions that run now (the first hundred)."""
        path = "/_freehold/v1/sessions"
        told = self.call(self.connection(), "GET", path, b"", self.signed("GET", path))
        return list(json.loads(told)["sessions"])


def invocation(arn: str) -> str:
    return f"/runtimes/{quote(arn, safe='')}/invocations"


def stop(arn: str) -> str:
    return f"/runtimes/{quote(arn, safe='')}/stopruntimesession"


def new_session() -> str:
    return f"session-{uuid.uuid4()}"


def caller(server: ephemeral.EphemeralServer) -> Caller:
    told = server.environment()
    return Caller(server.url, told["AWS_REGION"], told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])


def deploy(server: ephemeral.EphemeralServer, directory: Path, name: str, protocol: str = "HTTP") -> str:
    """The ARN of a deployed agent. Raises CalledProcessError."""
    command = server.command("deploy", str(directory), "--name", name, "--protocol", protocol)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    return done.stdout.strip().splitlines()[-1]
