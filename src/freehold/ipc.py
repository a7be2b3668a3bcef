"""Messages between Freehold's own processes: typed, framed, able to carry open sockets.

For: the links gateway-warden, gateway-control, warden-control and control-warden. Not for: what the messages say
(each server's `protocol` module). One Unix SOCK_SEQPACKET datagram is one message: `[id, reply_to, body]` in
MessagePack, where body is a tagged union of msgspec structs. Invariant: every received descriptor is either handed
to exactly one receiver or closed here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from freehold.domain import errors

MAX_MESSAGE_BYTES = 160 * 1024
MAX_DESCRIPTORS = 16
RECONNECT_PAUSE_S = (0.02, 0.5)
"""First and longest pause between two tries to connect."""

log = structlog.get_logger(__name__)


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """The reply that carries an error of the domain's tree to the other process."""

    kind: str
    message: str
    detail: dict[str, Any] = {}


class Done(msgspec.Struct, tag="done", frozen=True):
    """The empty reply."""


Body = msgspec.Struct
Fds = Sequence[int]
Handler = Callable[["Peer", Any, list[int]], Awaitable["Body | tuple[Body, Fds] | None"]]
"""Answers one message. What it gets in the list it owns; descriptors it returns are closed once they are sent."""

_DESCRIPTORS_BYTES = socket.CMSG_LEN(MAX_DESCRIPTORS * array.array("i").itemsize)
_encoder = msgspec.msgpack.Encoder()


def decoder(*bodies: type[Body]) -> msgspec.msgpack.Decoder[tuple[int, int, Any]]:
    """A decoder for the message types one side may receive; replies Done and Failure are always among them."""
    union: Any = Done | Failure
    for body in bodies:
        union = union | body
    return msgspec.msgpack.Decoder(tuple[int, int, union])  # pyright: ignore[reportReturnType]


