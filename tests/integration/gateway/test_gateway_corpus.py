"""The corpora against a real worker: requests of hostile clients, and answers of hostile agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import wire_corpus
from gateway_stage import Stage, echo, read_response, says, signed
from wire_corpus import TAIL, CorpusAnswer, CorpusRequest


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture(autouse=True)
def clean(stage: Stage) -> None:
    stage.agent = echo
    stage.warden.claims.clear()


@pytest.mark.parametrize("case", wire_corpus.requests(), ids=lambda case: case.name)
def test_a_request_has_one_reading_or_none(stage: Stage, case: CorpusRequest) -> None:
    data = case.data
    if case.signed_for is not None:
        lines, _, body = case.data.partition(b"\r\n\r\n")
        head = signed(body=case.signed_for, framed=False, session=wire_corpus.session(case.name))
        data = head.removesuffix(b"\r\n") + lines + b"\r\n\r\n" + body
    told = stage.exchange(data + TAIL).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    answers = wire_corpus.answers(told)
    assert [status for status, _ in answers] == ([case.status, 200] if case.kept else [case.status])
    if case.signed_for is not None and case.status == 200:
        assert answers[0][1] == case.signed_for
    else:
        assert stage.warden.claims == [], "nothing of it reached an agent"


@pytest.mark.parametrize("case", wire_corpus.agent_answers(), ids=lambda case: case.name)
def test_an_answer_has_one_reading_or_none(stage: Stage, case: CorpusAnswer) -> None:
    session = wire_corpus.session(case.name)
    stage.agent = says(case.data, close=case.closes)
    with stage.connect() as sock:
        sock.sendall(signed(session=session))
        told = wire_corpus.read_answer(sock)
        if not case.whole:
            assert not told.whole
            assert case.body.startswith(told.body)
            return
        assert (told.status, told.whole) == (case.status, True)
        if case.status == 200:
            assert told.body == case.body
        else:
            assert b"evil" not in told.body
            assert b'"message"' in told.body
        before = stage.connections
        stage.agent = echo
        sock.sendall(signed(body=b"the next one", session=session))
        if case.reused:
            # The agent's side of the connection is still what it was: it says the same again.
            assert wire_corpus.read_answer(sock) == told
        else:
            assert read_response(sock)[2] == b"the next one"
        assert (stage.connections == before) is case.reused
