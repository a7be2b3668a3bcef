"""HTTP/1.1 heads: what a request or a response says before its body, read strictly.

For: bytes up to and with the blank line. Not for bodies (`framing`) or for what a header means to Freehold. llhttp
reads; what it lets pass and a second reader might see otherwise is refused here. Invariant: a head that is returned
has exactly one reading of where its body ends.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from freehold.gateway import framing

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_TARGET: Final = re.compile(rb"/[!-\"$->@-~]*(\?[!-\"$-~]*)?")
_OWS: Final = b" \t"
_SPECIAL: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"expect", b"host"})

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values without white space around them, in order."""


class BadHead(Exception):
    """This is no request that can be served; `status` says how. Nothing after it can be read."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class BadResponse(Exception):
    """This is no response."""


class RequestHead:
    """One request's head. `content_length` and `chunked` exclude each other; with neither there is no body."""

    __slots__ = (
        "chunked",
        "content_length",
        "expects_continue",
        "headers",
        "is_http_1_0",
        "keep_alive",
        "method",
        "raw_path",
        "raw_query",
    )

    def __init__(self, method: str, target: bytes, *, is_http_1_0: bool) -> None:
        self.method = method
        self.raw_path, _, self.raw_query = target.partition(b"?")
        self.is_http_1_0 = is_http_1_0
        self.headers: Headers = []
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = not is_http_1_0
        self.expects_continue = False

    def body_framing(self) -> framing.Framing:
        """A new reader of this request's body."""
        if self.chunked:
            return framing.Chunked()
        return framing.Length(self.content_length or 0)


class ResponseHead:
    """One response's head. `framing` reads its body."""

    __slots__ = ("framing", "headers", "keep_alive", "status")

    def __init__(self, status: int, headers: Headers, body: framing.Framing, *, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.framing = body
        self.keep_alive = keep_alive


class _Collector:
    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.target = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves white space at the end of values.
        self.headers.append((name.lower(), value.rstrip(_OWS)))


def parse_request(data: bytes) -> RequestHead:
    """Read a head, with its blank line. Raises BadHead."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # asked for, never granted by this layer: an ordinary request otherwise
    except httptools.HttpParserError as error:
        raise BadHead(f"The request is not HTTP/1.1: {error}") from None
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise BadHead("Only HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    if not _TARGET.fullmatch(collector.target):
        raise BadHead("The request target must be a path")
    if len(collector.headers) > MAX_HEADERS:
        raise BadHead(f"The request has more than {MAX_HEADERS} headers", 431)
    head = RequestHead(parser.get_method().decode("ascii"), collector.target, is_http_1_0=version == "1.0")
    head.headers = collector.headers
    _read_special(head)
    return head


def _read_special(head: RequestHead) -> None:
    host: bytes | None = None
    for name, value in head.headers:
        if name not in _SPECIAL:
            continue
        if name == b"host":
            # SDKs that sign WebSocket requests send it twice alike (spec, last section).
            if host is not None and value != host:
                raise BadHead("The request has two different Host headers")
            host = value
        elif name == b"content-length":
            if head.content_length is not None or not _LENGTH.fullmatch(value):
                raise BadHead("Content-Length must be one number")
            head.content_length = int(value)
        elif name == b"transfer-encoding":
            if head.is_http_1_0 or head.chunked or value.lower() != b"chunked":
                raise BadHead("Of transfer encodings only one 'chunked' is taken", 501)
            head.chunked = True
        elif name == b"connection":
            options = value.lower()
            if b"close" in options:
                head.keep_alive = False
            elif head.is_http_1_0 and b"keep-alive" in options:
                head.keep_alive = True
        elif value.lower() == b"100-continue":
            head.expects_continue = not head.is_http_1_0
        else:
            raise BadHead("Of expectations only 100-continue is met", 417)
    if head.chunked and head.content_length is not None:
        raise BadHead("A request has either Content-Length or Transfer-Encoding")
    if host is None and not head.is_http_1_0:
        raise BadHead("An HTTP/1.1 request has a Host header")


def parse_response(data: bytes, *, request_method: str) -> ResponseHead:
    """Read a head, with its blank line. Raises BadResponse."""
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise BadResponse(str(error)) from None
    status = parser.get_status_code()
    version = parser.get_http_version()
    if version not in ("1.1", "1.0") or not 100 <= status <= 599 or status == 101:
        raise BadResponse(f"HTTP version {version}, status {status}")
    if len(collector.headers) > MAX_HEADERS:
        raise BadResponse("too many headers")
    keep_alive = version == "1.1"
    length: int | None = None
    chunked = False
    for name, value in collector.headers:
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise BadResponse("Content-Length is not one number")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or version == "1.0" or value.lower() != b"chunked":
                raise BadResponse("a transfer encoding other than one 'chunked'")
            chunked = True
        elif name == b"connection" and b"close" in value.lower():
            keep_alive = False
    if chunked and length is not None:
        raise BadResponse("both Content-Length and Transfer-Encoding")
    body: framing.Framing
    if request_method == "HEAD" or status < 200 or status in (204, 304):
        body = framing.Length(0)
    elif chunked:
        body = framing.Chunked()
    elif length is not None:
        body = framing.Length(length)
    else:
        body = framing.UntilClose()
        keep_alive = False
    return ResponseHead(status, collector.headers, body, keep_alive=keep_alive)
