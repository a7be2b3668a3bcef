"""What a request costs between the client and the agent: Freehold's gateway beside other proxies, in one run.

Each has one processor to itself; the client and the agent (in C) have the other. Each gets the same requests. CPU time
is that of the proxy's processes, by the kernel's clock of them; medians of the rounds, which go by turns. Rates of the
fastest are bounded by the client's processor, so it is CPU per request that compares.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gateway import cores, memory, native, stage, table
from benchmarks.gateway.native import Native
from benchmarks.gateway.proxies import PROXIES, Candidate, Missing
from benchmarks.gateway.traffic import SESSIONS, Request, Traffic, download, upload, write

CONNECTIONS = 64
ROUNDS = 3
WARM_UP = 8
"""How often each session is used before what is measured, in no order: two requests of one session meet, too."""
SINGLE_SHARE = 8
"""One in so many of the requests of a round is sent again over a single connection."""
STREAMS, STREAMS_S = 100, 4.0
WEB_SOCKETS, ROUND_TRIPS = 256, 60_000
"""So many that none has more frames a second than the service allows; and that what a worker does meanwhile for
sessions that are not used any more, once in a round, is little beside them."""
IDLE_STREAMS = 1000

SIGNED = "freehold+sigv4"
BEARER = "freehold+jwt"


@dataclass
class Row:
    """What one candidate costs: every round's figures, by name."""

    candidate: Candidate
    signs: bool
    figures: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def note(self, **figures: float) -> None:
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)

    def told(self) -> dict[str, Any]:
        medians = {name: round(statistics.median(values), 1) for name, values in self.figures.items()}
        return ({"version": self.candidate.version} if self.candidate.version else {}) | medians


def measure(samples: int) -> dict[str, Any]:
    """`samples` requests in each round for each candidate."""
    traffic = Traffic(stage.JWT_RUNTIME, stage.SIGNED_RUNTIME)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freehold-gateway-")))
        built = native.build(directory)
        rows, missing = _rows(stack, built, traffic)
        bench = _Bench(built, directory, traffic, rows)
        for number in range(ROUNDS):
            bench.warm_up()
            bench.round(number, samples)
        bench.bulk()
        bench.idle()
        spread = {name: row.figures.get("cpu_us", []) for name, row in rows.items()}
        told: dict[str, Any] = {
            "conditions": {
                "processors": cores.told(),
                "interpreter": stage.described(stage.interpreter()),
                "gateway": stage.form(),
                "connections": CONNECTIONS,
                "rounds": ROUNDS,
                "requests_per_round": samples,
                "sessions": SESSIONS,
                "load_average": os.getloadavg()[0],
            },
            "rows": {name: row.told() for name, row in rows.items()} | missing,
            "cpu_us_of_rounds": {name: [round(v, 1) for v in values] for name, values in spread.items() if values},
        }
    told["ratios"] = table.ratios(told["rows"])
    print(table.text(told), file=sys.stderr)
    return told


def _rows(stack: contextlib.ExitStack, built: Native, traffic: Traffic) -> tuple[dict[str, Row], dict[str, Any]]:
    agent_port = stack.enter_context(built.agent_running())
    rows = {"direct": Row(Candidate(agent_port), False)}
    missing: dict[str, Any] = {}
    wanted = os.environ.get("BENCH_ONLY", "").split(",") if os.environ.get("BENCH_ONLY") else None
    for name, start in PROXIES.items():
        if wanted is not None and name not in wanted:
            continue
        try:
            rows[name] = Row(stack.enter_context(start(agent_port, traffic.issuer)), False)
        except Missing as reason:
            missing[name] = {"missing": str(reason)}
    for name, signs in ((BEARER, False), (SIGNED, True)):
        if wanted is not None and name not in wanted:
            continue
        rows[name] = Row(stack.enter_context(stage.freehold(agent_port, traffic.issuer)), signs)
    return rows, missing


