"""HTTP/1.1 heads: what a request or a response says before its body, read strictly.

For: bytes up to and with the blank line. Not for bodies (`framing`) or for what a header means to Freehold. llhttp
reads header lines; first lines, which it reads less strictly (other protocols, more than one space), and what a second
reader might see otherwise are judged here. Invariant: a head that is returned
has exactly one reading of where its body ends.
"""

from __future__ import annotations

import re
from typing import Any, Final

import httptools

from freehold.gateway import framing

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200

MAX_LENGTH_DIGITS: Final = 18
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_REQUEST_LINE: Final = re.compile(rb"(?!CONNECT )([A-Z][A-Z-]{0,31}) (/[!-\"$-~]*) HTTP/1\.([01])\r\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n")
_OTHER_VERSION: Final = re.compile(rb"[^ \r\n]+ [^ \r\n]+ HTTP/(?!1\.[01]\r\n)[0-9.]+\r\n")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
OWS: Final = b" \t"
_SPECIAL: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"expect", b"host"})

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values without white space around them, in order."""


def lines_of(headers: Headers) -> bytes:
    """As they are written."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


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
        "_headers",
        "chunked",
        "content_length",
        "expects_continue",
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
        self._headers: Headers | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = not is_http_1_0
        self.expects_continue = False

    @property
    def headers(self) -> Headers:
        """Of most requests nobody asks for all."""
        found = self._headers
        if found is None:
            found = self._headers = self._read_headers()
        return found

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    def _read_headers(self) -> Headers:
        return []

    def body_framing(self) -> framing.Framing:
        """A new reader of this request's body."""
        if self.chunked:
            return framing.Chunked()
        return framing.Length(self.content_length or 0)


class ResponseHead:
    """One response's head. `framing` reads its body."""

    __slots__ = ("framing", "headers", "keep_alive", "kept", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: framing.Framing,
        *,
        keep_alive: bool,
        kept: dict[object, Any] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        """Not to be changed: the next response may have the same."""
        self.framing = body
        self.keep_alive = keep_alive
        self.kept: dict[object, Any] = {} if kept is None else kept
        """What was made of such headers, by whoever makes it: the same for every response that has them."""


class _Collector:
    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves white space at the end of values.
        self.headers.append((name.lower(), value.rstrip(OWS)))


def parse_request(data: bytes) -> RequestHead:
    """Read a head, with its blank line. Raises BadHead."""
    first = _REQUEST_LINE.match(data)
    if first is None:
        raise _bad_request_line(data)
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # asked for, never granted by this layer: an ordinary request otherwise
    except httptools.HttpParserError as error:
        raise BadHead(f"The request is not HTTP/1.1: {error}") from None
    if len(collector.headers) > MAX_HEADERS:
        raise BadHead(f"The request has more than {MAX_HEADERS} headers", 431)
    method, target, minor = first.groups()
    head = RequestHead(method.decode("ascii"), target, is_http_1_0=minor == b"0")
    head.headers = collector.headers
    _read_special(head)
    return head


def _bad_request_line(data: bytes) -> BadHead:
    if _OTHER_VERSION.match(data):
        return BadHead("Only HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    return BadHead("The request line must be a method in capitals, a path and HTTP/1.1, with one space between them")


def _read_special(head: RequestHead) -> None:
    host: bytes | None = None
    options: set[bytes] = set()
    for name, value in head.headers:
        if name not in _SPECIAL:
            continue
        if name == b"host":
            # SDKs that sign WebSocket requests send it twice alike (spec, last section).
            if host is not None and value != host:
                raise BadHead("The request has two different Host headers")
            if not _HOST.fullmatch(value):
                raise BadHead("The Host header is not one host")
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
            options |= _tokens(value)
        elif value.lower() == b"100-continue":
            head.expects_continue = not head.is_http_1_0
        else:
            raise BadHead("Of expectations only 100-continue is met", 417)
    if head.chunked and head.content_length is not None:
        raise BadHead("A request has either Content-Length or Transfer-Encoding")
    if host is None and not head.is_http_1_0:
        raise BadHead("An HTTP/1.1 request has a Host header")
    if options:
        head.keep_alive = b"close" not in options and (not head.is_http_1_0 or b"keep-alive" in options)


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip(OWS) for token in value.lower().split(b",")}


def parse_response(data: bytes, *, request_method: str, may_switch: bool = False) -> ResponseHead:
    """Read a head, with its blank line; a 101 only when it `may_switch` protocols. Raises BadResponse."""
    first = _STATUS_LINE.match(data)
    if first is None:
        raise BadResponse("the first line is not the version, a status and a phrase")
    status = int(first[2])
    if status == 101 and (not may_switch or first[1] == b"0"):
        raise BadResponse("status 101, which nobody asked for")
    collector = _Collector()
    try:
        httptools.HttpResponseParser(collector).feed_data(data)
    except httptools.HttpParserUpgrade:
        if status != 101:
            raise BadResponse("an upgrade without status 101") from None
    except httptools.HttpParserError as error:
        raise BadResponse(str(error)) from None
    if len(collector.headers) > MAX_HEADERS:
        raise BadResponse("too many headers")
    is_http_1_0 = first[1] == b"0"
    keep_alive = not is_http_1_0
    length: int | None = None
    chunked = False
    for name, value in collector.headers:
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise BadResponse("Content-Length is not one number")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or is_http_1_0 or value.lower() != b"chunked":
                raise BadResponse("a transfer encoding other than one 'chunked'")
            chunked = True
        elif name == b"connection" and b"close" in _tokens(value):
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
