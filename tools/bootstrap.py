"""Makes `.venv` from the locks, and starts programs in it. Run by `./dev` with the bare Python of the machine.

For: a machine with only Python, its pip configuration and its certificates. Not for: anything that could use a
package, since none is there yet. Invariant: what is installed is what `requirements/dev.txt` names, by hash; the
pip configuration says only where it is fetched from, and no address of it is ever printed.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
LOCK = ROOT / "requirements" / "dev.txt"
UV_LOCK = ROOT / "requirements" / "uv.txt"
PYPROJECT = ROOT / "pyproject.toml"
STAMP = VENV / ".freehold-setup"


class SetupFailed(Exception):
    """The environment can't be made. The message says what to do."""


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["setup"]:
                setup()
                return 0
            case ["exec", program, *rest]:
                setup()
                become(program, rest)
            case _:
                print("usage: bootstrap.py setup | exec PROGRAM [ARGUMENT ...]", file=sys.stderr)
                return 2
    except SetupFailed as problem:
        print(f"dev: {problem}", file=sys.stderr)
        return 1


def setup() -> None:
    """Bring `.venv` to what the locks say; nothing to do when it is there already. Raises SetupFailed."""
    TOOLS.mkdir(exist_ok=True)
    with _one_at_a_time():
        wanted = _fingerprint()
        if STAMP.is_file() and STAMP.read_bytes() == wanted and (VENV / "bin" / "freehold").is_file():
            compile_parts(ROOT, str(VENV / "bin" / "python"))
            return
        environment = uv_environment(os.environ, pip_configuration())
        uv = _bring_uv()
        print("dev: installing the locked requirements into .venv", file=sys.stderr)
        if not (VENV / "bin" / "python").exists() or not _same_python():
            run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)], environment)
        STAMP.unlink(missing_ok=True)
        pip = [uv, "pip", "--quiet"]
        at = ["--python", str(VENV / "bin" / "python")]
        run([*pip, "sync", *at, "--require-hashes", str(LOCK)], environment)
        compile_parts(ROOT, str(VENV / "bin" / "python"))
        # The build backend is in the lock, so that nothing unlocked is fetched for the build.
        run([*pip, "install", *at, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], environment)
        STAMP.write_bytes(wanted)


def compile_parts(root: Path, python: str) -> None:
    """Compile in place what is written for Cython, where that is possible; costs nothing when it has been done."""
    spec = importlib.util.spec_from_file_location("extensions", ROOT / "tools" / "extensions.py")
    assert spec is not None
    assert spec.loader is not None
    extensions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extensions)
    try:
        extensions.refresh(root, python=python, environment=os.environ)
    except extensions.NotCompiled as reason:
        print(f"dev: {reason}", file=sys.stderr)
    except extensions.CompilationFailed as problem:
        raise SetupFailed(str(problem)) from None


def become(program: str, arguments: list[str]) -> NoReturn:
    """Replace this process by a program of `.venv/bin`."""
    environment = program_environment(os.environ, pip_configuration())
    os.chdir(ROOT)
    path = str(VENV / "bin" / program)
    os.execve(path, [path, *arguments], environment)


def program_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """That of the programs of `.venv`, in which they find each other."""
    told = uv_environment(environment, pip)
    told["PATH"] = f"{VENV / 'bin'}{os.pathsep}{told.get('PATH', os.defpath)}"
    told["VIRTUAL_ENV"] = str(VENV)
    # In `.venv` nothing is compiled yet, and Python would do it again at each of the many starts of a test run.
    told.pop("PYTHONDONTWRITEBYTECODE", None)
    return told


# -- uv -----------------------------------------------------------------------------------------------------------


