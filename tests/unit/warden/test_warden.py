"""The warden's decisions: one session per key, claims, ends; on a backend whose agents are small in-process servers."""

import asyncio
import contextlib
import dataclasses
import os
import socket
from pathlib import Path

import pytest

from freehold.backends.base import Exit, SessionRef
from freehold.domain import errors
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import EndReason, SessionKey, SessionState
from freehold.domain.usage import Usage
from freehold.warden import protocol
from freehold.warden.journal import Journal
from freehold.warden.output import AgentLogs
from freehold.warden.server import Warden, WardenLimits

LAUNCH = LaunchSpec(
    account="000000000000",
    region="us-east-1",
    runtime_id="agent-0123456789",
    runtime_name="agent",
    version=1,
    protocol=ServerProtocol.HTTP,
    port=8080,
    code_dir="/nowhere",
    program=Program(Interpreter("/usr/bin/python3"), ("main.py",)),
    idle_timeout_s=60,
    max_lifetime_s=600,
)


def key(session="s" * 33, **changes) -> SessionKey:
    return dataclasses.replace(
        SessionKey("000000000000", "agent-0123456789", "DEFAULT", "account:000000000000", session), **changes
    )


class FakeClock:
    """Time stands still until a test moves it."""

    def __init__(self):
        self.now = 1000.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now + 1_700_000_000

    async def sleep_until(self, instant):
        if instant > self.now:
            event = asyncio.Event()
            self._sleepers.append((instant, event))
            await event.wait()

    async def advance(self, seconds):
        """Move on in steps to each timer that is due, letting everybody act in between."""
        target = self.now + seconds
        while True:
            await settle()
            due = [instant for instant, event in self._sleepers if not event.is_set() and instant <= target]
            if not due:
                break
            self.now = max(self.now, min(due))
            for instant, event in self._sleepers:
                if instant <= self.now:
                    event.set()
        self.now = target


async def settle():
    """Let everything that can go on go on. Sockets to in-process agents need a few turns of the loop."""
    for _ in range(200):
        await asyncio.sleep(0)


HEALTHY = b'HTTP/1.0 200 OK\r\n\r\n{"status":"Healthy"}'


class FakeAgent:
    def __init__(self, ping_answer=HEALTHY):
        self.ping_answer = ping_answer
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.pings = 0
        self.refuses = False

    async def serve(self, sock):
        reader, writer = await asyncio.open_connection(sock=sock)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.pings += 1
            writer.write(self.ping_answer)
        writer.close()


class FakeBackend:
    """Agents are coroutines; what a real backend makes on the host is a name in `made`."""

    def __init__(self):
        self.agents: dict[int, FakeAgent] = {}
        self.made: set[int] = set()
        self.started = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.crash_at_start = False
        self.fail_stop = False
        self.at_once = self.most_at_once = 0
        self.listens = frozenset()
        self.refuse_dials = False
        self.ping_answer = HEALTHY
        self._tasks = set()

    async def open(self): ...

    async def start(self, spec):
        self.started += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.made.add(spec.generation)
            yield SessionRef(spec.generation, {"step": "directory"})
            await self.gate.wait()
            agent = self.agents[spec.generation] = FakeAgent(self.ping_answer)
            if self.crash_at_start:
                agent.exit.set_result(Exit(code=3, signal=None))
            yield SessionRef(spec.generation, {"step": "process"})
        finally:
            self.at_once -= 1

    async def dial(self, ref, port, *, wait_s=0.0):
        agent = self.agents[ref.generation]
        if agent.exit.done() or agent.refuses or self.refuse_dials:
            raise ConnectionRefusedError("gone")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = asyncio.create_task(agent.serve(theirs))
        self._tasks.add(task)
        return ours

    async def exited(self, ref):
        return await asyncio.shield(self.agents[ref.generation].exit)

    def output_tail(self, ref):
        return "Traceback: it broke" if self.crash_at_start else ""

    async def usage(self, refs):
        return {ref.generation: Usage(cpu_s=1.5) for ref in refs if ref.generation in self.agents}

    async def listening(self, ref):
        return self.listens

    async def stop(self, ref):
        await asyncio.sleep(0)
        if self.fail_stop:
            raise OSError("can't remove")
        self.made.discard(ref.generation)

    async def sweep(self, leftover): ...

    async def aclose(self): ...


