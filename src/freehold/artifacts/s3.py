"""Reads objects of S3, or of what speaks like it, with the server's own identity and standard AWS configuration.

Not for deciding where a bucket is (`artifacts.places`) and not for writing. botocore's calls, its search for
credentials and name look-ups can't be interrupted, so a process of its own makes them (`s3_driver`), and is killed at
the deadline. Invariant: only buckets that the settings list are asked for, and no call outlasts its deadline.

Source: the S3 API reference (GetObject, error responses).
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import structlog

from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.source import Stopped, printable, too_large, uri
from freehold.domain.errors import QuotaExceeded, Unavailable

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
"""Until the next bytes arrive."""
CHECK_TIMEOUT_S: Final = 20.0
"""A caller waits for this."""
FETCH_TIMEOUT_S: Final = 180.0
MAX_PROCESSES: Final = 4
"""Objects that are read at once: each takes a process of some 60 MiB."""
_POLL_S: Final = 0.02
_MAX_REPORT_BYTES: Final = 64 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_KEY_REFUSED: Final = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTimeTooSkewed",
)
_ELSEWHERE: Final = ("PermanentRedirect", "301", "307", "TemporaryRedirect", "AuthorizationHeaderMalformed")

log = structlog.get_logger(__name__)


class S3:
    """Buckets that `allowed` names (patterns with `*` and `?`), as an `artifacts.source.Source`.

    `region` is used where the standard configuration names none. Blocking: for worker threads.
    """

    def __init__(
        self,
        allowed: Collection[str],
        *,
        region: str,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        check_timeout_s: float = CHECK_TIMEOUT_S,
        fetch_timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._allowed = tuple(allowed)
        self._region = region
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._check_timeout_s = check_timeout_s
        self._fetch_timeout_s = fetch_timeout_s
        self._processes = threading.BoundedSemaphore(MAX_PROCESSES)

    def check(self, source: S3Object) -> None:
        """Raise ArtifactRejected unless the object is there, can be read and is small enough; or Unavailable.

        Objects have no stamps: what S3 says of one may be of another the next moment.
        """
        self._ask(source, None, threading.Event(), self._check_timeout_s)

    def fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> None:
        """Download the object. Raises ArtifactRejected, Unavailable, QuotaExceeded (disk full), Stopped."""
        self._ask(source, copy, stop, self._fetch_timeout_s)

    def _ask(self, source: S3Object, copy: Path | None, stop: threading.Event, timeout_s: float) -> None:
        if not any(fnmatchcase(source.bucket, pattern) for pattern in self._allowed):
            raise ArtifactRejected(
                f"{uri(source)} may not be read: the bucket is neither one of this server's own nor listed in its "
                "setting artifacts.s3_buckets."
            )
        request = {
            "bucket": source.bucket,
            "key": source.key,
            "version_id": source.version_id,
            "copy": None if copy is None else str(copy),
            "max_bytes": source.max_bytes,
            "region": self._region,
            "connect_timeout_s": self._connect_timeout_s,
            "read_timeout_s": self._read_timeout_s,
        }
        deadline = time.monotonic() + timeout_s
        while not self._processes.acquire(timeout=_POLL_S):
            if stop.is_set():
                raise Stopped
            if time.monotonic() > deadline:
                raise Unavailable(f"{uri(source)} could not be read: too many objects are being read from S3.")
        try:
            report = _run(request, stop, deadline)
        finally:
            self._processes.release()
        if report is None:
            log.warning("s3.slow", object=uri(source), timeout_s=timeout_s)
            raise Unavailable(f"{uri(source)} could not be read within {timeout_s:g} s.")
        if "failure" in report:
            log.info("s3.refused", object=uri(source), **report)
            raise _failure(source, report)


def _run(request: dict[str, Any], stop: threading.Event, deadline: float) -> dict[str, Any] | None:
    """The driver's report, or None when time is up. Raises Stopped."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "freehold.artifacts.s3_driver", json.dumps(request)],
        stdin=subprocess.PIPE,  # held open while we live
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            said = _answer(process, stop, deadline)
        finally:
            process.kill()
    if said is None:
        return None
    out, err = said
    if process.returncode != 0:
        raise RuntimeError(f"the S3 driver ended with status {process.returncode}: {err.decode(errors='replace')}")
    return json.loads(out[:_MAX_REPORT_BYTES])


