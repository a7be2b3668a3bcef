"""examples/http_notes as a running agent: its memory, its file, its stream."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import Agent, agent


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Agent]:
    with agent("http_notes", NOTES_DIR=str(tmp_path)) as started:
        yield started


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent("http_notes", NOTES_DIR=str(tmp_path_factory.mktemp("notes"))) as started:
        yield started


def ask(agent: Agent, prompt: Any) -> dict[str, Any]:
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 40}
    with contextlib.closing(agent.post({"prompt": prompt}, session)) as answer:
        assert answer.status == 200
        return json.loads(answer.read())


def test_notes_are_kept_in_memory_and_on_disk(running: Agent, tmp_path: Path):
    assert ask(running, "note buy milk")["kept"] == 1
    assert ask(running, "note buy more milk")["kept"] == 2
    told = ask(running, "notes")
    assert told["notes"] == ["buy milk", "buy more milk"]
    assert told["lost"] == 0
    assert told["session"] == "s" * 40
    assert (tmp_path / "notes.jsonl").exists()
    assert ask(running, "words")["words"] == {"buy": 2, "milk": 2, "more": 1}


def test_a_lost_file_is_noticed(running: Agent, tmp_path: Path):
    ask(running, "note one")
    (tmp_path / "notes.jsonl").unlink()
    assert ask(running, "notes")["lost"] == 1


def test_reading_streams_word_by_word(running: Agent):
    ask(running, "note a b c")
    assert list(running.events({"prompt": "read"})) == ["a", "b", "c"]


@pytest.mark.parametrize("prompt", ["dance", "note", "", None, 7, ["note x"]])
def test_what_it_does_not_know_is_answered_with_what_it_does(unchanged: Agent, prompt: Any):
    assert "note TEXT" in ask(unchanged, prompt)["help"]
    assert ask(unchanged, "notes")["notes"] == []
