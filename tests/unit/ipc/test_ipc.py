"""Messages between processes: replies, errors, descriptors, broken connections."""

import asyncio
import gc
import os
import socket
from pathlib import Path

import msgspec
import pytest

from freehold import ipc
from freehold.domain import errors


class Ask(msgspec.Struct, tag="ask", frozen=True):
    text: str
    sockets: int = 0


class Told(msgspec.Struct, tag="told", frozen=True):
    text: str


REQUESTS = ipc.decoder(Ask)
REPLIES = ipc.decoder(Told)


async def answer(peer, ask, fds):
    received = [os.fstat(fd).st_ino for fd in fds]
    ipc.close_all(fds)
    match ask.text:
        case "hang":
            await asyncio.Event().wait()
        case "missing":
            raise errors.NotFound("nothing called that")
        case "start":
            raise errors.StartFailed("broken", exit_code=3, output_tail="Traceback")
        case "bug":
            raise KeyError("secret detail")
    sent = [os.open("/dev/null", os.O_RDONLY) for _ in range(ask.sockets)]
    return Told(f"{ask.text} {len(received)}"), sent


def with_server(test, tmp_path: Path, handler=answer):
    async def body():
        listener = ipc.listen(tmp_path / "s.sock")
        serving = asyncio.create_task(ipc.serve(listener, REQUESTS, handler=handler))
        link = ipc.Link(str(tmp_path / "s.sock"), REPLIES)
        try:
            async with asyncio.timeout(10):
                await test(link, serving, listener)
        finally:
            await link.aclose()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()

    asyncio.run(body())


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_call_gets_the_reply_to_its_own_question_among_many(tmp_path):
    async def test(link, _serving, _listener):
        replies = await asyncio.gather(*(link.call(Ask(str(n))) for n in range(500)))
        assert [reply.text for reply, _ in replies] == [f"{n} 0" for n in range(500)]

    with_server(test, tmp_path)


def test_descriptors_travel_both_ways_and_none_is_left_open(tmp_path):
    async def test(link, _serving, _listener):
        await link.call(Ask("warm"))
        before = open_descriptors()
        with open("/dev/null") as file:
            reply, fds = await link.call(Ask("with", sockets=3), [file.fileno()])
        assert reply.text == "with 1"
        assert len(fds) == 3
        assert all(os.fstat(fd).st_rdev == os.stat("/dev/null").st_rdev for fd in fds)
        ipc.close_all(fds)
        assert open_descriptors() == before

    with_server(test, tmp_path)


def test_a_reply_that_comes_after_its_caller_gave_up_leaves_no_descriptor_open(tmp_path):
    gate = asyncio.Event()

    async def slow(peer, ask, fds):
        if ask.text == "slow":
            await gate.wait()
        return await answer(peer, ask, fds)

    async def test(link, _serving, _listener):
        await link.call(Ask("warm"))
        before = open_descriptors()
        with pytest.raises(errors.Unavailable):
            await link.call(Ask("slow", sockets=2), timeout_s=0.01)
        gate.set()
        await link.call(Ask("after"))
        assert open_descriptors() == before

    with_server(test, tmp_path, slow)


def test_a_call_that_is_not_answered_in_time_fails_and_its_reply_leaves_no_descriptor_open(tmp_path):
    async def test(link, _serving, _listener):
        await link.call(Ask("warm"))
        before = open_descriptors()
        with pytest.raises(errors.Unavailable):
            await link.call(Ask("hang"), timeout_s=0.01)
        assert (await link.call(Ask("goes on")))[0].text == "goes on 0"
        assert open_descriptors() == before

    with_server(test, tmp_path)


def test_a_call_waits_for_the_connection_no_longer_than_for_its_reply(tmp_path):
    async def test():
        link = ipc.Link(str(tmp_path / "nobody.sock"), REPLIES)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(errors.Unavailable):
                    await link.call(Ask("hello"), timeout_s=0.01)
        finally:
            await link.aclose()

    asyncio.run(test())


def test_what_is_received_is_not_handed_down_to_programs_that_are_started(tmp_path):
    async def test(link, _serving, _listener):
        _, fds = await link.call(Ask("some", sockets=2))
        assert [os.get_inheritable(fd) for fd in fds] == [False, False]
        ipc.close_all(fds)

    with_server(test, tmp_path)


def test_an_error_of_the_domain_arrives_as_itself_with_its_details(tmp_path):
    async def test(link, _serving, _listener):
        with pytest.raises(errors.NotFound, match="nothing called that"):
            await link.call(Ask("missing"))
        with pytest.raises(errors.StartFailed) as caught:
            await link.call(Ask("start"))
        assert (caught.value.exit_code, caught.value.output_tail) == (3, "Traceback")

    with_server(test, tmp_path)


def test_a_bug_in_a_handler_is_an_answer_without_its_details(tmp_path):
    async def test(link, _serving, _listener):
        with pytest.raises(errors.FreeholdError) as caught:
            await link.call(Ask("bug"))
        assert "secret" not in caught.value.message

    with_server(test, tmp_path)


def test_calls_under_way_fail_when_the_server_goes_and_later_ones_find_the_next_server(tmp_path):
    async def test(link, serving, listener):
        await link.call(Ask("up"))
        hanging = asyncio.create_task(link.call(Ask("hang")))
        await link.call(Ask("sent before this"))
        serving.cancel()
        with pytest.raises(errors.Unavailable):
            await hanging
        again = asyncio.create_task(ipc.serve(listener, REQUESTS, handler=answer))
        reply, _ = await link.call(Ask("again"))
        assert reply.text == "again 0"
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    with_server(test, tmp_path)


def test_a_receiver_that_reads_slowly_gets_every_message_in_order(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def test():
        got: list[str] = []
        done = asyncio.Event()

        async def collect(peer, ask, fds):
            got.append(ask.text[:6])
            if len(got) == 2000:
                done.set()

        sender = ipc.Peer(ours, REPLIES)
        for n in range(2000):
            sender.notify(Ask(f"{n:06}" + "x" * 1000))
        receiver = ipc.Peer(theirs, REQUESTS, handler=collect)
        async with asyncio.timeout(10):
            await done.wait()
        assert got == [f"{n:06}" for n in range(2000)]
        sender.close()
        receiver.close()

    asyncio.run(test())


def test_what_is_not_a_message_closes_the_connection(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    async def test():
        closed = asyncio.Event()
        ipc.Peer(theirs, REQUESTS, handler=answer, on_close=lambda _peer: closed.set())
        ours.send(b"\x93\x01\x00nonsense")
        async with asyncio.timeout(5):
            await closed.wait()
        ours.close()

    asyncio.run(test())


def test_a_socket_path_may_be_longer_than_a_unix_address(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    async def test(link, _serving, _listener):
        reply, _ = await link.call(Ask("deep"))
        assert reply.text == "deep 0"

    with_server(test, deep)


def test_a_socket_is_open_to_its_owner_only(tmp_path):
    with ipc.listen(tmp_path / "s.sock"):
        assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o600
