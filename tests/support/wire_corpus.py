"""The corpora of tests/data/wire: requests and answers that two readers might take for different ones."""

from __future__ import annotations

import hashlib
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11

DIRECTORY = Path(__file__).resolve().parent.parent / "data" / "wire"
TAIL = b"GET /_freehold/live HTTP/1.1\r\nHost: tail\r\nConnection: close\r\n\r\n"
"""What follows each request of the corpus on its connection."""


@dataclass(frozen=True, slots=True)
class CorpusRequest:
    name: str
    data: bytes
    """The request; of a signed one what follows its signed head."""
    signed_for: bytes | None
    """The body that the signature of the head is made for; None: the request is `data` alone."""
    status: int
    kept: bool
    """Whether the tail is answered."""


@dataclass(frozen=True, slots=True)
class CorpusAnswer:
    name: str
    data: bytes
    closes: bool
    """Whether the agent closes its connection after it."""
    status: int
    body: bytes
    whole: bool
    reused: bool
    """Whether the agent's connection serves the next request."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told; `status` 0: nothing."""

    status: int
    body: bytes
    whole: bool


def requests() -> list[CorpusRequest]:
    """All of requests.toml."""
    return [_request(entry) for entry in tomllib.loads((DIRECTORY / "requests.toml").read_text())["request"]]


def agent_answers() -> list[CorpusAnswer]:
    """All of answers.toml."""
    return [_answer(entry) for entry in tomllib.loads((DIRECTORY / "answers.toml").read_text())["answer"]]


def session(name: str) -> str:
    """A session id of its own for the case `name`."""
    return hashlib.sha256(name.encode()).hexdigest()


def _answer(entry: dict[str, Any]) -> CorpusAnswer:
    text: str = entry["answer"].replace("{repeat}", entry.get("repeat", "") * entry.get("times", 0))
    return CorpusAnswer(
        name=entry["name"],
        data=text.encode("latin-1"),
        closes=entry.get("closes", False),
        status=entry["status"],
        body=entry.get("body", "").encode("latin-1"),
        whole=not entry.get("cut", False),
        reused=entry.get("reused", False),
    )


def _request(entry: dict[str, Any]) -> CorpusRequest:
    text: str = entry.get("request", "") or entry["lines"] + "\r\n" + entry["body"]
    text = text.replace("{repeat}", entry.get("repeat", "") * entry.get("times", 0))
    data = text.encode("latin-1")
    assert b"\r\n\r\n" in data or entry.get("endless") or entry["status"] == 400, entry["name"]
    content: str | None = entry.get("content")
    signed_for = None if content is None else content.encode("latin-1")
    return CorpusRequest(entry["name"], data, signed_for, entry["status"], entry.get("kept", False))


def read_answer(sock: socket.socket) -> Told:
    """Read one answer as h11 does, to its end or the connection's."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    status, body = 0, b""
    while True:
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError:
            return Told(status, body, whole=False)
        if event is h11.NEED_DATA:
            try:
                reader.receive_data(sock.recv(65536))
            except ConnectionResetError:
                return Told(status, body, whole=False)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert reader.trailing_data[0] == b"", "bytes after the answer"
            return Told(status, body, whole=True)


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every final answer in `data`, as h11 reads them; the last one may end with the connection."""
    reader = h11.Connection(h11.CLIENT)
    found: list[tuple[int, bytes]] = []
    while data:
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(data)
        status, body = 0, b""
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, f"cut off: {data!r}"
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, body))
        data = reader.trailing_data[0]
        if reader.their_state is not h11.DONE:
            assert not data, f"bytes after the last answer: {data!r}"
            break
        reader = h11.Connection(h11.CLIENT)
    return found
