"""A running server's clients for the commands: botocore for the AWS APIs, signed requests for the operator API."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote, urlencode

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.httpsession
import botocore.session
import urllib3.exceptions

from freehold import running
from freehold.cli.failures import ClientError


class Clients:
    """botocore's clients of the two services, made when they are first used, which takes a while."""

    def __init__(self, connection: running.Connection) -> None:
        self.connection = connection

    @functools.cached_property
    def control(self) -> Any:
        return self._client("bedrock-agentcore-control")

    @functools.cached_property
    def data(self) -> Any:
        once = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=3660)
        return self._client("bedrock-agentcore", config=once)

    def _client(self, service: str, **more: Any) -> Any:
        connection = self.connection
        return botocore.session.Session().create_client(
            service,
            region_name=connection.region,
            endpoint_url=connection.url,
            aws_access_key_id=connection.access_key_id,
            aws_secret_access_key=connection.secret,
            aws_session_token=connection.session_token,
            **more,
        )

    def call(self, client: Any, operation: str, **arguments: Any) -> dict[str, Any]:
        """Call an operation. Raises ClientError."""
        try:
            return getattr(client, operation)(**arguments)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            raise ClientError(str(error)) from error

    def runtime_named(self, name: str) -> dict[str, Any] | None:
        """The summary of the agent runtime called `name`, if there is one."""
        token: dict[str, str] = {}
        while True:
            page = self.call(self.control, "list_agent_runtimes", **token)
            for runtime in page["agentRuntimes"]:
                if runtime["agentRuntimeName"] == name:
                    return cast("dict[str, Any]", runtime)
            if "nextToken" not in page:
                return None
            token = {"nextToken": page["nextToken"]}

    def upload(self, path: str, data: bytes, digest: str) -> None:
        """PUT `data`, whose SHA-256 is `digest` in hex, through the operator API. Raises ClientError."""
        headers = {"Content-Type": "application/zip", "X-Amz-Content-SHA256": digest}
        answer = self._send("PUT", path, data=data, headers=headers)
        if answer.status_code >= 300:
            raise ClientError(f"upload refused with status {answer.status_code}: {answer.text}")

    def operator(self, method: str, path: str, **query: str) -> dict[str, Any]:
        """Call the operator API, without a body. Raises ClientError with what the server said."""
        answer = self._send(method, _operator_path(path, query))
        if answer.status_code >= 300:
            raise ClientError(_explanation(answer.status_code, answer.content))
        return json.loads(answer.content)

    def operator_lines(self, path: str, **query: str) -> Iterator[str]:
        """The lines of an answer as they come; empty ones are left out. Raises ClientError."""
        answer = self._send("GET", _operator_path(path, query), stream=True)
        if answer.status_code >= 300:
            raise ClientError(_explanation(answer.status_code, answer.content))
        rest = b""
        try:
            for part in answer.raw.stream():
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode() for line in lines if line)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClientError(f"the answer broke off: {error}") from error
        finally:
            answer.raw.close()

    def _send(
        self, method: str, path: str, *, data: bytes = b"", headers: dict[str, str] | None = None, stream: bool = False
    ) -> Any:
        request = botocore.awsrequest.AWSRequest(
            method=method, url=self.connection.url + path, data=data, headers=headers, stream_output=stream
        )
        keys = self.connection
        credentials = botocore.credentials.Credentials(keys.access_key_id, keys.secret, keys.session_token)
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", self.connection.region).add_auth(request)
        try:
            return botocore.httpsession.URLLib3Session(timeout=120).send(request.prepare())
        except botocore.exceptions.HTTPClientError as error:
            raise ClientError(f"the server at {self.connection.url} does not answer: {error}") from error


def _operator_path(path: str, query: dict[str, str]) -> str:
    return f"/_freehold/v1/{quote(path)}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")


def _explanation(status: int, body: bytes) -> str:
    """The server's words, or the status when there are none."""
    try:
        told: Any = json.loads(body)
        return str(told["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}"


def from_environment() -> running.Connection | None:
    """The server that `freehold env` put into the environment, if it did."""
    url = os.environ.get("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL")
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if url and key and secret and region:
        return running.Connection(url, region, key, secret, os.environ.get("AWS_SESSION_TOKEN") or None)
    return None
