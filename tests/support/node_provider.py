"""A real identity provider from npm, as a process of its own: `oidc` (oidc-provider) or `mock` (oauth2-mock-server)."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from typing import Any

import node_packages
from node_22 import NODE


class NodeProvider:
    """Use as a context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = ""

    def __enter__(self) -> NodeProvider:
        node_packages.modules()
        self._process = subprocess.Popen(
            [NODE, f"provider_{self.name}.mjs", "0"],
            cwd=node_packages.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.url = f"http://127.0.0.1:{self._line().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def discovery_url(self) -> str:
        return f"{self.url}/.well-known/openid-configuration"

    def token(self) -> str:
        """A fresh access token, by client credentials."""
        asked = {
            "grant_type": "client_credentials",
            "scope": "agents/invoke",
            "resource": "urn:agents",
            "client_id": "worker",
            "client_secret": "worker-secret",
        }
        return self._get("/token", urllib.parse.urlencode(asked).encode())["access_token"]

    def rotate(self) -> None:
        """Sign with a new key; the old ones stay published."""
        self._tell("rotate")

    def replace(self) -> None:
        """Sign with a new key; the old ones are gone."""
        self._tell("replace")

    def asked_for_keys(self) -> int:
        return self._get("/_asked")["keys"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def _get(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body), timeout=10) as answer:
            return json.load(answer)

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> str:
        """The next line that is not the package's own talk."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() and not line.startswith(("oidc-provider", "\x1b")):
                return line
        raise AssertionError(f"{self.name} has ended")
