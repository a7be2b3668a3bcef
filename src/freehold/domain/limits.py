"""Numbers of the service, each with its source.

Sources: BM = botocore's service model; DG = the AWS developer guide (page); ours = our own choice.
"""

from __future__ import annotations

from typing import Final

MAX_PAYLOAD_BYTES: Final = 100_000_000
"""Invoke payload. DG bedrock-agentcore-limits: 100 MB; BM: blob max 100000000."""

MIN_SESSION_ID_LENGTH: Final = 33
MAX_SESSION_ID_LENGTH: Final = 256
"""BM: runtimeSessionId 33-256."""

DEFAULT_IDLE_TIMEOUT_S: Final = 900
DEFAULT_MAX_LIFETIME_S: Final = 28_800
MIN_LIFECYCLE_S: Final = 60
MAX_LIFECYCLE_S: Final = 28_800
"""DG runtime-lifecycle-settings: microVM sessions, 60 to 28800; the model's larger bound is for instances."""

START_TIMEOUT_S: Final = 120
"""DG: /ping must be healthy within 120 s."""

SYNC_REQUEST_TIMEOUT_S: Final = 900
"""DG bedrock-agentcore-limits: a synchronous request takes 15 minutes at the most."""

STREAM_TIMEOUT_S: Final = 3600
"""DG bedrock-agentcore-limits: a stream takes 60 minutes at the most."""

MAX_CHUNK_BYTES: Final = 10_000_000
"""DG bedrock-agentcore-limits: a streaming chunk has at most 10 MB."""

WEB_SOCKET_FRAME_BYTES: Final = 64 * 1024
WEB_SOCKET_FRAMES_PER_S: Final = 250
"""DG bedrock-agentcore-limits: a frame of a WebSocket has 64 KB at the most, and a connection 250 a second."""

MAX_ENVIRONMENT_BYTES: Final = 4096
"""DG: environment variables, keys and values together, on platform version V1."""

MAX_ZIP_BYTES: Final = 250 * 1024 * 1024
MAX_UNZIPPED_BYTES: Final = 750 * 1024 * 1024
"""DG bedrock-agentcore-limits: 250 MB zipped, 750 MB unzipped."""

MAX_ZIP_ENTRIES: Final = 100_000
"""Ours: bounds the work of one archive."""

MAX_VERSIONS_PER_RUNTIME: Final = 1000
MAX_RUNTIMES: Final = 1000
"""DG bedrock-agentcore-limits; here they are defaults of settings."""

MAX_ENDPOINTS_PER_RUNTIME: Final = 10
"""DG bedrock-agentcore-limits; ours: beside DEFAULT."""

MAX_TAGS: Final = 50
"""BM: of one resource."""

MAX_VERSION_NUMBER: Final = 99_999
"""BM: version string [1-9][0-9]{0,4}."""

ALLOWED_HEADER_VALUE_BYTES: Final = 4096
"""DG runtime-header-allowlist: a forwarded header's value is at most 4 KB."""
