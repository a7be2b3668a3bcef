"""A real Worker on real sockets, with a warden, a control and agents that do as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.auth
import botocore.config
import uvloop
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from freehold import ipc
from freehold.auth.jwt_claims import Authorizer
from freehold.auth.keys import AccessKey
from freehold.aws import model
from freehold.control import protocol as control_protocol
from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason, SessionKey
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.worker import Watch, Worker
from freehold.warden import protocol as warden_protocol

T = TypeVar("T")
PUBLIC_URL = "https://agents.example"
REGION = "eu-central-1"
ACCOUNT = "111122223333"
OTHER_ACCOUNT = "444455556666"
RUNTIME_ID = "agent-0123456789"
ARN = f"arn:aws:bedrock-agentcore:{REGION}:{ACCOUNT}:runtime/{RUNTIME_ID}"
QUOTED_ARN = ARN.replace(":", "%3A").replace("/", "%2F")
INVOCATIONS = f"/runtimes/{QUOTED_ARN}/invocations"
PUBLIC_URL = "https://agents.example"
STOP = f"/runtimes/{QUOTED_ARN}/stopruntimesession"
SESSION = "s" * 40
SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
KEY = AccessKey("AKIAFHAAAAAAAAAAAAAA", ACCOUNT, "s" * 40)
OTHER_KEY = AccessKey("AKIAFHBBBBBBBBBBBBBB", OTHER_ACCOUNT, "t" * 40)
DEADLINE_S = 15.0
DATA_PLANE = model.load("bedrock-agentcore", ["InvokeAgentRuntime", "StopRuntimeSession", "GetAgentCard"]).to_data()

Agent = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeControl:
    """Answers the feed's questions from tables, and HTTP by script."""

    def __init__(self) -> None:
        self.keys = {key.access_key_id: key for key in (KEY, OTHER_KEY)}
        self.routes = {(ACCOUNT, RUNTIME_ID, "DEFAULT"): 1}
        self.contracts: dict[int, control_protocol.Contract] = {}
        self.key_sets: dict[str, control_protocol.KeySet | control_protocol.NoKeySet] = {}
        """By the runtime that is asked for."""
        self.lacking: list[str | None] = []
        """What was asked for with each question for a key set."""
        self.asked: Counter[str] = Counter()
        self.peers: list[ipc.Peer] = []
        self.http: list[bytes] = []
        """Requests that came over HTTP, whole."""
        self.http_agent: Agent | None = None

    async def answer(self, peer: ipc.Peer, body: Any, fds: list[int]) -> Any:
        ipc.close_all(fds)
        self.asked[type(body).__name__] += 1
        match body:
            case control_protocol.Hello():
                self.peers.append(peer)
                return control_protocol.Welcome(DATA_PLANE)
            case control_protocol.ResolveEndpoint(account, runtime_id, qualifier):
                version = self.routes.get((account, runtime_id, qualifier))
                if version is None:
                    raise errors.NotFound("no such endpoint")
                return control_protocol.EndpointRoute(account, runtime_id, qualifier, version)
            case control_protocol.GetContract(_, _, version):
                return self.contracts[version]
            case control_protocol.GetKeySet(_, runtime_id, _, lacking):
                self.lacking.append(lacking)
                return self.key_sets[runtime_id]
            case control_protocol.GetAccessKey(access_key_id):
                key = self.keys.get(access_key_id)
                if key is None:
                    raise errors.NotFound("no such key")
                return control_protocol.AccessKey(
                    key.access_key_id, key.account, key.secret, key.session_token, key.expires_at
                )
            case _:
                raise AssertionError(body)


