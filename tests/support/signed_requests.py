"""Requests signed by botocore, as bytes on the wire, and what may be done to them afterwards.

The signer is AWS's own, with the clock set: what is tested never signs for itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from freehold.auth.keys import AccessKey

REGION: Final = "eu-central-1"
ACCOUNT: Final = "111122223333"
RUNTIME_ID: Final = "agent-0123456789"
ARN: Final = f"arn%3Aaws%3Abedrock-agentcore%3A{REGION}%3A{ACCOUNT}%3Aruntime%2F{RUNTIME_ID}"
PATH: Final = f"/runtimes/{ARN}/invocations"
HOST: Final = "agents.example.com"
KEY: Final = AccessKey("AKIAFHAAAAAAAAAAAAAA", ACCOUNT, "s" * 40)
OTHER_KEY: Final = AccessKey("AKIAFHBBBBBBBBBBBBBB", "444455556666", "t" * 40)
TEMPORARY: Final = AccessKey(
    "ASIAFHCCCCCCCCCCCCCC", ACCOUNT, "u" * 40, "token/of+some=length", dt.datetime(2099, 1, 1, tzinfo=dt.UTC)
)
PAST: Final = AccessKey("ASIAFHDDDDDDDDDDDDDD", ACCOUNT, "v" * 40, "past", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
KEYS: Final = (KEY, OTHER_KEY, TEMPORARY, PAST)
BODY: Final = b'{"prompt": "hello"}'


@dataclass(frozen=True)
class Wire:
    """A request in parts, as they will be sent."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    frame: bool = True
    """Whether a Content-Length is added."""

    def to_bytes(self, *more: tuple[str, str]) -> bytes:
        target = f"{self.path}?{self.query}" if self.query else self.path
        lines = [f"{self.method} {target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, *more)]
        if self.frame:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


class _AsGiven(botocore.auth.SigV4Auth):
    """Signs the query in the order it is sent in: what a signer must not do."""

    def canonical_query_string(self, request: Any) -> str:
        return request.url.partition("?")[2]


class _AsTheBookHasIt(botocore.auth.SigV4Auth):
    """Signs `:` and `/` in a query encoded, whether it is sent so or not."""

    def canonical_query_string(self, request: Any) -> str:
        pairs = sorted(pair.partition("=")[::2] for pair in request.url.partition("?")[2].split("&"))
        return "&".join(f"{name}={value.replace(':', '%3A').replace('/', '%2F')}" for name, value in pairs)


class _TokenOutside(botocore.auth.SigV4QueryAuth):
    """Adds the token once the query is signed (`omit_session_token` of aws-c-auth)."""

    def add_auth(self, request: Any) -> None:
        token, self.credentials.token = self.credentials.token, None
        super().add_auth(request)
        request.url += "&X-Amz-Security-Token=" + botocore.auth.quote(token, safe="")


class _OfTheBody(botocore.auth.SigV4Auth):
    """Signs the body's own hash, whatever the header says it is."""

    def canonical_request(self, request: Any) -> str:
        told, _, _ = super().canonical_request(request).rpartition("\n")
        return f"{told}\n{sha256(request.body)}"


SIGNERS: Final = {
    "header": botocore.auth.SigV4Auth,
    "query": botocore.auth.SigV4QueryAuth,
    "unsorted": _AsGiven,
    "of the body": _OfTheBody,
    "book": _AsTheBookHasIt,
    "token outside": _TokenOutside,
}


def sign(
    at: dt.datetime,
    *,
    form: str = "header",
    method: str = "POST",
    path: str = PATH,
    query: str = "qualifier=DEFAULT",
    host: str = HOST,
    headers: Mapping[str, str] | None = None,
    body: bytes = BODY,
    key: AccessKey = KEY,
    region: str = REGION,
    service: str = "bedrock-agentcore",
    after_s: int = 0,
    expires_s: int | None = None,
    claimed: bool | str = False,
) -> Wire:
    """A request that is signed at `at` and `after_s` seconds; `claimed` adds x-amz-content-sha256."""
    url = f"http://{host}{path}" + (f"?{query}" if query else "")
    in_query = form in ("query", "token outside")
    request = AWSRequest(
        method=method, url=url, data=b"" if in_query else body, headers={"Host": host, **(headers or {})}
    )
    if claimed:
        request.headers["X-Amz-Content-SHA256"] = claimed if isinstance(claimed, str) else sha256(body)
    signer: Any = SIGNERS[form](Credentials(key.access_key_id, key.secret, key.session_token), service, region)
    if in_query:
        # botocore would make a query of the body; other signers (JavaScript's, Go's) sign its hash.
        signer.payload = lambda _: sha256(body)
    if expires_s is not None:
        signer._expires = expires_s
    then = (at + dt.timedelta(seconds=after_s)).astimezone(dt.UTC).replace(tzinfo=None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=then):
        signer.add_auth(request)
    sent = request.url.partition("?")[2]
    return Wire(method, path, sent, tuple((name, str(value)) for name, value in request.headers.items()), body)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def change(wire: Wire, steps: Sequence[tuple[Any, ...]]) -> Wire:
    """The request after each of `steps`: (verb, its arguments)."""
    for verb, *arguments in steps:
        wire = _VERBS[verb](wire, *arguments)
    return wire


def _set(wire: Wire, name: str, value: str) -> Wire:
    """Replace a header where it stands, or add it."""
    if any(found.lower() == name.lower() for found, _ in wire.headers):
        told = tuple((found, value if found.lower() == name.lower() else old) for found, old in wire.headers)
        return replace(wire, headers=told)
    return replace(wire, headers=(*wire.headers, (name, value)))


def _sub(wire: Wire, name: str, old: str, new: str) -> Wire:
    """In the value of a header."""
    value = next(value for found, value in wire.headers if found.lower() == name.lower())
    assert old in value, (old, value)
    return _set(wire, name, value.replace(old, new, 1))


def _query_sub(wire: Wire, old: str, new: str) -> Wire:
    assert old in wire.query, (old, wire.query)
    return replace(wire, query=wire.query.replace(old, new, 1))


def _path_sub(wire: Wire, old: str, new: str) -> Wire:
    assert old in wire.path, (old, wire.path)
    return replace(wire, path=wire.path.replace(old, new))


def _value(wire: Wire, name: str) -> str:
    return next(value for found, value in wire.headers if found.lower() == name.lower())


def _date_moved(wire: Wire, seconds: int) -> Wire:
    then = dt.datetime.strptime(_value(wire, "x-amz-date"), "%Y%m%dT%H%M%SZ") + dt.timedelta(seconds=seconds)
    return _set(wire, "x-amz-date", f"{then:%Y%m%dT%H%M%SZ}")


_SIGNATURES: Final[dict[str, Callable[[str], str]]] = {
    "noughts": lambda value: "0" * len(value),
    "upper": lambda value: value.upper(),
    "cut": lambda value: value[:-1],
    "longer": lambda value: value + "0",
    "words": lambda value: "nonsense",
}


def _signature(wire: Wire, how: str) -> Wire:
    found = re.search(r"Signature=([0-9a-f]{64})", wire.query) or re.search(
        r"Signature=([0-9a-f]{64})", _value(wire, "authorization")
    )
    assert found
    old, new = found[1], _SIGNATURES[how](found[1])
    assert old != new
    return _query_sub(wire, old, new) if old in wire.query else _sub(wire, "authorization", old, new)


def _parameters_reversed(wire: Wire) -> Wire:
    scheme, _, parameters = _value(wire, "authorization").partition(" ")
    return _set(wire, "authorization", f"{scheme} {', '.join(reversed(parameters.split(', ')))}")


_VERBS: Final[dict[str, Any]] = {
    "method": lambda wire, method: replace(wire, method=method),
    "path": lambda wire, path: replace(wire, path=path),
    "path_sub": _path_sub,
    "query": lambda wire, query: replace(wire, query=query),
    "query_sub": _query_sub,
    "query_add": lambda wire, pair: replace(wire, query=f"{wire.query}&{pair}"),
    "query_drop": lambda wire, name: replace(
        wire, query="&".join(pair for pair in wire.query.split("&") if pair.partition("=")[0] != name)
    ),
    "query_again": lambda wire, name: replace(
        wire,
        query="&".join([wire.query, *(pair for pair in wire.query.split("&") if pair.partition("=")[0] == name)]),
    ),
    "query_reversed": lambda wire: replace(wire, query="&".join(reversed(wire.query.split("&")))),
    "set": _set,
    "sub": _sub,
    "add": lambda wire, name, value: replace(wire, headers=(*wire.headers, (name, value))),
    "again": lambda wire, name: replace(wire, headers=(*wire.headers, (name, _value(wire, name)))),
    "drop": lambda wire, name: replace(
        wire, headers=tuple(header for header in wire.headers if header[0].lower() != name.lower())
    ),
    "rename": lambda wire, old, new: replace(
        wire, headers=tuple((new if name == old else name, value) for name, value in wire.headers)
    ),
    "date_moved": _date_moved,
    "signature": _signature,
    "parameters_reversed": _parameters_reversed,
    "reversed": lambda wire: replace(wire, headers=tuple(reversed(wire.headers))),
    "upper": lambda wire: replace(wire, headers=tuple((name.upper(), value) for name, value in wire.headers)),
    "body": lambda wire, body: replace(wire, body=body),
    "chunked": lambda wire: replace(
        wire,
        headers=(*wire.headers, ("Transfer-Encoding", "chunked")),
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(wire.body), wire.body),
        frame=False,
    ),
}


@dataclass(frozen=True)
class Case:
    """What is sent, and what is answered: `code` is empty for what is taken."""

    what: str
    signed: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[tuple[Any, ...], ...] = ()
    code: str = ""
    status: int = 403

    def wire(self, at: dt.datetime) -> Wire:
        return change(sign(at, **self.signed), self.steps)
