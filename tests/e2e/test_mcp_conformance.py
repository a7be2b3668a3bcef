"""The protocol's conformance suite against a server by itself and through Freehold: the same passes, but for what is
listed here with its reason. The server is made with the protocol's SDK for Node.js, and keeps sessions."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import node_packages
import pytest
from bearer_proxy import BearerProxy
from node_22 import NODE
from node_provider import NodeProvider
from ports import lease
from running_server import ROLE, RunningServer, wait_until
from signing import invocations_url

SERVER = Path(__file__).parents[1] / "support" / "agents" / "mcp_everything"
SUITE = "@modelcontextprotocol/conformance/dist/index.js"
LIMIT_S = 240

DIFFERENT: dict[tuple[str, str], str] = {
    ("dns-rebinding-protection", "localhost-host-rebinding-rejected"): (
        "a server on a developer's machine must refuse a page's request that names another host; here every request is "
        "authorized, whatever it names, and the server is asked by its own name"
    ),
}
"""Checks that pass against the server by itself and not through Freehold."""

pytestmark = pytest.mark.slow


def results(url: str, directory: Path) -> dict[tuple[str, str], str]:
    """How each check ended, by scenario and check; those that judge nothing are left out."""
    command = [NODE, node_packages.modules() / SUITE, "server", "--url", url, "--suite", "all", "-o", directory]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    found: dict[tuple[str, str], str] = {}
    for path in directory.glob("*/checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", path.parent.name)
        for check in json.loads(path.read_text()):
            if check["status"] in ("SUCCESS", "FAILURE", "WARNING"):
                found[scenario, check["id"]] = check["status"]
    assert found, f"{done.stdout}{done.stderr}"
    return found


@pytest.fixture
def by_itself(tmp_path: Path) -> Iterator[str]:
    """The URL of the server, with nothing before it."""
    for path in SERVER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "node_modules").symlink_to(node_packages.modules())
    port = lease()
    process = subprocess.Popen([NODE, "main.js"], cwd=tmp_path, env=os.environ | {"PORT": str(port)})
    try:
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), "the server listens")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def through_freehold() -> Iterator[str]:
    """The URL of the server as an agent that takes bearer tokens, behind two workers."""
    settings = {
        "FREEHOLD_JWT__PRIVATE_NETWORKS": "127.0.0.0/8",
        "FREEHOLD_JWT__ALLOW_HTTP": "true",
        "FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22": str(NODE),
    }
    with NodeProvider("mock") as provider, RunningServer(workers=2, **settings) as server:
        files = {path.name: path.read_bytes() for path in SERVER.iterdir()}
        code = server.artifact(dict(node_packages.bundle_of("@modelcontextprotocol/sdk")) | files, "main.js")
        made = server.control.create_agent_runtime(
            agentRuntimeName="everything",
            agentRuntimeArtifact={"codeConfiguration": code["codeConfiguration"] | {"runtime": "NODE_22"}},
            roleArn=ROLE,
            protocolConfiguration={"serverProtocol": "MCP"},
            authorizerConfiguration={
                "customJWTAuthorizer": {"discoveryUrl": provider.discovery_url, "allowedScopes": ["agents/invoke"]}
            },
        )
        runtime = server.until_settled(made["agentRuntimeId"])
        assert runtime["status"] == "READY", runtime.get("failureReason")
        url, token = invocations_url(server, runtime["agentRuntimeArn"]), provider.token()
        sessions: list[str] = []

        def saw(head: str) -> None:
            """The suite leaves its sessions as they are: those before the last are ended here."""
            session = re.search(r"\nmcp-session-id: (\S+)", head)
            if session is None or session[1] in sessions:
                return
            sessions.append(session[1])
            if len(sessions) > 2:
                ended = {"Authorization": f"Bearer {token}", "Mcp-Session-Id": sessions[-3]}
                urllib.request.urlopen(urllib.request.Request(url, headers=ended, method="DELETE")).close()

        with BearerProxy(url, lambda: token, saw) as proxy:
            yield f"http://127.0.0.1:{proxy.port}/mcp"
        assert len(sessions) > 25


def test_the_conformance_suite_passes_as_without_freehold(by_itself: str, through_freehold: str, tmp_path: Path):
    with ThreadPoolExecutor() as both:  # the suite mostly waits
        asked = [both.submit(results, by_itself, tmp_path / "alone")]
        asked.append(both.submit(results, through_freehold, tmp_path / "through"))
    alone, through = (one.result() for one in asked)
    assert set(alone.values()) <= {"SUCCESS", "WARNING"}
    assert len(alone) > 40
    different: dict[tuple[str, str], Any] = {
        check: (alone.get(check), through.get(check))
        for check in alone | through
        if alone.get(check) != through.get(check)
    }
    assert different.keys() == DIFFERENT.keys(), different
