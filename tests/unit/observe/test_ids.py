"""Ids of requests and traces: their form, and that none comes twice."""

from __future__ import annotations

import uuid

from freehold.observe import ids

MANY = 5000
"""More than are drawn at once."""


def test_request_ids_are_random_uuids_and_none_comes_twice():
    made = [ids.request_id() for _ in range(MANY)]
    assert len(set(made)) == MANY
    assert {(parsed.version, str(parsed)) for parsed in map(uuid.UUID, made)} == {(4, text) for text in made}


def test_ids_of_traces_and_spans_have_their_lengths_and_none_comes_twice():
    places = [ids.place(0x5759E988) for _ in range(MANY)]
    traces = [trace for trace, _ in places]
    spans = [ids.span_id() for _ in range(MANY)] + [span for _, span in places]
    assert (len(set(spans)), len(set(traces))) == (2 * MANY, MANY)
    assert {(len(span), int(span, 16) < 1 << 64) for span in spans} == {(16, True)}
    assert {(len(trace), trace[:8]) for trace in traces} == {(32, "5759e988")}