class Worker:
    """Stands where an ipc.Peer of a gateway worker stands."""

    def __init__(self):
        self.closed = False
        self.told = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def call(self, message, fds=(), *, timeout_s=None):
        self.told.append(message)
        await self.answers.wait()

    def notify(self, message, fds=()):
        self.told.append(message)


class House:
    def __init__(self, tmp_path: Path, **bounds):
        self.clock = FakeClock()
        self.backend = FakeBackend()
        self.journal = Journal(tmp_path / "journal")
        self.logs = AgentLogs(tmp_path / "logs")
        self.loads = 0
        self.launches = {1: LAUNCH, 2: dataclasses.replace(LAUNCH, version=2)}
        self.warden = Warden(
            backend=self.backend,
            journal=self.journal,
            load_launch=self.load,
            bounds=WardenLimits(**{"max_sessions": 10, "max_concurrent_starts": 4, **bounds}),
            public_url="http://127.0.0.1:2673",
            logs=self.logs,
            clock=self.clock,
        )
        self.worker = Worker()

    async def load(self, account, runtime_id, version):
        self.loads += 1
        await asyncio.sleep(0)
        if version not in self.launches:
            raise errors.NotFound("no such version")
        return self.launches[version]

    async def claim(self, *, worker=None, sockets=0, version=1, resumes=False, **changes):
        asked = protocol.Claim(key(**changes), version, sockets, resumes=resumes)
        reply = await self.warden.handle(worker or self.worker, asked, [])
        for fd in reply[1]:
            os.close(fd)
        return reply[0]

    async def tell(self, message, worker=None):
        return await self.warden.handle(worker or self.worker, message, [])

    def running(self):
        return [self.warden._info(session) for session in self.warden._by_generation.values()]


def house(test, tmp_path, **bounds):
    async def body():
        async with asyncio.timeout(20):
            built = House(tmp_path, **bounds)
            await test(built)
            await built.warden.aclose()
            built.logs.aclose()
            assert not built.backend.made or built.backend.fail_stop

    asyncio.run(body())


def test_a_first_claim_starts_a_session_and_a_second_joins_it(tmp_path):
    async def test(h):
        first, second = await h.claim(sockets=1), await h.claim(sockets=2)
        assert (first.started, second.started) == (True, False)
        assert first.generation == second.generation
        assert h.backend.started == 1

    house(test, tmp_path)


def test_fifty_claims_of_one_key_at_once_start_one_session(tmp_path):
    async def test(h):
        h.backend.gate.clear()
        claims = [asyncio.create_task(h.claim()) for _ in range(50)]
        await settle()
        h.backend.gate.set()
        answers = await asyncio.gather(*claims)
        assert len({a.generation for a in answers}) == 1
        assert sum(a.started for a in answers) == 1
        assert h.backend.started == 1

    house(test, tmp_path)


@pytest.mark.parametrize("other", [{"session": "t" * 33}, {"endpoint": "prod"}, {"owner": "jwt:someone"}])
def test_another_id_endpoint_or_owner_is_another_session(tmp_path, other):
    async def test(h):
        assert (await h.claim()).generation != (await h.claim(**other)).generation

    house(test, tmp_path)


def test_a_running_session_keeps_its_version_and_a_new_one_gets_the_new(tmp_path):
    async def test(h):
        await h.claim()
        assert (await h.claim(version=2)).version == 1
        assert (await h.claim(version=2, session="n" * 33)).version == 2

    house(test, tmp_path)


