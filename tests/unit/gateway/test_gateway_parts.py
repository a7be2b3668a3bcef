"""Smaller parts of the gateway: errors, members, forwarded headers, eager tasks, deadlines, delivery, imports."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable

import botocore.session
import pytest
import uvloop

from freehold.aws import model
from freehold.domain import errors as domain_errors
from freehold.domain.errors import FreeholdError, ValidationFailed
from freehold.domain.sessions import SessionKey
from freehold.gateway import contracts, dataplane, eager, errors, headers
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import LiveClaim
from freehold.gateway.exchange import ClientGone
from freehold.gateway.heads import ResponseHead
from freehold.gateway.members import CARD, INVOKE, STOP, Members
from freehold.gateway.relay import AgentRelay
from freehold.gateway.spool import Spools
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream, attach

SERVICE = model.load("bedrock-agentcore", [INVOKE, STOP, CARD])
MEMBERS = Members(SERVICE.to_data())
ARN = b"arn%3Aaws%3Abedrock-agentcore%3Aeu-central-1%3A111122223333%3Aruntime%2Fagent-0123456789"
OF_THE_FRONT = {"ServiceUnavailableException": 503, "RequestTimeoutException": 408}
"""Codes that are not of the model, and that SDKs know all the same."""
SESSION = (headers.SESSION_ID, b"s" * 40)


def every_error() -> list[type[FreeholdError]]:
    found = [c for c in vars(domain_errors).values() if isinstance(c, type) and issubclass(c, FreeholdError)]
    return [c for c in found if c is not FreeholdError]


@pytest.mark.parametrize("kind", every_error())
def test_every_expected_failure_has_a_code_that_the_service_model_knows_at_its_status(
    kind: type[FreeholdError],
) -> None:
    told = errors.to_wire(kind("why"))
    assert told.message == "why"
    if told.code in OF_THE_FRONT:
        assert told.status == OF_THE_FRONT[told.code]
        return
    service = botocore.session.get_session().get_service_model("bedrock-agentcore")
    shape = service.shape_for(told.code)
    assert shape.metadata["error"]["httpStatusCode"] == told.status


def test_a_fault_of_ours_tells_nothing() -> None:
    told = errors.to_wire(KeyError("secret"))
    assert (told.code, told.status) == ("InternalServerException", 500)
    assert "secret" not in told.message


@pytest.mark.parametrize("protocol", contracts.REGISTRY)
def test_every_protocol_can_tell_of_every_failure(protocol: contracts.ServerProtocol) -> None:
    for kind in every_error():
        answer = contracts.REGISTRY[protocol].render_error(errors.to_wire(kind('"quoted"\nand more')))
        assert 200 <= answer.status < 600
        text = answer.body.decode().removeprefix("data: ")
        told = json.loads(text)
        assert told.get("error", told)["message"] == '"quoted"\nand more'


@pytest.mark.parametrize(
    ("query", "given", "told"),
    [
        (b"accountId=1", [], "accountId"),
        (b"qualifier=a&qualifier=b", [], "qualifier"),
        (b"qualifier=%zz", [], "%"),
        (b"", [(b"traceparent", b"x" * 129)], "traceParent"),
        (b"", [(b"accept", b"x" * 257)], "accept"),
        (b"", [(headers.SESSION_ID, b"-" * 40)], "runtimeSessionId"),
        (b"", [SESSION, SESSION], "runtimeSessionId"),
    ],
)
def test_parameters_that_break_the_model_are_refused_by_name(
    query: bytes, given: list[tuple[bytes, bytes]], told: str
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        MEMBERS.read(INVOKE, ARN, query, given)
    assert told in caught.value.message


def test_a_stop_needs_a_session_and_takes_no_body_or_an_object() -> None:
    assert MEMBERS.read(STOP, ARN, b"", [SESSION], b"")["runtimeSessionId"] == "s" * 40
    with pytest.raises(ValidationFailed, match="runtimeSessionId"):
        MEMBERS.read(STOP, ARN, b"", [], b"")


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        (b"/runtimes/x/invocations", "InvokeAgentRuntime"),
        (b"/runtimes/x/invocations/", "InvokeAgentRuntime"),
        (b"/runtimes/x/stopruntimesession", "StopRuntimeSession"),
        (b"/runtimes/x/ws", "InvokeAgentRuntimeWithWebSocketStream"),
        (b"/runtimes//invocations", None),
        (b"/runtimes/x/y/invocations", None),
        (b"/runtimes/x/invocationsx", None),
        (b"/runtimes/x/", None),
        (b"/runtimes/x/runtime-endpoints/", None),
        (b"/identities/GetWorkloadAccessToken", "GetWorkloadAccessToken"),
        (b"/identities/CreateWorkloadIdentity", None),
        (b"/", None),
    ],
)
def test_a_path_is_the_data_planes_or_not(path: bytes, operation: str | None) -> None:
    found = dataplane.operation_of(path)
    assert (found[0] if found else None) == operation


def test_a_connection_header_can_not_take_away_what_decides_whose_request_it_is() -> None:
    received = [(b"host", b"a"), (b"authorization", b"x"), (b"x-amz-date", b"d"), (b"connection", b"authorization")]
    assert headers.end_to_end(received) == received[:3]


def test_a_coroutine_that_need_not_wait_makes_no_task_and_another_goes_on_in_one() -> None:
    async def main() -> None:
        seen: list[object] = []

        async def at_once() -> None:
            seen.append("done")

        async def waits() -> None:
            await eager.in_task()
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
            seen.append(asyncio.current_task())

        loop = asyncio.get_running_loop()
        assert eager.start(at_once(), loop) is None
        task = eager.start(waits(), loop)
        assert task is not None
        assert seen == ["done"]
        await task
        assert seen == ["done", task]

    asyncio.run(main())


def test_deadlines_are_noticed_and_one_that_fails_does_not_stop_the_clock() -> None:
    class Item:
        deadline = 5.0

        def __init__(self) -> None:
            self.told: list[float] = []

        def expired(self, now: float) -> None:
            self.told.append(now)
            raise ValueError

    async def main() -> None:
        now = 4.9
        sweeper = Sweeper(lambda: now)
        item = Item()
        sweeper.watch(item)
        ticked = asyncio.Event()
        sweeper.every_tick(lambda _now: ticked.set())
        sweeper.start()
        async with asyncio.timeout(10):
            await ticked.wait()
            assert item.told == []
            now = 5.0
            for _ in range(2):
                ticked.clear()
                await ticked.wait()
        sweeper.stop()
        assert item.told == [5.0, 5.0]

    asyncio.run(main())


class Recorder:
    """A Sink that remembers."""

    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.ended = asyncio.Event()
        self.failure: str | None = None

    def response_head(self, head: ResponseHead) -> None:
        self.heads.append(head)

    def response_body(self, raw: bytes) -> None:
        self.body += raw

    def response_end(self) -> None:
        self.ended.set()

    def response_failed(self, why: str) -> None:
        self.failure = why
        self.ended.set()

    def upstream_writable(self) -> None: ...


@pytest.mark.parametrize("reads_the_second", ["no", "and closes", "and resets"])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_kernel_knows_whether_a_request_reached_the_peer(
    reads_the_second: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        sock = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        connection = await attach(sock, lambda _connection: None)
        loop = asyncio.get_running_loop()
        first = Recorder()
        connection.begin(first, "POST")
        connection.write(b"first request")
        peer.setblocking(False)
        assert await loop.sock_recv(peer, 100) == b"first request"
        await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await first.ended.wait()
        assert (first.body, first.failure) == (b"ok", None)
        assert connection.is_usable()
        second = Recorder()
        # No await from here to the write: the loop does not see the peer close.
        if reads_the_second == "no":
            peer.close()
            assert not connection.is_usable()
        connection.begin(second, "POST")
        connection.write(b"second request")
        if reads_the_second != "no":
            assert await loop.sock_recv(peer, 100) == b"second request"
            if reads_the_second == "and resets":  # its acknowledgement may not have been sent
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        seen: list[bool] = []
        second.response_failed = lambda why: (  # pyright: ignore[reportAttributeAccessIssue]
            seen.append(connection.was_request_undelivered()),
            second.ended.set(),
        )
        await second.ended.wait()
        assert seen == [reads_the_second == "no"]
        listener.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 10))


def test_nothing_is_sent_again_where_delivery_can_not_be_known() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        connection: Upstream = await attach(ours, lambda _connection: None)
        assert not connection.was_request_undelivered()
        connection.abort()
        theirs.close()

    asyncio.run(main())


def test_a_worker_carries_no_botocore_no_sql_and_no_web_framework() -> None:
    forbidden = ["botocore", "boto3", "sqlalchemy", "alembic", "starlette", "pydantic", "uvicorn"]
    code = f"import sys, freehold.gateway.worker; print([m for m in {forbidden} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_that_went_just_before_its_request_was_sent_leaves_no_claim_and_no_body() -> None:
    class Gone:
        def attach(self, _relay: object) -> None:
            raise ClientGone

    class Counting:
        left = 0

        def leave(self, _claim: object, _resend: None) -> None:
            self.left += 1

    async def main() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        connection = await attach(ours, lambda _connection: lost.set())
        claims = Counting()
        spools = Spools(GatewayLimits(), lambda: 0.0)
        body = spools.of_caller("k", max_bytes=100)
        body.write(b"x")
        relay = AgentRelay(
            Gone(),  # pyright: ignore[reportArgumentType]
            claims=claims,  # pyright: ignore[reportArgumentType]
            claim=LiveClaim(SessionKey("", "", "", "", ""), 1, 1, 0.0),
            rules=contracts.REGISTRY[contracts.ServerProtocol.HTTP],
            request_head=b"",
            body=body,
            session_id=b"",
            sweeper=Sweeper(),
            limits=GatewayLimits(),
        )
        with pytest.raises(ClientGone):
            relay.begin(connection, retry=None)
        relay.client_gone()
        assert (claims.left, spools.held_bytes) == (1, 0)
        await asyncio.wait_for(lost.wait(), 5)
        theirs.close()

    asyncio.run(main())