def _answer(process: subprocess.Popen[bytes], stop: threading.Event, deadline: float) -> tuple[bytes, bytes] | None:
    """Both outputs, once the process has ended; None when time is up. Raises Stopped."""
    assert process.stdout is not None
    assert process.stderr is not None
    # Its outputs are short: they fit into the pipes.
    while process.poll() is None:
        if stop.wait(_POLL_S):
            raise Stopped
        if time.monotonic() > deadline:
            return None
    return process.stdout.read(), process.stderr.read()


# -- reasons -------------------------------------------------------------------------------------------------------


def _failure(source: S3Object, report: dict[str, Any]) -> Exception:
    """What a report of failure means for the caller."""
    name = uri(source)
    match report["failure"]:
        case "answer":
            return _answered(source, str(report["code"]), report["status"])
        case "too_large":
            return too_large(source, report["size"])
        case "changed":
            return _changed(source)
        case "bad_name":
            return ArtifactRejected(f"{name} is no name that an S3 object can have.")
        case "no_credentials":
            return ArtifactRejected(
                f"{name} can't be read: the server has no AWS credentials. It looks for them as every AWS SDK does: "
                "environment, shared configuration files, instance metadata."
            )
        case "bad_configuration":
            return ArtifactRejected(
                f"{name} can't be read: the server's AWS configuration can't be used; its log says why."
            )
        case "damaged":
            return Unavailable(f"{name} could not be read: it arrived with another checksum than S3 has for it.")
        case "slow":
            return Unavailable(f"{name} could not be read: S3 did not answer in time.")
        case "os_error" if report["errno"] in _NO_ROOM:
            return QuotaExceeded("The server's disk is full")
        case "os_error" if report["errno"] is not None:
            return OSError(report["errno"], report["detail"])
        case _:
            return Unavailable(f"{name} could not be read: S3 can't be reached, or broke off.")


def _answered(source: S3Object, code: str, status: int | None) -> Exception:
    """What an error code of S3 means."""
    name = uri(source)
    version = "" if source.version_id is None else printable(source.version_id)
    if code == "NoSuchBucket":
        return ArtifactRejected(f"{name} does not exist in S3: there is no such bucket.")
    if code == "NoSuchVersion" or (version and code in ("MethodNotAllowed", "InvalidArgument")):
        return ArtifactRejected(f"{name} has no version {version} in S3.")
    if code in ("NoSuchKey", "MethodNotAllowed"):
        which = f"Version {version} of {name}" if version else name
        return ArtifactRejected(f"{which} does not exist in S3.")
    if code in ("PreconditionFailed", "412"):
        return _changed(source)
    if code in _KEY_REFUSED:
        return ArtifactRejected(f"{name} can't be read: S3 refuses the server's credentials ({code}).")
    if code in _ELSEWHERE:
        return ArtifactRejected(
            f"{name} is in another region than the server's AWS configuration says, and S3 did not say in which."
        )
    if code == "InvalidObjectState":
        return ArtifactRejected(f"{name} is archived. Restore it first.")
    if status == 403:
        return ArtifactRejected(
            f"{name} can't be read: access denied. The server's AWS identity needs s3:GetObject, for a versionId "
            "s3:GetObjectVersion, and kms:Decrypt where the object is encrypted with a key of its own. Without "
            "s3:ListBucket an object that does not exist is denied, too."
        )
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return ArtifactRejected(f"{name} can't be read: S3 answered {printable(code) or status}.")
    return Unavailable(f"{name} could not be read: S3 answered {printable(code) or status}.")


def _changed(source: S3Object) -> ArtifactRejected:
    return ArtifactRejected(
        f"{uri(source)} was changed while it was being read. Repeat the operation; a versionId names bytes that stay."
    )
