"""The short way of requests, compiled: with any bytes it does what its form in Python does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import compiled_forms
import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_way import ANSWER, TRACED, USUAL, World, alike, same

Worlds = Callable[..., tuple[World, World]]


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    """The same twice: compiled, and in Python."""
    forms = [compiled_forms.of(name) for name in compiled_forms.FORMS]

    def make(**options: Any) -> tuple[World, World]:
        made = [World(form, **options) for form in forms]
        return made[0], made[1]

    return make


@pytest.fixture(scope="module")
def pair(worlds: Worlds) -> tuple[World, World]:
    return worlds()


SPLICES = st.tuples(
    st.integers(0, len(TRACED)),
    st.integers(0, 3),
    st.binary(max_size=3)
    | st.sampled_from([b"\r\n", b"\n", b": ", b" ", b"\t", b"\x00", b"\x7f", b"\xe9", b"0", b"+"]),
)
LINES = st.sampled_from(
    [
        (b"Connection: keep-alive", b"Connection: close"),
        (b"Connection: keep-alive", b"Connection: Keep-Alive"),
        (b"Connection: keep-alive", b"Connection: keep-alive "),
        (b"Connection: keep-alive", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 2", b"Content-Length: 02"),
        (b"Content-Length: 2", b"Content-Length: +2"),
        (b"Content-Length: 2", b"Content-Length: 3"),
        (b"Content-Length: 2", b"Content-Length: " + b"9" * 30),
        (b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        (b"Host: agents.example", b"Host: other.example"),
        (b"Host: agents.example", b"host: agents.example"),
        (b"Bearer good", b"Bearer other"),
        (b"Bearer good", b"Bearer bad"),
        (b"Bearer good", b"bearer good"),
        (b"User-Agent: me", b"User-Agent: you"),
        (b"User-Agent: me", b"User-Agent: \xff\t"),
        (b"User-Agent: me\r\n", b""),
        (b"Accept: */*\r\nContent-Type", b"Content-Type: a\r\nAccept"),
        (b"s" * 40, b"s" * 41),
        (b"s" * 40, b"t" * 40),
        (b"a" * 32, b"c" * 32),
        (b"-00\r\n", b"-01\r\n"),
        (b"00-aaaa", b"x" * 300),
        (b"00-aaaa", b"\xe9"),
        (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"),
        (b"DEFAULT", b"other"),
    ]
)


@given(st.sampled_from([USUAL, TRACED]), st.lists(SPLICES, max_size=2), st.lists(LINES, max_size=2))
def test_whatever_a_client_sends(
    pair: tuple[World, World], sent: bytes, splices: list[tuple[int, int, bytes]], lines: list[tuple[bytes, bytes]]
) -> None:
    for old, new in lines:
        sent = sent.replace(old, new, 1)
    for at, removed, put in splices:
        sent = sent[:at] + put + sent[at + removed :]
    same(pair, sent)


@given(
    SPLICES,
    st.sampled_from([(b"", b""), (b"text", b"Text"), (b"5\r\n", b"05\r\n"), (b"200", b"201"), (b"\r\nC", b"\nC")]),
)
def test_whatever_an_agent_answers(
    pair: tuple[World, World], splice: tuple[int, int, bytes], replaced: tuple[bytes, bytes]
) -> None:
    at, removed, put = splice
    answer = ANSWER.replace(*replaced)
    assert same(pair, USUAL, answer[:at] + put + answer[at + removed :])[0], "the request itself is taken"


@pytest.mark.parametrize("sent", [USUAL, TRACED])
def test_what_is_usual_is_taken_and_told_in_the_log(pair: tuple[World, World], sent: bytes) -> None:
    for _ in range(3):
        taken, requests, _, _, widened, answered, answers, *_, lines, _ = same(pair, sent)
        assert (taken, answered, widened, len(requests), len(answers), len(lines)) == (True, True, [], 1, 1, 1)
        assert requests[0].endswith(b"\r\n\r\n{}")
        assert answers[0].endswith(b"\r\n\r\nhello")
        assert b'"bytes_in":2,"bytes_out":5,' in lines[0]


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 9.99e-4, 0.001, 0.0101, 0.1, 1.0, 12.345678, 900.5])
def test_durations_are_told_in_the_same_figures(pair: tuple[World, World], seconds: float) -> None:
    compiled, python = pair
    assert compiled.sends(USUAL)[0]
    assert python.sends(USUAL)[0]
    for world in pair:
        world.now += seconds
        world.wall += seconds + 0.000001
    assert compiled.answers(ANSWER) == python.answers(ANSWER)


def test_a_span_that_is_sampled_is_no_passage(worlds: Worlds) -> None:
    found = same(worlds(ratio=0.9), USUAL)
    assert (found[0], len(found[4])) == (True, 1)


def test_a_trace_that_is_not_sampled_says_so_to_the_agent(worlds: Worlds) -> None:
    found = same(worlds(ratio=0.1), USUAL)
    assert b";Sampled=0\r\n" in found[1][0]
    assert found[4] == []


def test_a_token_is_asked_about_again_when_its_verdict_or_its_keys_are_old(worlds: Worlds) -> None:
    compiled, _ = pair = worlds()
    for _ in range(2):
        assert same(pair, USUAL)[0]
    compiled.asked.clear()
    for _ in range(3):
        assert same(pair, USUAL)[0]
    assert compiled.asked == []
    for world in pair:
        world.now += 60
    assert same(pair, USUAL)[0]
    assert len(compiled.asked) == 1
    for world in pair:
        world.keys = object()
    assert same(pair, USUAL)[0]
    assert len(compiled.asked) == 2
    for world in pair:
        world.keys, world.good = object(), {}
    assert not same(pair, USUAL)[0]


def test_a_token_of_another_user_finds_no_seat_however_often_it_is_sent(worlds: Worlds) -> None:
    pair = worlds()
    for sent in [USUAL, USUAL.replace(b"good", b"other"), USUAL, *[USUAL.replace(b"good", b"other")] * 2]:
        assert same(pair, sent)[0] is (sent == USUAL)


@pytest.mark.parametrize("what", ["draining", "ended", "changed", "no connection", "closed", "old", "unusable"])
def test_what_has_changed_since(worlds: Worlds, what: str) -> None:
    pair = worlds()
    assert same(pair, USUAL)[0]
    taken: list[Any] = []
    for world in pair:
        world.draining = what == "draining"
        if what == "ended":
            world.claim.ended = "it ended"
        if what == "changed":
            world.target.standing.current = False
        world.age = {"closed": (0.0, True, True), "old": (5.0, False, True), "unusable": (5.0, False, False)}.get(what)
        world.has_connection = what != "no connection"
        taken.append(world.sends(USUAL))
    assert taken[0] == taken[1]
    assert taken[0][0] is (what not in ("draining", "ended", "changed"))
    waits = any(told[0] == "waits" for told in taken[0][-1])
    assert waits is (what in ("no connection", "closed", "unusable"))


def test_what_was_known_of_first_lines_may_be_forgotten_and_learnt_anew(worlds: Worlds) -> None:
    compiled, _ = pair = worlds()
    for _ in range(2):
        assert same(pair, USUAL)[0]
    for world in pair:
        world.reader.first_lines.clear()
        world.begin_again()
    for _ in range(2):
        assert same(pair, USUAL)[0]
    compiled.asked.clear()
    assert same(pair, USUAL)[0]
    assert compiled.asked == [], "it went the compiled way"


def test_an_answer_while_the_worker_drains_is_an_exchanges(worlds: Worlds) -> None:
    compiled, python = pair = worlds()
    for world in pair:
        assert world.sends(USUAL)[0]
        world.draining = True
    found = compiled.answers(ANSWER)
    assert found == python.answers(ANSWER)
    assert (found[0], len(found[5])) == (False, 1)


# -- requests of one session at once: the form in Python dials -------------------------------------------------------


@pytest.fixture
def meeting() -> World:
    """A worker with a session whose only connection has a request under way; its agent answers whole and at once."""
    world = World(compiled_forms.of("compiled"))
    assert world.sends(USUAL)[0]
    world.answers(ANSWER)
    assert world.sends(USUAL)[0]
    world.has_connection = False
    return world


def test_a_request_takes_over_the_connection_of_another_that_has_just_been_answered(meeting: World) -> None:
    agent, first = meeting.agent, meeting.client
    taken, *_, widened = meeting.sends(USUAL)
    assert (taken, widened, len(agent.transport.written)) == (True, [], 1)
    agent.transport.protocol.data_received(ANSWER)
    assert (len(first.wire.written), len(meeting.client.wire.written)) == (1, 0)
    assert alike(agent.transport.written[1]) == alike(agent.transport.written[0])
    agent.transport.protocol.data_received(ANSWER)
    assert alike(meeting.client.wire.written[0]) == alike(first.wire.written[0])
    assert (meeting.claim.in_flight, list(meeting.claim.idle)) == (0, [agent])
    assert meeting.passages.widened == []


def test_those_that_wait_are_served_in_the_order_in_which_they_came(meeting: World) -> None:
    agent, waiting = meeting.agent, []
    for _ in range(3):
        meeting.sends(USUAL)
        waiting.append(meeting.client)
    for served in range(4):
        agent.transport.protocol.data_received(ANSWER)
        assert [len(client.wire.written) for client in waiting] == [int(number < served) for number in range(3)]
    assert (meeting.claim.in_flight, meeting.claim.requests) == (0, 5)


def test_a_request_that_has_waited_for_a_moment_gets_a_connection_of_its_own(meeting: World) -> None:
    agent = meeting.agent
    meeting.sends(USUAL)
    for ticks in range(2):
        assert (len(meeting.later), meeting.passages.widened) == (1, []), ticks
        meeting.later.pop()()
    [(what, _, body, _)] = meeting.passages.widened
    assert (what, body, meeting.later) == ("dials", b"{}", [])
    agent.transport.protocol.data_received(ANSWER)
    assert (len(agent.transport.written), list(meeting.claim.idle)) == (1, [agent])


def test_a_request_whose_client_leaves_while_it_waits_goes_on_without_it(meeting: World) -> None:
    agent = meeting.agent
    meeting.sends(USUAL)
    passage = meeting.client.passage
    assert passage is not None
    passage.widen()  # as the connection does that is lost
    assert [told[0] for told in meeting.passages.widened] == ["dials"]
    agent.transport.protocol.data_received(ANSWER)
    assert len(agent.transport.written) == 1


def test_no_request_waits_for_an_agent_that_has_not_been_seen_to_answer_whole(worlds: Worlds) -> None:
    compiled, _ = worlds()
    assert compiled.sends(USUAL)[0]
    compiled.has_connection = False
    taken, *_, widened = compiled.sends(USUAL)
    assert (taken, [told[0] for told in widened], compiled.later) == (True, ["waits"], [])


def test_no_request_waits_for_a_session_that_has_nothing_under_way(meeting: World) -> None:
    meeting.agent.transport.protocol.data_received(ANSWER)
    _, *_, widened = meeting.sends(USUAL)
    assert ([told[0] for told in widened], meeting.later) == (["waits"], [])
