"""The contract between an agent's code as a customer hands it in and the launch that is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain import limits
from freehold.domain.launch import Program


@dataclass(frozen=True, slots=True)
class S3Object:
    """Where a code zip lies, or another object of at most `max_bytes`."""

    bucket: str
    key: str
    version_id: str | None = None
    max_bytes: int = limits.MAX_ZIP_BYTES


@dataclass(frozen=True, slots=True)
class CodeArtifact:
    """agentRuntimeArtifact.codeConfiguration: a zip, a managed runtime, and what to start."""

    source: S3Object
    runtime: str
    """AgentManagedRuntimeType, such as PYTHON_3_11."""
    entry_point: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle that is ready to be started: unpacked, read-only, compiled."""

    digest: str
    code_dir: str
    program: Program


class ArtifactRejected(Exception):
    """The artifact can't be run. The message is for the customer: it becomes the version's failureReason."""