def test_a_released_session_ends_when_it_has_been_idle_for_its_timeout(tmp_path):
    async def test(h):
        claimed = await h.claim()
        await h.clock.advance(30)
        await h.tell(protocol.Release(claimed.generation, 0.0))
        await h.clock.advance(59)
        assert len(h.running()) == 1
        await h.clock.advance(2)
        await settle()
        assert h.running() == []
        assert not h.backend.made

    house(test, tmp_path)


def test_idle_time_counts_from_the_last_activity_not_from_the_release(tmp_path):
    async def test(h):
        claimed = await h.claim()
        await h.clock.advance(30)
        await h.tell(protocol.Release(claimed.generation, last_activity_age_s=20.0))
        await h.clock.advance(41)
        await settle()
        assert h.running() == []

    house(test, tmp_path)


def test_a_claimed_session_does_not_idle_out_but_ends_at_its_lifetime_and_the_worker_is_told(tmp_path):
    async def test(h):
        claimed = await h.claim()
        await h.clock.advance(599)
        assert len(h.running()) == 1
        await h.clock.advance(2)
        await settle()
        assert h.running() == []
        assert h.worker.told == [protocol.Ended(claimed.generation, EndReason.MAX_LIFETIME)]

    house(test, tmp_path)


def test_a_busy_agent_is_kept_and_an_agent_no_longer_busy_is_ended(tmp_path):
    async def test(h):
        claimed = await h.claim()
        await h.tell(protocol.Release(claimed.generation, 0.0))
        agent = h.backend.agents[claimed.generation]
        agent.ping_answer = b'HTTP/1.0 200 OK\r\n\r\n{"status":"HealthyBusy"}'
        await h.clock.advance(200)
        assert len(h.running()) == 1
        agent.ping_answer = b'HTTP/1.0 200 OK\r\n\r\n{"status":"Healthy"}'
        await h.clock.advance(100)
        await settle()
        assert h.running() == []

    house(test, tmp_path)


def test_an_idle_agent_is_not_woken_before_its_deadline(tmp_path):
    async def test(h):
        claimed = await h.claim()
        await h.tell(protocol.Release(claimed.generation, 0.0))
        pings_at_start = h.backend.agents[claimed.generation].pings
        await h.clock.advance(55)
        assert h.backend.agents[claimed.generation].pings == pings_at_start

    house(test, tmp_path)


def test_a_worker_that_dies_releases_what_it_claimed_and_nothing_of_others(tmp_path):
    async def test(h):
        other = Worker()
        mine, shared = await h.claim(), await h.claim(session="x" * 33)
        await h.claim(worker=other, session="x" * 33)
        h.warden.peer_gone(h.worker)
        claims = {info.generation: info.claims for info in h.running()}
        assert claims == {mine.generation: 0, shared.generation: 1}

    house(test, tmp_path)


def test_a_stopped_session_is_gone_when_the_answer_comes_and_the_same_id_starts_anew(tmp_path):
    async def test(h):
        first = await h.claim()
        await h.tell(protocol.StopSession(key()))
        assert not h.backend.made
        assert h.worker.told == [protocol.Ended(first.generation, EndReason.STOPPED)]
        assert (await h.claim()).generation > first.generation

    house(test, tmp_path)


def test_a_bound_session_is_known_as_such_to_all_who_hold_it_and_to_who_comes_later(tmp_path):
    async def test(h):
        claimed = await h.claim()
        other, later = Worker(), Worker()
        assert (await h.claim(worker=other)).agent_session is None
        other.answers.clear()
        bind = protocol.Bind(claimed.generation, "theirs")
        binding = asyncio.create_task(h.tell(bind))
        await settle()
        assert other.told == [protocol.Bound(claimed.generation, "theirs")]
        assert not binding.done(), "it is bound once everybody knows"
        other.answers.set()
        await binding
        assert h.worker.told == []
        assert (await h.claim(worker=later)).agent_session == "theirs"
        await h.tell(bind)
        with pytest.raises(errors.RetryableConflict):
            await h.tell(protocol.Bind(claimed.generation, "another"))
        with pytest.raises(errors.NotFound):
            await h.tell(bind, worker=Worker())

    house(test, tmp_path)


