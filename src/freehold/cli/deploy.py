"""`freehold deploy`: a folder becomes a zip with its requirements, and the zip an agent runtime's next version."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uv
from rich.console import Console
from rich.status import Status

from freehold.cli.client import Clients
from freehold.cli.failures import DeployError

BUCKET = "freehold-deploy"
SKIPPED = {".git", ".hg", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store"}
COMPRESSED = (".gz", ".zip", ".whl", ".png", ".jpg", ".woff2")
"""Files that deflating makes no smaller, at the price of most of the time. botocore's models are more than half of the
packages of a usual agent."""
POLL_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    directory: Path
    name: str
    protocol: str
    entry_point: list[str]
    runtime: str
    environment: dict[str, str] = field(default_factory=dict[str, str])


def this_runtime() -> str:
    """The managed runtime that is the Python running this."""
    return f"PYTHON_3_{sys.version_info.minor}"


def read_environment(pairs: list[str]) -> dict[str, str]:
    environment: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise DeployError(f"--env takes KEY=VALUE, not {pair!r}")
        environment[key] = value
    return environment


def deploy(clients: Clients, wanted: Wanted, console: Console) -> None:
    """Pack, upload, create or update, and wait until READY. Raises DeployError, ClientError."""
    with console.status("Packing") as status:
        data = pack(wanted)
        digest = hashlib.sha256(data).hexdigest()
        key = f"{wanted.name}/{digest}.zip"
        status.update(f"Uploading {len(data) / 1e6:.1f} MB")
        clients.upload(f"/_freehold/v1/buckets/{BUCKET}/{key}", data, digest)
        existing = clients.runtime_named(wanted.name)
        arguments = _arguments(clients, wanted, key)
        if existing is None:
            made = clients.call(clients.control, "create_agent_runtime", agentRuntimeName=wanted.name, **arguments)
        else:
            made = clients.call(
                clients.control, "update_agent_runtime", agentRuntimeId=existing["agentRuntimeId"], **arguments
            )
        version = made["agentRuntimeVersion"]
        status.update(f"{wanted.name} version {version}: {made['status']}")
        runtime = _wait(clients, made["agentRuntimeId"], status)
    if runtime["status"] != "READY":
        raise DeployError(
            f"version {version} is {runtime['status']}: {runtime.get('failureReason', 'no reason given')}"
        )
    console.print(f"[green]{wanted.name}[/green] version {version} is READY")
    print(runtime["agentRuntimeArn"])


def _arguments(clients: Clients, wanted: Wanted, key: str) -> dict[str, Any]:
    return {
        "agentRuntimeArtifact": {
            "codeConfiguration": {
                "code": {"s3": {"bucket": BUCKET, "prefix": key}},
                "runtime": wanted.runtime,
                "entryPoint": wanted.entry_point,
            }
        },
        "roleArn": "arn:aws:iam::000000000000:role/freehold-agent",
        "networkConfiguration": {"networkMode": "PUBLIC"},
        "protocolConfiguration": {"serverProtocol": wanted.protocol},
        "environmentVariables": wanted.environment,
    }


def _wait(clients: Clients, runtime_id: str, progress: Status) -> dict[str, Any]:
    while True:
        runtime = clients.call(clients.control, "get_agent_runtime", agentRuntimeId=runtime_id)
        if runtime["status"] not in ("CREATING", "UPDATING"):
            return runtime
        progress.update(f"{runtime['agentRuntimeName']}: {runtime['status']}")
        time.sleep(POLL_INTERVAL_S)


# -- packing -------------------------------------------------------------------------------------------------------


def pack(wanted: Wanted) -> bytes:
    """The zip of a folder and of what its requirements.txt names, for this host. The same input, the same bytes."""
    with tempfile.TemporaryDirectory(prefix="freehold-pack-") as temporary:
        packages = Path(temporary)
        requirements = wanted.directory / "requirements.txt"
        if requirements.is_file():
            _install(requirements, packages, wanted.runtime)
        files = dict(_files(packages)) | dict(_files(wanted.directory))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = (0o755 if os.access(files[name], os.X_OK) else 0o644) << 16
                entry.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
                archive.writestr(entry, files[name].read_bytes())
        return buffer.getvalue()


def _install(requirements: Path, target: Path, runtime: str) -> None:
    """Install for the interpreter that will run the agent: wheels differ between Python versions."""
    version = runtime.removeprefix("PYTHON_").replace("_", ".")
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--target", str(target), "--link-mode", "copy"]
    command += ["--python", sys.executable if runtime == this_runtime() else version, "-r", str(requirements)]
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise DeployError(f"the requirements can't be installed:\n{done.stderr.strip()}")


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(name for name in subdirectories if name not in SKIPPED)
        for name in names:
            path = Path(directory, name)
            if name not in SKIPPED and path.is_file():
                yield path.relative_to(root).as_posix(), path
