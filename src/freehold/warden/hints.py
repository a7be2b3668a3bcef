"""What a person can do about an agent that does not start: the commonest causes, as data.

For: the error that a failed start answers with. Not for deciding anything. Invariant: a hint is advice of ours, found
in what the agent printed; it quotes at most the one name that the agent's own message names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from freehold.domain.launch import LaunchSpec
from freehold.domain.runtimes import ServerProtocol

_NAME: Final = r"['\"]?([\w.@/+-]{1,100})['\"]?"


@dataclass(frozen=True, slots=True)
class Rule:
    """`advice` is for an agent whose output has `pattern`; `{0}` in it is the pattern's first group."""

    pattern: re.Pattern[str]
    advice: str


def _rule(pattern: str, advice: str) -> Rule:
    return Rule(re.compile(pattern), advice)


RULES: Final[tuple[Rule, ...]] = (
    _rule(
        r"wrong ELF class|invalid ELF header|cannot open shared object file: .*Exec format|Exec format error"
        r"|incompatible architecture|ERR_DLOPEN_FAILED",
        "the bundle has binaries for another CPU architecture than this host's: install its packages for this one, "
        "for example with 'uv pip install --python-platform' or 'freehold deploy' on this host",
    ),
    _rule(
        r"version `GLIBC(?:XX)?_[\d.]+' not found",
        "the bundle has binaries that need a newer C library than this host's: install its packages for an older "
        "platform, such as manylinux2014",
    ),
    _rule(
        rf"ImportError: {_NAME}: cannot open shared object file",
        "the system library {0} is not there: put it into the bundle, or use packages that bring their own",
    ),
    _rule(
        r"ModuleNotFoundError: No module named '(_\w+|[\w.]+\._\w+)'",
        "the compiled module {0} is missing or is for another Python version: install the packages with the Python "
        "version that the runtime names",
    ),
    _rule(
        rf"ModuleNotFoundError: No module named {_NAME}",
        "the module {0} is not in the bundle; a requirements.txt is not installed by the service: package the "
        "dependencies into the zip ('freehold deploy' does)",
    ),
    _rule(
        rf"(?:Error: Cannot find module|Cannot find package|ERR_MODULE_NOT_FOUND\S* Cannot find \w+) {_NAME}",
        "the module {0} is not in the bundle; a package.json is not installed by the service: package node_modules "
        "into the zip",
    ),
    _rule(
        r"(?:Address already in use|EADDRINUSE|address already in use)",
        "the agent binds its port twice: start one server in it, on the contract's port",
    ),
    _rule(
        r"(?:SyntaxError|IndentationError|TabError): ",
        "the code does not parse with the Python version that the runtime names: choose the version it was written "
        "for, or mend the line shown",
    ),
    _rule(
        r"ImportError: cannot import name '(\w{1,100})' from '(?:typing|collections|datetime|enum|asyncio)",
        "{0} is not in the standard library of the Python version that the runtime names: choose a newer one",
    ),
    _rule(
        r"NoCredentialsError|Unable to locate credentials|CredentialsProviderError|CredentialRetrievalError",
        "the agent finds no AWS credentials: give it some in its environmentVariables",
    ),
    _rule(
        r"NoRegionError|You must specify a region",
        "the agent clears AWS_REGION, which every session has: leave it in its environment",
    ),
    _rule(
        rf"KeyError: '([A-Z][A-Z0-9_]{{2,80}})'|(?:environment variable|env var) {_NAME}",
        "the agent wants the environment variable {0}: name it in environmentVariables",
    ),
    _rule(
        r"PermissionError: .*(?:/var/task|/app|Read-only)|Read-only file system|EROFS",
        "the agent writes where its code is, which is read-only: write below HOME or TMPDIR",
    ),
    _rule(
        r"MemoryError|JavaScript heap out of memory|Cannot allocate memory",
        "the agent ran out of memory: raise sandbox.memory_mib, or load less at import",
    ),
    _rule(
        r"can't start new thread|Resource temporarily unavailable",
        "the agent starts too many threads: raise sandbox.processes",
    ),
)

KILLED: Final = "it was killed, as by its memory limit: raise sandbox.memory_mib, or load less at import"
CLEAN_EXIT: Final = (
    "the entry point ran to its end and no server was left: it must serve port {port} until it is ended "
    "(with the SDK: app.run() at the end of the file)"
)
NOBODY_LISTENS: Final = "nothing listened on port {port}, where {protocol} agents must: serve 0.0.0.0:{port}"
WRONG_PORT: Final = (
    "the agent listens on port {found}, and {protocol} agents must listen on port {port}: change the port that its "
    "server binds"
)
PING: Final = 'the agent listens on port {port}, but GET /ping {said}: answer it with 200 and {{"status":"Healthy"}}'


def of_output(tail: str) -> str | None:
    """The advice on what an agent printed last. The cause nearest to the end wins: what came before was survived."""
    best: tuple[int, str] | None = None
    for rule in RULES:
        last = None
        for last in rule.pattern.finditer(tail):  # noqa: B007 - the last match is wanted
            pass
        if last is not None and (best is None or last.start() > best[0]):
            named = next((group for group in last.groups() if group), "")
            best = last.start(), rule.advice.replace("{0}", named)
    return None if best is None else best[1]


def of_exit(launch: LaunchSpec, *, code: int | None, signal: int | None, tail: str) -> str | None:
    """The advice on an agent that ended before it was ready."""
    told = of_output(tail)
    if told is not None:
        return told
    if signal == 9 or code == 137:
        return KILLED
    if code == 0:
        return CLEAN_EXIT.format(port=launch.port)
    return None


def of_silence(launch: LaunchSpec, *, listening: Collection[int], ping: str | None, tail: str) -> str | None:
    """The advice on an agent that lives and did not get ready in time.

    `listening` are the ports it listens on, as far as known; `ping` is how /ping was answered last, None when nobody
    took the connection.
    """
    if ping is not None:
        return PING.format(port=launch.port, said=ping)
    told = of_output(tail)
    if told is not None:
        return told
    protocol = _PROTOCOLS.get(launch.protocol, launch.protocol.value)
    others = sorted(set(listening) - {launch.port})
    if others:
        found = " and ".join(map(str, others[:3]))
        return WRONG_PORT.format(found=found, protocol=protocol, port=launch.port)
    return NOBODY_LISTENS.format(protocol=protocol, port=launch.port)


_PROTOCOLS: Final = {ServerProtocol.AGUI: "AG-UI"}
