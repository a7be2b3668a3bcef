"""Runtimes that take tokens of real identity providers: two of npm's, as processes of their own."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from node_provider import NodeProvider
from running_server import RunningServer, agent, session_id
from urllib3 import PoolManager

pytestmark = pytest.mark.slow
RULES: dict[str, Any] = {
    "allowedAudience": ["agents"],
    "allowedClients": ["worker"],
    "allowedScopes": ["agents/invoke"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    settings = {"FREEHOLD_JWT__PRIVATE_NETWORKS": "127.0.0.0/8", "FREEHOLD_JWT__ALLOW_HTTP": "true"}
    with RunningServer(workers=2, **settings) as running:
        yield running


@pytest.fixture(params=["oidc", "mock"])
def provider(request: pytest.FixtureRequest) -> Iterator[NodeProvider]:
    with NodeProvider(request.param) as running:
        yield running


class Caller:
    """Calls one runtime, as somebody who has HTTP and a token."""

    def __init__(self, server: RunningServer, arn: str) -> None:
        self._url = f"{server.url}/runtimes/{arn.replace(':', '%3A').replace('/', '%2F')}/invocations"
        self._session = session_id()
        self._pool = PoolManager(maxsize=16, retries=False)

    def status(self, token: str) -> int:
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": self._session,
        }
        return self._pool.request("POST", self._url, body=b'{"do": "echo", "say": 1}', headers=headers).status

    def metadata(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._url}/.well-known/oauth-protected-resource", timeout=10) as answer:
            return json.load(answer)


def deploy(server: RunningServer, name: str, provider: NodeProvider, **more: Any) -> Caller:
    authorizer = {"discoveryUrl": provider.discovery_url, **RULES, **more}
    arn = server.deployed(name, agent("probe"), authorizerConfiguration={"customJWTAuthorizer": authorizer})
    return Caller(server, arn)


def with_kid(token: str, kid: str) -> str:
    header, rest = token.split(".", 1)
    said = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    return base64.urlsafe_b64encode(json.dumps(said | {"kid": kid}).encode()).rstrip(b"=").decode() + "." + rest


def test_tokens_of_a_real_provider_are_taken_through_rotations_unknown_keys_and_its_end(
    server: RunningServer, provider: NodeProvider
):
    caller = deploy(server, f"rotating_{provider.name}", provider)
    first = provider.token()
    assert caller.status(first) == 200
    assert caller.status(first[:-10] + "AAAAAAAAAA") == 401
    assert caller.metadata()["authorization_servers"] == [provider.url]

    # Keys are rotated under load, and no valid call fails.
    statuses: Counter[int] = Counter()
    enough = threading.Event()

    def load() -> None:
        while not enough.is_set():
            statuses[caller.status(provider.token())] += 1

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(load) for _ in range(4)]
        for number in range(1, 4):
            provider.rotate()
            while statuses.total() < 40 * number and not any(each.done() for each in callers):
                enough.wait(0.01)
        enough.set()
        for each in callers:
            each.result()
    assert set(statuses) == {200}
    assert statuses.total() >= 120
    assert caller.status(first) == 200, "the old key is still published"

    # A thousand unknown keys are few fetches.
    before, good = provider.asked_for_keys(), provider.token()
    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(lambda number: caller.status(with_kid(good, f"unknown-{number}")), range(1000)))
    assert set(refused) == {401}
    assert provider.asked_for_keys() - before <= 6
    assert caller.status(good) == 200

    # Without the provider known keys go on, and new ones are refused.
    last = provider.token()
    provider.replace()
    of_a_new_key = provider.token()
    provider.kill()
    assert caller.status(last) == 200
    assert caller.status(first) == 200
    assert caller.status(of_a_new_key) == 401
    server.kill("gateway-0")
    server.kill("gateway-1")
    assert caller.status(last) == 200, "control remembers, whichever worker asks"


def test_without_a_provider_that_was_ever_reached_nobody_is_let_in(server: RunningServer):
    with NodeProvider("mock") as provider:
        token = provider.token()
    caller = deploy(server, "unreachable", provider)
    assert [caller.status(token) for _ in range(3)] == [401] * 3
    assert "key_sets.fetch_failed" in server.log_text()
    assert token.split(".")[2] not in server.log_text()


def test_a_removed_authorizer_is_gone_and_a_version_keeps_its_own(server: RunningServer):
    with NodeProvider("mock") as provider:
        caller = deploy(server, "changing", provider)
        token = provider.token()
        assert caller.status(token) == 200
        control = server.control
        (found,) = [
            each for each in control.list_agent_runtimes()["agentRuntimes"] if each["agentRuntimeName"] == "changing"
        ]
        runtime_id = found["agentRuntimeId"]
        told = control.get_agent_runtime(agentRuntimeId=runtime_id)
        assert told["authorizerConfiguration"] == {
            "customJWTAuthorizer": {"discoveryUrl": provider.discovery_url, **RULES}
        }
        control.update_agent_runtime(
            agentRuntimeId=runtime_id,
            agentRuntimeArtifact=told["agentRuntimeArtifact"],
            roleArn=told["roleArn"],
            networkConfiguration=told["networkConfiguration"],
        )
        assert "authorizerConfiguration" not in server.until_settled(runtime_id)
        assert caller.status(token) == 403, "it takes signatures now"
        first = control.get_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="1")
        assert first["authorizerConfiguration"] == told["authorizerConfiguration"]