class Peer:
    """One connection to another process. Use from one event loop; closes itself on the first protocol error."""

    def __init__(
        self,
        sock: socket.socket,
        incoming: msgspec.msgpack.Decoder[tuple[int, int, Any]],
        *,
        handler: Handler | None = None,
        on_close: Callable[[Peer], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = incoming
        self._handler = handler
        self._on_close = on_close
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    # -- sending ---------------------------------------------------------------------------------------------

    def notify(self, body: Body, fds: Fds = ()) -> None:
        """Send without expecting an answer. Silently nothing when the peer has gone (its `on_close` tells)."""
        self._send(0, 0, body, fds)

    async def call(self, body: Body, fds: Fds = (), *, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """Send and wait for the reply and the descriptors that came with it, which the caller then owns.

        Raises the FreeholdError the other side raised, Unavailable when the peer goes away, TimeoutError.
        """
        if self.closed:
            raise errors.Unavailable("the other process has gone")
        call_id = next(self._ids)
        future: asyncio.Future[tuple[Any, list[int]]] = self._loop.create_future()
        self._waiting[call_id] = future
        self._send(call_id, 0, body, fds)
        # A timer of the loop's costs a fourth of asyncio.timeout, which is felt where there are many calls.
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, _give_up, future)
        try:
            reply, received = await future
        except BaseException:
            # Given up. A reply that has come already is dropped here, one that comes later in _dispatch.
            self._waiting.pop(call_id, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                close_all(future.result()[1])
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(reply, Failure):
            close_all(received)
            raise decode_failure(reply)
        return reply, received

    def _send(self, call_id: int, reply_to: int, body: Body, fds: Fds) -> None:
        if self.closed:
            return
        data = _encoder.encode((call_id, reply_to, body))
        if len(data) > MAX_MESSAGE_BYTES or len(fds) > MAX_DESCRIPTORS:
            raise ValueError(f"message {type(body).__name__} is too large: {len(data)} bytes, {len(fds)} descriptors")
        # A queued message outlives this call, so it holds its own copies of the descriptors.
        if not self._outgoing and self._try_send(data, tuple(fds)):
            return
        self._outgoing.append((data, tuple(os.dup(fd) for fd in fds)))
        if len(self._outgoing) == 1 and not self.closed:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _try_send(self, data: bytes, fds: tuple[int, ...]) -> bool:
        try:
            if fds:
                socket.send_fds(self._sock, [data], fds)
            else:
                self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.close()
        return True

    def _writable(self) -> None:
        while self._outgoing:
            data, fds = self._outgoing[0]
            if not self._try_send(data, fds):
                return
            close_all(fds)
            if self.closed:
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._sock.fileno())

    # -- receiving -------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        # One message: if there are more the loop calls again, which costs less than to be told that there are none.
        if self.closed:
            return
        try:
            # socket.recv_fds leaves out the flags that it is given.
            data, ancillary, flags, _address = self._sock.recvmsg(
                MAX_MESSAGE_BYTES, _DESCRIPTORS_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        fds = _descriptors(ancillary)
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            close_all(fds)
            self.close()
            return
        try:
            call_id, reply_to, body = self._incoming.decode(data)
        except msgspec.DecodeError:
            log.exception("ipc.unreadable_message")
            close_all(fds)
            self.close()
            return
        self._dispatch(call_id, reply_to, body, fds)

    def _dispatch(self, call_id: int, reply_to: int, body: Any, fds: list[int]) -> None:
        if reply_to:
            future = self._waiting.pop(reply_to, None)
            if future is None or future.done():
                close_all(fds)
            else:
                future.set_result((body, fds))
            return
        if self._handler is None:
            close_all(fds)
            return
        task = self._loop.create_task(self._handle(self._handler, call_id, body, fds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, handler: Handler, call_id: int, body: Any, fds: list[int]) -> None:
        reply_fds: Fds = ()
        reply: Body
        try:
            answer = await handler(self, body, fds)
            reply, reply_fds = answer if isinstance(answer, tuple) else (answer or Done(), ())
        except errors.FreeholdError as error:
            reply = encode_failure(error)
        except Exception:
            log.exception("ipc.handler_failed", message=type(body).__name__)
            reply = Failure("FreeholdError", "An internal error occurred")
        if call_id:
            self._send(0, call_id, reply, reply_fds)
        close_all(reply_fds)

    def close(self) -> None:
        """Close now. Calls under way fail with Unavailable; handlers under way are cancelled."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _data, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(errors.Unavailable("the other process has gone"))
        self._waiting.clear()
        current = asyncio.current_task() if self._loop.is_running() else None
        for task in self._tasks:
            if task is not current:
                task.cancel()
        if self._on_close is not None:
            self._on_close(self)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


class Link:
    """A client's lasting connection to a server process: made anew whenever it breaks.

    `on_connect` runs after each connect, before any `call` goes out; a failure in it counts as a broken connection.
    """

    def __init__(
        self,
        path: str,
        incoming: msgspec.msgpack.Decoder[tuple[int, int, Any]],
        *,
        handler: Handler | None = None,
        on_connect: Callable[[Peer], Awaitable[None]] | None = None,
        on_disconnect: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._incoming = incoming
        self._handler = handler
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._peer: Peer | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    async def until_connected(self) -> None:
        """Wait until there is a connection, on which `on_connect` has run."""
        await self._up.wait()

    async def call(self, body: Body, fds: Fds = (), *, timeout_s: float = 10.0) -> tuple[Any, list[int]]:
        """As Peer.call, but waits within `timeout_s` for the connection when there is none."""
        try:
            if not self._up.is_set():
                begun = time.monotonic()
                async with asyncio.timeout(timeout_s):
                    await self._up.wait()
                timeout_s -= time.monotonic() - begun
            peer = self._peer
            if peer is None:
                raise errors.Unavailable("the other process has gone")
            return await peer.call(body, fds, timeout_s=timeout_s)
        except TimeoutError:
            raise errors.Unavailable("the other process does not answer") from None

    def notify(self, body: Body, fds: Fds = ()) -> None:
        """Send if connected; what is lost with a connection is the server's to forget."""
        if self._peer is not None:
            self._peer.notify(body, fds)

    async def aclose(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._peer is not None:
            self._peer.close()

    async def _keep_connected(self) -> None:
        pause, longest = RECONNECT_PAUSE_S
        while True:
            try:
                sock = await _connect(self._path)
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            self._down.clear()
            peer = Peer(sock, self._incoming, handler=self._handler, on_close=self._closed)
            self._peer = peer
            try:
                if self._on_connect is not None:
                    await self._on_connect(peer)
            except errors.FreeholdError as error:
                log.warning("ipc.handshake_failed", error=error.message)
                peer.close()
            if not peer.closed:
                pause = RECONNECT_PAUSE_S[0]
                self._up.set()
            await self._down.wait()
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    def _closed(self, peer: Peer) -> None:
        was_up = self._up.is_set()
        self._up.clear()
        self._peer = None
        self._down.set()
        if was_up and self._on_disconnect is not None:
            self._on_disconnect()


async def serve(
    listener: socket.socket,
    incoming: msgspec.msgpack.Decoder[tuple[int, int, Any]],
    *,
    handler: Handler,
    on_close: Callable[[Peer], None] | None = None,
) -> None:
    """Accept peers until cancelled; then close them all."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    peers: set[Peer] = set()

    def closed(peer: Peer) -> None:
        peers.discard(peer)
        if on_close is not None:
            on_close(peer)

    try:
        while True:
            sock, _ = await loop.sock_accept(listener)
            peers.add(Peer(sock, incoming, handler=handler, on_close=closed))
    finally:
        for peer in list(peers):
            peer.close()


# -- sockets by name -------------------------------------------------------------------------------------------


def listen(path: Path) -> socket.socket:
    """A listening SOCK_SEQPACKET socket at `path`, readable by its owner only. Replaces what is there."""
    return bind_unix(path, socket.SOCK_SEQPACKET)


def bind_unix(path: Path, kind: socket.SocketKind) -> socket.socket:
    """Bind and listen at `path`, however long it is: a Unix address holds only 107 bytes, so go by the directory."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    old_mask = os.umask(0o177)
    try:
        with _short_name(path) as name:
            sock.bind(name)
        sock.listen(1024)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(old_mask)
    return sock


@contextlib.contextmanager
def _short_name(path: Path):
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        with _short_name(Path(path)) as name:
            await asyncio.get_running_loop().sock_connect(sock, name)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_unix_stream(path: str) -> socket.socket:
    """A connected, non-blocking stream socket to a Unix path of any length. Raises OSError at once when it can't."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with _short_name(Path(path)) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def close_all(fds: Fds) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


# -- errors across the border ------------------------------------------------------------------------------------


def encode_failure(error: errors.FreeholdError) -> Failure:
    detail: dict[str, Any] = {}
    for name in ("status", "exit_code", "output_tail", "reason"):
        if hasattr(error, name):
            detail[name] = getattr(error, name)
    # A process may have classes of its own below the tree's; across the border goes what the tree knows.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return Failure(kind.__name__, error.message, detail)


def decode_failure(failure: Failure) -> errors.FreeholdError:
    kind = getattr(errors, failure.kind, errors.FreeholdError)
    if kind is errors.StartFailed:
        return errors.StartFailed(
            failure.message,
            exit_code=failure.detail.get("exit_code"),
            output_tail=failure.detail.get("output_tail") or "",
        )
    if kind is errors.AgentFailed:
        return errors.AgentFailed(failure.message, status=failure.detail.get("status"))
    return kind(failure.message)