class FakeWarden:
    """Hands out sockets to the agent of the stage."""

    def __init__(self) -> None:
        self.agent_port = 0
        self.version: int | None = None
        """Of every session; None: the one it was asked for with."""
        self.claims: list[SessionKey] = []
        self.dials = 0
        self.released: list[warden_protocol.Release] = []
        self.held: set[int] = set()
        """Generations that are claimed."""
        self.stopped: list[SessionKey] = []
        self.faults: list[errors.FreeholdError] = []
        """Raised by the next claims, one each."""
        self.dial_faults: list[errors.FreeholdError] = []
        self.before_dial: Callable[[], Awaitable[Any]] | None = None
        self.entered = 0
        self.enter_faults: list[errors.FreeholdError] = []
        self.enters: list[warden_protocol.Enter] = []
        self.leaves: list[warden_protocol.Leave] = []
        self.answered: dict[bytes, warden_protocol.Answered] = {}
        """By what a request is known by when it is sent again."""
        self.before_claim: Callable[[], Awaitable[None]] | None = None
        self.sessions: dict[SessionKey, int] = {}
        self.bound: dict[SessionKey, str] = {}
        """What agents call their own sessions; kept when ours ends."""
        self.before_bind: Callable[[], Awaitable[None]] | None = None
        self.peers: list[ipc.Peer] = []
        self._generations = 0

    async def answer(self, peer: ipc.Peer, body: Any, fds: list[int]) -> Any:
        ipc.close_all(fds)
        if peer not in self.peers:
            self.peers.append(peer)
        match body:
            case warden_protocol.Claim():
                self.claims.append(body.key)
                if self.before_claim is not None:
                    await self.before_claim()
                if self.faults:
                    raise self.faults.pop(0)
                started = body.key not in self.sessions
                if started:
                    if body.resumes and body.key in self.bound:
                        raise errors.SessionEnded("The session has ended: begin another")
                    self.bound.pop(body.key, None)
                    self._generations += 1
                    self.sessions[body.key] = self._generations
                made = [await self._connect() for _ in range(body.sockets)]
                self.held.add(self.sessions[body.key])
                told = warden_protocol.Claimed(
                    self.sessions[body.key], self.version or body.version, started, self.bound.get(body.key)
                )
                return told, made
            case warden_protocol.Bind(generation, agent_session):
                if self.before_bind is not None:
                    await self.before_bind()
                key = next(key for key, running in self.sessions.items() if running == generation)
                if self.bound.setdefault(key, agent_session) != agent_session:
                    raise errors.RetryableConflict("Session operation in progress, please retry")
                return ipc.Done()
            case warden_protocol.Dial():
                self.dials += 1
                if self.before_dial is not None:
                    await self.before_dial()
                if self.dial_faults:
                    raise self.dial_faults.pop(0)
                return warden_protocol.Dialed(), [await self._connect() for _ in range(body.sockets)]
            case warden_protocol.Enter():
                self.enters.append(body)
                if body.once in self.answered:
                    return self.answered[body.once]
                self.entered += 1
                if self.enter_faults:
                    raise self.enter_faults.pop(0)
                return ipc.Done()
            case warden_protocol.Leave():
                self.entered -= 1
                self.leaves.append(body)
                return None
            case warden_protocol.Release():
                self.released.append(body)
                self.held.discard(body.generation)
                return None
            case warden_protocol.StopSession():
                generation = self.sessions.pop(body.key, None)
                if generation is None:
                    raise errors.NotFound("No such running session")
                self.stopped.append(body.key)
                peer.notify(warden_protocol.Ended(generation, EndReason.STOPPED))
                return ipc.Done()
            case _:
                raise AssertionError(body)

    def end(self, reason: EndReason) -> None:
        """Every session ends now."""
        for generation in self.sessions.values():
            for peer in self.peers:
                peer.notify(warden_protocol.Ended(generation, reason))
        self.sessions.clear()

    async def _connect(self) -> int:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.agent_port))
        return sock.detach()