class _Bench:
    """The measurements, each over all rows."""

    def __init__(self, built: Native, directory: Path, traffic: Traffic, rows: dict[str, Row]) -> None:
        self._native = built
        self._directory = directory
        self._traffic = traffic
        self._rows = rows
        self._known = (Path(), Path())

    def warm_up(self) -> None:
        """As many connections behind each as it takes, and whatever is made once is made."""
        # Made anew for each round: signatures are good for five minutes.
        users = list(range(SESSIONS)) * WARM_UP
        random.Random(WARM_UP).shuffle(users)
        self._known = self._both("known", lambda of: [of(user, b"{}") for user in users])
        for row in self._rows.values():
            self._use_every_session(row)

    def _use_every_session(self, row: Row) -> None:
        """So that what is measured next is sessions in use, and not their beginning."""
        self._run(row, "requests", self._known[row.signs], CONNECTIONS)

    def round(self, number: int, samples: int) -> None:
        single = max(1, samples // SINGLE_SHARE)
        made = [
            (self._file(f"bearers-{count}", self._traffic.with_tokens(count)),
             self._file(f"signers-{count}", self._traffic.signed_by_some(count)))
            for count in (samples, single)
        ]  # fmt: skip
        streams = self._both("streams", lambda of: self._traffic.streams(STREAMS, silent=False, of=of))
        sockets = self._file("sockets", [self._traffic.web_socket(user) for user in range(WEB_SOCKETS)])
        for row in _by_turns(self._rows, number):
            many, one = (files[row.signs] for files in made)
            self._use_every_session(row)
            told = self._run(row, "requests", many, CONNECTIONS)
            row.note(requests_per_s=told["done"] / told["seconds"], p50_us=told["p50_us"], p99_us=told["p99_us"])
            self._cost(row, "cpu_us", told)
            self._use_every_session(row)
            told = self._run(row, "requests", one, 1)
            row.note(single_p50_us=told["p50_us"], single_p99_us=told["p99_us"])
            self._cost(row, "single_cpu_us", told)
            told = self._run(row, "streams", streams[row.signs], STREAMS_S)
            row.note(event_p50_us=told["p50_us"], event_p99_us=told["p99_us"])
            self._cost(row, "event_cpu_us", told)
            if not row.signs:
                told = self._run(row, "websocket", sockets, ROUND_TRIPS)
                self._cost(row, "round_trip_cpu_us", told)

    def bulk(self) -> None:
        """Bodies of 50 MB, one at a time: how fast, and by how much memory grows at its peak."""
        uploads = self._both("upload", lambda of: [of(0, upload())])
        downloads = self._both("download", lambda of: [of(0, download())])
        chunked = self._file("chunked", [self._traffic.bearer(0, upload(), chunked=True)])
        for row in self._rows.values():
            kinds = {"upload": uploads[row.signs], "download": downloads[row.signs]}
            if not row.signs:
                kinds["chunked_upload"] = chunked
            growth = 0.0
            for kind, file in kinds.items():
                before = memory.watch_peak(row.candidate.pids)
                told = self._run(row, "bulk", file, 0)
                growth = max(growth, memory.peak_kb(row.candidate.pids) - before)
                row.note(**{f"{kind}_mb_per_s": told["bytes"] / told["seconds"] / 1e6})
            if row.candidate.pids:
                row.note(bulk_growth_kb=growth)

    def idle(self) -> None:
        """Memory of streams on which nothing comes."""
        streams = self._both("idle", lambda of: self._traffic.streams(IDLE_STREAMS, silent=True, of=of))
        for row in self._rows.values():
            if not row.candidate.pids:
                continue
            before = memory.pss_kb(row.candidate.pids)
            with self._native.held(row.candidate.port, streams[row.signs]):
                time.sleep(1.0)
                row.note(
                    kb_per_idle_stream=(memory.pss_kb(row.candidate.pids) - before) / IDLE_STREAMS, base_pss_kb=before
                )

    def _both(
        self, name: str, make: Callable[[Callable[[int, bytes], Request]], Iterable[Request]]
    ) -> tuple[Path, Path]:
        """Files of the same requests by token and by signature."""
        return (
            self._file(f"{name}-bearer", make(self._traffic.bearer)),
            self._file(f"{name}-signed", make(self._traffic.signed)),
        )

    def _file(self, name: str, requests: Iterable[Request]) -> Path:
        return write(self._directory / name, requests)

    def _run(self, row: Row, mode: str, file: Path, number: float) -> dict[str, Any]:
        return self._native.run(mode, row.candidate.port, row.candidate.pids, file, number)

    @staticmethod
    def _cost(row: Row, name: str, told: dict[str, Any]) -> None:
        if row.candidate.pids:
            row.note(**{name: told["cpu_us"] / told["done"]})


def _by_turns(rows: dict[str, Row], number: int) -> list[Row]:
    """Every other round goes backwards, so that what drifts meets all alike."""
    return list(rows.values())[:: 1 if number % 2 == 0 else -1]
