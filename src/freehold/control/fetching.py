"""Fetches small documents from URLs that customers and identity providers chose.

For: discovery documents and key sets. Not for where one may go (`reach`) or for what comes (`auth.discovery`).
Invariant: a name is resolved once and the connection is made to an address that was checked, a fetch ends within its
time whatever the other side does, and no more than `max_bytes` of a document are ever held. Redirects are not followed:
the address that somebody wrote down is the one that is asked.

The protocol is h11's; TLS is the standard library's, with the host's trusted authorities.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import h11

from freehold.control import reach
from freehold.control.reach import Address, Origin, Place, Reach, Refused

TOTAL_TIMEOUT_S: Final = 5.0
"""From the look-up of the name to the last byte."""
MAX_BYTES: Final = 256 * 1024
CONCURRENCY: Final = 16
"""Fetches at once; further ones wait."""
_CHUNK: Final = 64 * 1024
_AGENT: Final = "freehold"

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, for a port. Raises OSError."""


class FetchFailed(Exception):
    """The document could not be had. The message is for the log and names no secret."""


class Fetcher:
    """Use from one event loop. `resolve` is the host's own look-up unless a test has another."""

    def __init__(
        self,
        reach: Reach,
        *,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        max_bytes: int = MAX_BYTES,
        resolve: Resolve | None = None,
    ) -> None:
        self.reach: Final = reach
        self._total_timeout_s = total_timeout_s
        self._max_bytes = max_bytes
        self._resolve = resolve or _look_up
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def get(self, url: str, *, places: Mapping[str, Place], authorities: str | None = None) -> bytes:
        """The body of the answer 200 to GET `url`. Raises FetchFailed.

        `places` says where some hosts are reached, instead of where their names lead; `authorities` are PEM
        certificates that are trusted beside the host's.
        """
        try:
            async with self._slots, asyncio.timeout(self._total_timeout_s):
                return await self._get(url, places, authorities)
        except Refused as refused:
            raise FetchFailed(f"the URL is not followed: {refused}") from None
        except TimeoutError:
            raise FetchFailed(f"it took longer than {self._total_timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise FetchFailed(f"the server's certificate is not trusted: {error.verify_message}") from None
        except (OSError, h11.RemoteProtocolError, UnicodeError) as error:
            raise FetchFailed(f"{type(error).__name__}: {error}") from None

    async def _get(self, url: str, places: Mapping[str, Place], authorities: str | None) -> bytes:
        host = self.reach.origin(url, has_place=True).host
        place = places.get(host)
        if place == reach.NOWHERE:
            raise FetchFailed(f"the setting jwt.private_endpoints has no place for the private endpoint of {host}")
        origin = self.reach.origin(url, has_place=place is not None)
        reader, writer = await self._connect(origin, place, authorities)
        try:
            return await self._exchange(reader, writer, origin, url)
        finally:
            # Without a goodbye: nobody waits for what the other side may still have to say.
            writer.transport.abort()

    async def _connect(
        self, origin: Origin, place: Place | None, authorities: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = None
        if origin.scheme == "https":
            context = await asyncio.to_thread(ssl.create_default_context)
            if authorities is not None:
                context.load_verify_locations(cadata=authorities)
        port = origin.port if place is None else place[1]
        problem: OSError = OSError("the name has no address")
        for address in await self._addresses(origin, place):
            try:
                return await asyncio.open_connection(
                    address, port, ssl=context, server_hostname=origin.host if context else None, limit=_CHUNK
                )
            except ssl.SSLError:
                raise
            except OSError as error:
                problem = error
        raise problem

    async def _addresses(self, origin: Origin, place: Place | None) -> list[str]:
        """Those that may be connected to. Raises Refused when the name has others only."""
        if place is not None:
            # The operator's own word: whatever it leads to.
            return await self._resolve(*place)
        found = [reach.as_address(text) for text in await self._resolve(origin.host, origin.port)]
        known: list[Address] = [address for address in found if address is not None]
        allowed = [address for address in known if self.reach.allows(address, scheme=origin.scheme)]
        if known and not allowed:
            raise self.reach.refusal(known[0], scheme=origin.scheme)
        return [str(address) for address in allowed]

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, origin: Origin, url: str
    ) -> bytes:
        protocol = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", origin.authority),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", _AGENT),
            ("Connection", "close"),
        ]
        request = h11.Request(method="GET", target=_target(url), headers=headers)
        writer.write(protocol.send(request) + protocol.send(h11.EndOfMessage()))
        await writer.drain()
        body = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                _check_answer(event)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._max_bytes:
                    raise FetchFailed(f"the answer is longer than {self._max_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise FetchFailed("the connection was closed before the end of the answer")


def _check_answer(response: h11.Response) -> None:
    if 300 <= response.status_code < 400:
        raise FetchFailed(f"the answer is a redirect ({response.status_code}), and redirects are not followed")
    if response.status_code != 200:
        raise FetchFailed(f"the answer has status {response.status_code}")
    for name, value in response.headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise FetchFailed("the answer is compressed, which was not asked for")


def _target(url: str) -> str:
    """The path and query of a URL that has been found right; a fragment is never sent."""
    rest = url.partition("://")[2].partition("#")[0]
    ends = [at for at in (rest.find("/"), rest.find("?")) if at >= 0]
    target = rest[min(ends) :] if ends else ""
    return target if target.startswith("/") else f"/{target}"


async def _look_up(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