def _bring_uv() -> str:
    """The path of the locked uv, installed with pip into a directory of its own when it isn't there."""
    lock = UV_LOCK.read_bytes()
    home = TOOLS / "uv"
    stamp = home / "lock"
    binary = home / "bin" / "uv"
    if binary.is_file() and stamp.is_file() and stamp.read_bytes() == lock:
        return str(binary)
    shutil.rmtree(home, ignore_errors=True)
    locked = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", str(UV_LOCK)]
    environment = dict(os.environ) | {"PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    if _has("venv") and _has("ensurepip"):
        run([sys.executable, "-I", "-m", "venv", str(home)], environment)
        run([str(home / "bin" / "python"), "-m", "pip", "install", *locked], environment)
    elif _has("pip"):
        run([sys.executable, "-m", "pip", "install", "--target", str(home), *locked], environment)
    else:
        raise SetupFailed(
            f"{sys.executable} has neither ensurepip nor pip (on Debian and Ubuntu: apt install python3-venv)"
        )
    stamp.write_bytes(lock)
    return str(binary)


def pip_configuration() -> dict[str, str]:
    """pip's settings from its files and its environment, by their bare names: {"index-url": ...}."""
    settings: dict[str, str] = {}
    if _has("pip"):
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
        listed = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if listed.returncode == 0:
            settings = parse_pip_configuration(listed.stdout)
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def parse_pip_configuration(listing: str) -> dict[str, str]:
    """What `pip config list` printed. Later and more particular sections win: global, install, the environment."""
    ranks = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, separator, quoted = line.partition("=")
        section, dot, name = key.partition(".")
        if not separator or not dot or section not in ranks:
            continue
        try:
            value = ast.literal_eval(quoted)
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, str) and found.get(name, (-1, ""))[0] <= ranks[section]:
            found[name] = (ranks[section], value)
    return {name: value for name, (_, value) in found.items()}


def uv_environment(environment: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """`environment` with pip's settings in uv's words: uv does not read them itself. What names uv itself stays."""
    told: dict[str, str] = {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "true", "UV_NO_PROGRESS": "true"}
    if index := pip.get("index-url"):
        told["UV_DEFAULT_INDEX"] = index
    if extra := pip.get("extra-index-url"):
        told["UV_INDEX"] = " ".join(extra.split())
        # pip looks for the best version in all of its indexes; uv would stop at the first that knows the name.
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if links := pip.get("find-links"):
        told["UV_FIND_LINKS"] = ",".join(links.split())
    if hosts := pip.get("trusted-host"):
        told["UV_INSECURE_HOST"] = " ".join(hosts.split())
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        told["UV_NO_INDEX"] = "true"
    if certificates := pip.get("cert"):
        told["SSL_CERT_FILE"] = certificates
    if proxy := pip.get("proxy"):
        told["ALL_PROXY"] = proxy
    if timeout := pip.get("timeout") or pip.get("default-timeout"):
        told["UV_HTTP_TIMEOUT"] = timeout
    if environment.get("UV_INDEX_URL") or environment.get("UV_EXTRA_INDEX_URL") or environment.get("UV_INDEX"):
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY"):
            told.pop(name, None)
    kept = {name: value for name, value in environment.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    return told | kept


# -- parts --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_at_a_time() -> Generator[None]:
    with (TOOLS / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fingerprint() -> bytes:
    """All that the environment is made from. It holds absolute paths, so it does not survive a move."""
    head = f"{ROOT}\n{os.path.realpath(sys.executable)}\n{sys.version}\n".encode()
    return head + PYPROJECT.read_bytes() + LOCK.read_bytes()


def _same_python() -> bool:
    code = "import sys; print(sys.version)"
    found = subprocess.run([str(VENV / "bin" / "python"), "-c", code], check=False, capture_output=True, text=True)
    return found.returncode == 0 and found.stdout.strip() == sys.version.strip()


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def run(command: list[str], environment: Mapping[str, str]) -> None:
    """Raises SetupFailed, which names the program only: arguments may hold an index's password."""
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        named = Path(command[0]).name
        raise SetupFailed(f"{named} failed with status {done.returncode}; what it says is above")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
