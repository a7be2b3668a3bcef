"""Signs requests of HTTP clients as AWS's own do, for clients of protocols that know nothing of SigV4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from running_server import RunningServer


def invocations_url(server: RunningServer, arn: str) -> str:
    """Where clients of an agent's own protocol find it."""
    return f"{server.url}/runtimes/{quote(arn, safe='')}/invocations"


def signature(server: RunningServer, method: str, url: str, host: str, body: bytes) -> dict[str, str]:
    """The headers that authorize a request."""
    found = server.exported
    request = AWSRequest(method=method, url=url, data=body, headers={"Host": host})
    credentials = Credentials(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])
    botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", found["AWS_REGION"]).add_auth(request)
    return {name: request.headers[name] for name in ("Authorization", "X-Amz-Date")}


def signer(server: RunningServer) -> Callable[[Any], Any]:
    """`auth` of an httpx (or httpx2) client."""

    def sign(request: Any) -> Any:
        url = str(request.url)
        request.headers.update(signature(server, request.method, url, request.headers["Host"], request.content))
        return request

    return sign
