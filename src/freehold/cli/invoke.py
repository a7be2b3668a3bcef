"""`freehold invoke`: one request, its answer printed as it comes."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import botocore.exceptions

from freehold.cli.client import Clients
from freehold.cli.failures import ClientError


def invoke(clients: Clients, name: str, text: str, session: str | None) -> None:
    """Print the answer's bytes to stdout. Raises ClientError."""
    runtime = clients.runtime_named(name)
    if runtime is None:
        raise ClientError(f"there is no agent runtime called {name}")
    detail = clients.call(clients.control, "get_agent_runtime", agentRuntimeId=runtime["agentRuntimeId"])
    protocol = detail.get("protocolConfiguration", {}).get("serverProtocol", "HTTP")
    answer = clients.call(
        clients.data,
        "invoke_agent_runtime",
        agentRuntimeArn=runtime["agentRuntimeArn"],
        payload=payload(text, protocol),
        contentType="application/json",
        accept="text/event-stream" if protocol == "AGUI" else "*/*",
        **({"runtimeSessionId": session} if session else {}),
    )
    # One byte at a time from the library's buffer: reading more would wait for more than has come.
    try:
        for byte in answer["response"].iter_chunks(chunk_size=1):
            sys.stdout.buffer.write(byte)
            if byte == b"\n":
                sys.stdout.buffer.flush()
    except botocore.exceptions.BotoCoreError as error:
        raise ClientError(f"the answer broke off: {error}") from error
    sys.stdout.buffer.flush()


def payload(text: str, protocol: str) -> bytes:
    """JSON objects as they are; other text as a prompt (HTTP) or as a run with one user message (AG-UI)."""
    try:
        told: Any = json.loads(text)
    except ValueError:
        told = None
    if isinstance(told, dict):
        return text.encode()
    if protocol != "AGUI":
        return json.dumps({"prompt": text}).encode()
    return json.dumps(
        {
            "threadId": str(uuid.uuid4()),
            "runId": str(uuid.uuid4()),
            "state": {},
            "messages": [{"id": str(uuid.uuid4()), "role": "user", "content": text}],
            "tools": [],
            "context": [],
            "forwardedProps": {},
        }
    ).encode()
