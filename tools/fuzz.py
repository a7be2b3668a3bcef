"""`./dev soak --fuzz`: coverage-guided fuzzing of what reads bytes from clients and agents.

The targets, with the second readers that judge them, are tests/support/fuzz_targets.py; atheris, which is libFuzzer
with an eye on Python's branches, is installed into .tools/fuzz from its lock. Inputs that reach something new are kept
in tests/data/fuzz, and the suite replays them. A finding is printed, and ends its target with status 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = ROOT / "tests" / "support"
HOME = ROOT / ".tools" / "fuzz"
LOCK = ROOT / "requirements" / "fuzz.txt"
MAX_KEPT = 600
"""Inputs of one target: the suite replays all of them."""
INSTRUMENTED = ["freehold.gateway", "h11", "websockets.frames", "fuzz_targets"]
WORDS = (
    "GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 204 No Content\r\n", "HTTP/1.0",
    "HTTP/1.1 100 Continue\r\n\r\n", "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Expect: 100-continue\r\n",
    "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n", "Host: a\r\n",
    "Upgrade: h2c\r\n", "0\r\n\r\n", "5\r\nhello\r\n", "5;a=b\r\n", "\r\n\r\n", "\r\n", "\n", "\r", "\0", ": ",
    "\t", ";", ",", '="', "0x",
)  # fmt: skip
"""What libFuzzer can't see for itself, since patterns are compared inside `re`."""


def main(minutes: float, at_once: int, only: str | None) -> int:
    """Fuzz every target, or one, for `minutes`, `at_once` of them at a time; the status."""
    install()
    targets = [target for target in _targets() if only in (None, target)]
    failed: list[str] = []
    for start in range(0, len(targets), at_once):
        with tempfile.TemporaryDirectory(prefix="freehold-fuzz-") as directory:
            running = {
                target: _spawn(target, Path(directory) / target, minutes * 60)
                for target in targets[start : start + at_once]
            }
            for target, process in running.items():
                if process.wait() != 0:
                    failed.append(target)
                _keep(target, Path(directory) / target)
    print(f"fuzz: {len(targets)} targets, {'findings in ' + ', '.join(failed) if failed else 'no finding'}")
    return 1 if failed else 0


def install() -> None:
    """Bring .tools/fuzz to what its lock says."""
    import uv

    stamp = HOME / "lock"
    if stamp.is_file() and stamp.read_bytes() == LOCK.read_bytes():
        return
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(HOME)]
    if subprocess.run([*command, "--require-hashes", "-r", str(LOCK)], check=False).returncode != 0:
        raise SystemExit("fuzz: atheris can't be installed: it has wheels for CPython 3.11 to 3.14 on Linux and macOS")
    stamp.write_bytes(LOCK.read_bytes())


def _targets() -> list[str]:
    sys.path.insert(0, str(SUPPORT))
    import fuzz_targets  # pyright: ignore[reportMissingImports]

    return list(fuzz_targets.TARGETS)


def _spawn(target: str, directory: Path, seconds: float) -> subprocess.Popen[bytes]:
    import fuzz_targets  # pyright: ignore[reportMissingImports]

    directory.mkdir()
    for number, data in enumerate([*fuzz_targets.seeds(target), *fuzz_targets.load(target)]):
        (directory / f"{number:05}").write_bytes(data)
    environment = dict(os.environ) | {"PYTHONPATH": f"{HOME}{os.pathsep}{SUPPORT}"}
    command = [sys.executable, "-m", "tools.fuzz", target, str(directory), str(int(seconds))]
    return subprocess.Popen(command, env=environment, cwd=ROOT)


def _keep(target: str, directory: Path) -> None:
    """Findings, and what libFuzzer has left in its corpus: it reaches something that nothing smaller reaches."""
    import fuzz_targets  # pyright: ignore[reportMissingImports]

    found = sorted((path.read_bytes() for path in directory.iterdir()), key=lambda data: (len(data), data))
    kept = set(fuzz_targets.load(target))
    findings = {path.read_bytes() for path in directory.parent.glob(f"{target}-finding-*")}
    new = [*findings, *(data for data in found if data not in kept)][: max(len(findings), MAX_KEPT - len(kept))]
    print(
        f"fuzz: {target}: {fuzz_targets.store(target, [*kept, *new])} inputs kept, {len(new)} of them new", flush=True
    )


def _dictionary(path: Path) -> Path:
    escaped = ["".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS]
    path.write_text("".join(f'"{word}"\n' for word in escaped))
    return path


def fuzz(target: str, directory: str, seconds: str) -> None:
    """The process of one target: ends by itself, with status 77 and the input after a finding."""
    import atheris  # pyright: ignore[reportMissingImports]

    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzz_targets  # pyright: ignore[reportMissingImports]
    judge = fuzz_targets.TARGETS[target]

    def one(data: bytes) -> None:
        try:
            judge(data)
        except BaseException:
            print(f"fuzz: {target}: finding: {data!r}", file=sys.stderr, flush=True)
            raise

    options = [f"-max_total_time={seconds}", f"-max_len={fuzz_targets.MAX_INPUT_BYTES}", "-reduce_inputs=1"]
    options += [
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-seed={time.time_ns() % 2**31}",
    ]
    options += [f"-artifact_prefix={directory}-finding-", f"-dict={_dictionary(Path(f'{directory}.dict'))}"]
    atheris.Setup([sys.argv[0], *options, directory], one)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(*sys.argv[1:])