def test_a_bound_session_that_has_ended_is_not_resumed_but_begun_anew(tmp_path):
    async def test(h):
        bound, _ = await h.claim(), await h.claim(session="u" * 33)
        await h.tell(protocol.Bind(bound.generation, "theirs"))
        for session in ("s" * 33, "u" * 33):
            await h.tell(protocol.StopSession(key(session=session)))
        with pytest.raises(errors.SessionEnded):
            await h.claim(resumes=True)
        assert (await h.claim(session="u" * 33, resumes=True)).started
        assert (await h.claim(session="n" * 33, resumes=True)).started, (
            "an id that nobody knows may be the client's own"
        )
        with pytest.raises(errors.SessionEnded):
            await h.claim(resumes=True)
        again = await h.claim()
        assert (again.started, again.agent_session) == (True, None)
        assert not (await h.claim(resumes=True)).started

    house(test, tmp_path)


def test_the_next_warden_knows_which_sessions_were_bound_however_the_last_one_ended(tmp_path):
    async def before(h):
        claimed = await h.claim()
        await h.tell(protocol.Bind(claimed.generation, "theirs"))
        h.logs.aclose()  # as after a kill: how the session ended is not recorded

    async def after(h):
        with pytest.raises(errors.SessionEnded):
            await h.claim(resumes=True)
        assert (await h.claim()).started

    house(before, tmp_path)
    house(after, tmp_path)


def test_stopping_what_does_not_run_answers_not_found(tmp_path):
    async def test(h):
        with pytest.raises(errors.NotFound):
            await h.tell(protocol.StopSession(key()))

    house(test, tmp_path)


def test_stopping_a_session_that_is_being_started_is_a_retryable_conflict(tmp_path):
    async def test(h):
        h.backend.gate.clear()
        claim = asyncio.create_task(h.claim())
        await settle()
        with pytest.raises(errors.RetryableConflict):
            await h.tell(protocol.StopSession(key()))
        h.backend.gate.set()
        await claim

    house(test, tmp_path)


def test_a_claim_that_meets_a_session_ending_waits_for_the_end_and_starts_the_next(tmp_path):
    async def test(h):
        first = await h.claim()
        stop = asyncio.create_task(h.tell(protocol.StopSession(key())))
        await asyncio.sleep(0)
        second = await h.claim()
        await stop
        assert second.started
        assert second.generation > first.generation

    house(test, tmp_path)


def test_an_agent_that_dies_at_start_fails_every_waiting_claim_with_its_exit_code_and_last_output(tmp_path):
    async def test(h):
        h.backend.crash_at_start = True
        answers = await asyncio.gather(*(h.claim() for _ in range(3)), return_exceptions=True)
        assert {type(a) for a in answers} == {errors.StartFailed}
        assert all(a.exit_code == 3 and "Traceback: it broke" in a.message for a in answers)
        h.backend.crash_at_start = False
        await settle()
        assert (await h.claim()).started

    house(test, tmp_path)


def test_an_agent_that_never_gets_healthy_fails_at_the_start_timeout(tmp_path):
    async def test(h):
        h.backend.gate.clear()
        claim = asyncio.create_task(h.claim())
        await settle()
        h.backend.gate.set()
        while not h.backend.agents:
            await asyncio.sleep(0)
        next(iter(h.backend.agents.values())).ping_answer = b"HTTP/1.0 503 Busy\r\n\r\n"
        with pytest.raises(errors.StartFailed, match="initialization time exceeded"):
            await claim

    house(test, tmp_path, start_timeout_s=0.2)