class Stage:
    """Everything, running in a thread of its own. Use as a context manager."""

    def __init__(
        self,
        directory: Path,
        limits: GatewayLimits | None = None,
        now: Callable[[], float] = time.time,
        watch: Watch | None = None,
    ) -> None:
        self.directory = directory
        self.now = now
        """The time of day by which the worker judges."""
        self.limits = limits or GatewayLimits()
        self.watch = watch
        self.control = FakeControl()
        self.warden = FakeWarden()
        self.contract()
        self.agent: Agent = echo
        self.connections = 0
        """Connections that agents have accepted."""
        self.handlers: set[asyncio.Task[Any]] = set()
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._failure: BaseException | None = None
        self._servers: dict[str, asyncio.Task[None]] = {}
        self._listeners: dict[str, socket.socket] = {}

    def contract(
        self,
        version: int = 1,
        protocol: ServerProtocol = ServerProtocol.HTTP,
        *allowed: str,
        path: str | None = None,
        takes_jwt: bool = False,
    ) -> None:
        self.control.contracts[version] = control_protocol.Contract(
            version,
            protocol,
            8080,
            list(allowed),
            path=path,
            authorizer=Authorizer("digest", "keys") if takes_jwt else None,
        )

    # -- running --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stage:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the worker and wait until it has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def ask_to_stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        agents = await asyncio.start_server(self._serve_agent, "127.0.0.1", 0, limit=1 << 20)
        self.warden.agent_port = agents.sockets[0].getsockname()[1]
        await self.start_warden()
        await self.start_control()
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = listener.getsockname()[1]
        worker = Worker(
            listener,
            warden_path=str(self.directory / "warden.sock"),
            feed_path=str(self.directory / "feed.sock"),
            control_path=str(self.directory / "control.sock"),
            region=REGION,
            worker=0,
            public_url=PUBLIC_URL,
            watch=self.watch,
            now=lambda: self.now(),
            limits=self.limits,
        )
        try:
            await worker.run(self._stop, self._ready.set)
        finally:
            agents.close()
            await self.kill(*self._servers)
            for task in self.handlers:
                task.cancel()
            await asyncio.gather(*self.handlers, return_exceptions=True)

    async def start_warden(self) -> None:
        listener = ipc.listen(self.directory / "warden.sock")
        serving = ipc.serve(listener, warden_protocol.REQUESTS, handler=self.warden.answer)
        self._listeners["warden"] = listener
        self._servers["warden"] = asyncio.create_task(serving)

    async def start_control(self) -> None:
        listener = ipc.listen(self.directory / "feed.sock")
        serving = ipc.serve(listener, control_protocol.REQUESTS, handler=self.control.answer)
        self._listeners["feed"] = listener
        self._servers["feed"] = asyncio.create_task(serving)
        http = await asyncio.start_unix_server(
            self._serve_control, sock=ipc.bind_unix(self.directory / "control.sock", socket.SOCK_STREAM)
        )
        self._servers["http"] = asyncio.create_task(http.serve_forever())

    async def kill(self, *names: str) -> None:
        for name in names:
            task = self._servers.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if name in self._listeners:
                self._listeners.pop(name).close()

    async def _serve_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._serve(self.agent, reader, writer)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(self.control.http_agent or self._record_http, reader, writer)

    async def _serve(self, agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        try:
            await agent(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.handlers.discard(task)
            writer.close()

    async def _record_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        self.control.http.append(head + body)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Control: yes\r\nContent-Length: 7\r\n\r\ncontrol"
        )
        await writer.drain()

    # -- for tests ------------------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the stage's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self.run(call())

    def changed(
        self, *, runtime_ids: Sequence[str] = (), access_key_ids: Sequence[str] = (), key_sets: Sequence[str] = ()
    ) -> None:
        """Control tells of a change, and has the worker's confirmation."""
        message = control_protocol.Changed(list(runtime_ids), list(access_key_ids), list(key_sets))

        async def tell() -> None:
            for peer in self.control.peers:
                await peer.call(message, timeout_s=DEADLINE_S)

        self.run(tell())

    def client(self, service: str = "bedrock-agentcore", key: AccessKey = KEY, **config: Any) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=key.access_key_id,
            aws_secret_access_key=key.secret,
            config=botocore.config.Config(
                retries={"max_attempts": 0}, read_timeout=DEADLINE_S, connect_timeout=5, **config
            ),
        )

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE_S)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def exchange(self, data: bytes) -> bytes:
        """Send raw bytes; everything that comes until the server closes."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_all(sock)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A request's head and raw body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length:
        return head, await reader.readexactly(int(length[1]))
    body = b""
    if b"transfer-encoding: chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
    return head, body


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its body."""
    while True:
        _head, body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


async def echo_heads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its head."""
    while True:
        head, _body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
        await writer.drain()


def says(*parts: bytes, close: bool = False) -> Agent:
    """An agent that answers every request with these bytes, then closes if told to."""

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()
            if close:
                return

    return agent


def signed(
    path: str = INVOCATIONS,
    body: bytes = b'{"a": 1}',
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    unsigned: dict[str, str] | None = None,
    key: AccessKey = KEY,
    version: str = "1.1",
    session: str | None = SESSION,
    framed: bool = True,
    claimed: bool = False,
) -> bytes:
    """A request that botocore signed. `unsigned` headers are added after; `framed` adds Content-Length and body."""
    request = AWSRequest(method=method, url=f"http://127.0.0.1:2673{path}", data=body)
    request.headers["Host"] = "127.0.0.1:2673"
    for name, value in (headers or {}).items():
        request.headers[name] = value
    if session is not None:
        request.headers[SESSION_HEADER] = session
    if claimed:
        request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    credentials = Credentials(key.access_key_id, key.secret)
    botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", REGION).add_auth(request)
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += [f"{name}: {value}" for name, value in (unsigned or {}).items()]
    if framed:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body if framed else b"")


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends, in order or not."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_response(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with a Content-Length: status, headers (lower case), body."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        seen = data + sock.recv(65536, socket.MSG_PEEK)
        assert seen != data, f"the server closed after {data!r}"
        end = seen.find(b"\r\n\r\n")
        data += sock.recv((len(seen) if end < 0 else end + 4) - len(data))
    head, body = data.removesuffix(b"\r\n\r\n"), b""
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while missing := int(headers.get("content-length", "0")) - len(body):
        part = sock.recv(missing)
        assert part
        body += part
    return int(first.split(" ")[1]), headers, body


def eventually(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Wait until `condition` is true."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
    return found
