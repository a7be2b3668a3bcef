"""A plain HTTP agent that keeps notes: in memory and in a file, both of which live exactly as long as their session.

Asked with {"prompt": "..."}: "note TEXT" keeps a note, "notes" lists them, "words" counts the words of all notes,
"read" streams them word by word. Anything else is answered with what can be asked. Invariant: memory and file agree,
or the difference is told ("lost" counts notes that memory has and the file does not).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bedrock_agentcore.runtime import BedrockAgentCoreApp, RequestContext

NOTES_FILE = Path(os.environ.get("NOTES_DIR") or tempfile.gettempdir()) / "notes.jsonl"
PACE_S = float(os.environ.get("AGENT_PACE_S", "0.02"))
HELP = 'ask for "note TEXT", "notes", "words" or "read"'

app = BedrockAgentCoreApp()
remembered: list[str] = []
writing = threading.Lock()


@app.entrypoint
def answer(payload: Any, context: RequestContext) -> dict[str, Any] | AsyncIterator[str]:
    """One request. A dict is answered as JSON, an iterator as a stream of server-sent events."""
    prompt = payload.get("prompt") if isinstance(payload, dict) else None
    if not isinstance(prompt, str):
        return {"error": 'the payload must be {"prompt": "..."}', "help": HELP}
    command, _, text = prompt.strip().partition(" ")
    match command.lower(), text.strip():
        case "note", text if text:
            keep(text)
            return {"session": context.session_id, "process": os.getpid(), "kept": len(remembered)}
        case "notes", "":
            written = read_file()
            lost = sum((Counter(remembered) - Counter(written)).values())
            return {"session": context.session_id, "process": os.getpid(), "notes": written, "lost": lost}
        case "words", "":
            counts = Counter(word.casefold() for note in read_file() for word in note.split())
            return {"session": context.session_id, "words": dict(counts.most_common())}
        case "read", "":
            return words(read_file())
        case _:
            return {"error": f"I can't do {command!r}", "help": HELP}


def keep(text: str) -> None:
    """Remember a note and append it to the file. Requests of one session may come at the same time."""
    with writing:
        remembered.append(text)
        with NOTES_FILE.open("a") as file:
            file.write(json.dumps(text) + "\n")


def read_file() -> list[str]:
    if not NOTES_FILE.exists():
        return []
    return [json.loads(line) for line in NOTES_FILE.read_text().splitlines()]


async def words(notes: list[str]) -> AsyncIterator[str]:
    for note in notes:
        for word in note.split():
            yield word
            await asyncio.sleep(PACE_S)


if __name__ == "__main__":
    app.run()