@pytest.mark.parametrize("spoken", [ServerProtocol.MCP, ServerProtocol.A2A])
def test_an_mcp_or_a2a_server_without_ping_is_ready_as_soon_as_its_port_answers_http(tmp_path, spoken):
    async def test(h):
        h.launches[1] = dataclasses.replace(LAUNCH, protocol=spoken)
        h.backend.ping_answer = b"HTTP/1.0 404 Not Found\r\n\r\n"
        assert (await h.claim()).started

    house(test, tmp_path, start_timeout_s=5)


def test_an_agent_that_exits_ends_its_session_at_once(tmp_path):
    async def test(h):
        claimed = await h.claim()
        h.backend.agents[claimed.generation].exit.set_result(Exit(code=None, signal=9))
        await settle()
        assert h.worker.told == [protocol.Ended(claimed.generation, EndReason.AGENT_EXITED)]
        assert (await h.claim()).started

    house(test, tmp_path)


def test_a_claim_that_meets_an_agent_in_its_last_moment_gets_a_new_session(tmp_path):
    async def test(h):
        first = await h.claim()
        agent = h.backend.agents[first.generation]
        agent.refuses = True
        claim = asyncio.create_task(h.claim(sockets=1))
        await settle()
        assert not claim.done()
        agent.exit.set_result(Exit(code=0, signal=None))
        second = await claim
        assert second.started
        assert second.generation > first.generation

    house(test, tmp_path)


def test_an_agent_that_lives_and_refuses_connections_has_failed(tmp_path):
    async def test(h):
        first = await h.claim()
        h.backend.agents[first.generation].refuses = True
        with pytest.raises(errors.AgentFailed, match="does not accept connections"):
            await h.claim(sockets=1)

    house(test, tmp_path)


def test_more_sockets_are_for_the_worker_that_has_claimed_the_generation(tmp_path):
    async def test(h):
        claimed = await h.claim()
        _, fds = await h.tell(protocol.Dial(claimed.generation, 2))
        assert len(fds) == 2
        for fd in fds:
            os.close(fd)
        with pytest.raises(errors.NotFound):
            await h.tell(protocol.Dial(claimed.generation), worker=Worker())
        with pytest.raises(errors.NotFound):
            await h.tell(protocol.Dial(claimed.generation + 1))

    house(test, tmp_path)


def test_sessions_beyond_the_bound_answer_quota_exceeded_and_running_ones_go_on(tmp_path):
    async def test(h):
        for n in range(2):
            await h.claim(session=f"{n}" * 33)
        with pytest.raises(errors.QuotaExceeded):
            await h.claim(session="2" * 33)
        assert not (await h.claim(session="0" * 33)).started

    house(test, tmp_path, max_sessions=2)


def test_no_more_sessions_start_at_once_than_allowed(tmp_path):
    async def test(h):
        await asyncio.gather(*(h.claim(session=f"{n}" * 33) for n in range(9)))
        assert h.backend.most_at_once <= 2

    house(test, tmp_path, max_concurrent_starts=2)


def test_deleting_a_runtime_ends_all_its_sessions_even_one_being_started(tmp_path):
    async def test(h):
        await h.claim()
        await h.claim(session="b" * 33)
        h.backend.gate.clear()
        starting = asyncio.create_task(h.claim(session="c" * 33))
        await settle()
        deleting = asyncio.create_task(h.tell(protocol.StopRuntime("000000000000", "agent-0123456789")))
        await settle()
        h.backend.gate.set()
        await deleting
        assert h.running() == []
        assert not h.backend.made
        with pytest.raises(errors.RetryableConflict):
            await starting

    house(test, tmp_path)


def test_after_a_runtime_is_deleted_its_launch_is_asked_for_again(tmp_path):
    async def test(h):
        await h.claim()
        await h.tell(protocol.StopRuntime("000000000000", "agent-0123456789"))
        h.launches.clear()
        with pytest.raises(errors.NotFound):
            await h.claim()

    house(test, tmp_path)


