"""The measurements as a table, and how Freehold's compare with the others'."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("cpu_us", "CPU us/request"),
    ("requests_per_s", "requests/s"),
    ("p50_us", "p50 us @64"),
    ("p99_us", "p99 us @64"),
    ("single_p50_us", "p50 us @1"),
    ("single_p99_us", "p99 us @1"),
    ("single_cpu_us", "CPU us @1"),
    ("event_cpu_us", "us/event"),
    ("round_trip_cpu_us", "us/ws trip"),
    ("kb_per_idle_stream", "kB/idle stream"),
    ("upload_mb_per_s", "50 MB up MB/s"),
    ("chunked_upload_mb_per_s", "chunked MB/s"),
    ("download_mb_per_s", "down MB/s"),
    ("bulk_growth_kb", "growth kB"),
    ("base_pss_kb", "base kB"),
)
_WIDTH = 20


def text(told: dict[str, Any]) -> str:
    """One line for each figure, one column for each row of `told`: there are more figures than candidates."""
    rows: dict[str, dict[str, Any]] = told["rows"]
    lines = [" " * _WIDTH + "".join(f"{name:>{_WIDTH}}" for name in rows)]
    for column, title in COLUMNS:
        cells = [f"{_cell(row.get(column)):>{_WIDTH}}" for row in rows.values()]
        lines.append(f"{title:{_WIDTH}}" + "".join(cells))
    lines += [f"{name}: {row['missing']}" for name, row in rows.items() if "missing" in row]
    lines += [f"{name}: {ratio}" for name, ratio in told["ratios"].items()]
    return "\n".join(lines)


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the goals are about; those that can't be told are left out."""
    compared = {
        "jwt request / nginx": ("freehold+jwt", "nginx", "cpu_us"),
        "jwt request / nginx+token cache": ("freehold+jwt", "nginx+token cache", "cpu_us"),
        "jwt request / haproxy+jwt": ("freehold+jwt", "haproxy+jwt", "cpu_us"),
        "jwt request / envoy+jwt": ("freehold+jwt", "envoy+jwt", "cpu_us"),
        "sigv4 request / jwt request": ("freehold+sigv4", "freehold+jwt", "cpu_us"),
        "event / nginx": ("freehold+jwt", "nginx", "event_cpu_us"),
        "websocket round trip / nginx": ("freehold+jwt", "nginx", "round_trip_cpu_us"),
    }
    found: dict[str, float] = {}
    for title, (ours, theirs, figure) in compared.items():
        above, below = rows.get(ours, {}).get(figure), rows.get(theirs, {}).get(figure)
        if above and below:
            found[title] = round(above / below, 2)
    return found


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