def test_the_journal_remembers_exactly_the_sessions_that_may_have_left_something(tmp_path):
    async def test(h):
        first, second = await h.claim(), await h.claim(session="b" * 33)
        assert [ref.generation for ref in h.journal.leftover()] == [first.generation, second.generation]
        assert h.journal.leftover()[0].data == {"step": "process"}
        await h.tell(protocol.StopSession(key()))
        assert [ref.generation for ref in h.journal.leftover()] == [second.generation]
        h.backend.fail_stop = True
        await h.tell(protocol.StopSession(key(session="b" * 33)))
        assert [ref.generation for ref in h.journal.leftover()] == [second.generation]

    house(test, tmp_path)


def test_generations_never_repeat_across_restarts(tmp_path):
    seen = [Journal(tmp_path / "journal").next_generation() for _ in range(5)]
    assert seen == sorted(set(seen))


def test_a_session_list_has_pages(tmp_path):
    async def test(h):
        generations = [(await h.claim(session=f"{n}" * 33)).generation for n in range(5)]
        page = await h.tell(protocol.ListSessions(after=generations[1], limit=2))
        assert [info.generation for info in page.sessions] == generations[2:4]
        assert {info.state for info in page.sessions} == {SessionState.READY}

    house(test, tmp_path)


def test_an_operator_ends_a_session_also_while_it_starts_and_finds_out_why_it_ended(tmp_path):
    async def test(h):
        serving = await h.claim()
        h.backend.gate.clear()
        starting = asyncio.create_task(h.claim(session="t" * 33))
        await settle()
        account = key().account
        (pending,) = set(h.warden._by_generation) - {serving.generation}
        for generation in (serving.generation, pending):
            stop = asyncio.create_task(h.tell(protocol.StopGeneration(account, generation)))
            await settle()
            h.backend.gate.set()
            await stop
            found = await h.tell(protocol.FindSession(account, generation))
            assert found.ended.reason is EndReason.OPERATOR
        with pytest.raises(errors.RetryableConflict):
            await starting
        page = await h.tell(protocol.ListEnded(account))
        assert [record.generation for record in page.sessions] == [pending, serving.generation]
        assert page.sessions[1].usage == Usage(cpu_s=1.5)

    house(test, tmp_path)


def test_another_account_neither_finds_nor_stops_a_session(tmp_path):
    async def test(h):
        claimed = await h.claim()
        for message in (protocol.FindSession, protocol.StopGeneration):
            with pytest.raises(errors.NotFound):
                await h.tell(message("9" * 12, claimed.generation))
        assert (await h.tell(protocol.ListSessions(account="9" * 12))).sessions == []
        assert len((await h.tell(protocol.ListSessions(account=key().account, with_usage=True))).sessions) == 1

    house(test, tmp_path)


def test_ended_sessions_are_remembered_by_the_next_warden_with_their_requests(tmp_path):
    async def first(h):
        claimed = await h.claim()
        await h.tell(protocol.Release(claimed.generation, 0.0, requests=7))

    async def second(h):
        (record,) = (await h.tell(protocol.ListEnded(key().account))).sessions
        assert (record.reason, record.requests) == (EndReason.SHUTDOWN, 7)
        assert record.ended_at >= record.started_at

    house(first, tmp_path)
    house(second, tmp_path)


def test_a_start_that_takes_too_long_names_the_port_the_agent_listens_on(tmp_path):
    async def test(h):
        h.backend.listens = frozenset({5000})
        h.warden._bounds = dataclasses.replace(h.warden._bounds, start_timeout_s=0.05)
        h.backend.refuse_dials = True
        with pytest.raises(errors.StartFailed, match="listens on port 5000, and HTTP agents must listen on port 8080"):
            await h.claim()

    house(test, tmp_path)
