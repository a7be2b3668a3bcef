"""Every bound of the data plane's wire, in one frozen object.

Not for the service's own numbers (`domain.limits`), which are its defaults here. Units are in the names.
"""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain import limits


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of one worker."""

    max_connections: int = 10_000
    max_payload_bytes: int = limits.MAX_PAYLOAD_BYTES
    memory_spool_bytes: int = 1 << 20
    """A body that is held goes to disk when it is larger than this,"""
    memory_spool_bytes_total: int = 64 << 20
    """or when all that are held in memory would be larger than this."""
    spool_bytes_per_key: int = 1 << 30
    """Bodies of one access key that are held at once, their signatures being right."""
    spool_bytes_total: int = 4 << 30
    """The same of all keys."""
    spool_unknown_bytes_per_source: int = 512 << 20
    """Bodies from one address that are held at once, their signatures not being checked yet."""
    spool_unknown_bytes_total: int = 2 << 30
    """The same of all addresses."""
    body_min_bytes_per_s: int = 1024
    """What a body that is held has to come at, on an average from its beginning,"""
    body_grace_s: float = 10.0
    """and for how long it need not."""
    max_small_body_bytes: int = 64 * 1024
    """Body of an operation that is not an invocation."""

    head_timeout_s: float = 10.0
    """From a head's first byte to its last."""
    keep_alive_timeout_s: float = 75.0
    body_progress_timeout_s: float = 30.0
    """Without a byte of a body that is being read or sent."""
    slow_reader_timeout_s: float = 60.0
    """For a client to take what its buffer holds."""
    linger_timeout_s: float = 30.0
    """How long the rest of a refused body is read and dropped, so that the client sees the answer."""

    first_byte_timeout_s: float = limits.SYNC_REQUEST_TIMEOUT_S
    stream_timeout_s: float = limits.STREAM_TIMEOUT_S
    max_chunk_bytes: int = limits.MAX_CHUNK_BYTES
    """One chunk of an agent's chunked answer."""
    runs_on: bool = False
    """Whether an agent that has the whole request goes on when its client has gone."""
    sse_keepalive_s: float = 0.0
    """After how long without a byte a stream of events gets a comment; 0: never."""
    web_socket_frame_bytes: int = limits.WEB_SOCKET_FRAME_BYTES
    """Payload of a client's frame. An agent's is not bounded: none is held, so none costs more than another."""
    web_socket_frames_per_s: float = limits.WEB_SOCKET_FRAMES_PER_S
    """Of a client, on average; as many at once. Fragments and control frames count, too."""
    web_socket_timeout_s: float = limits.STREAM_TIMEOUT_S
    """How long a connection may be open."""
    web_socket_handshake_timeout_s: float = 60.0
    """For the agent to answer a handshake."""
    web_socket_close_timeout_s: float = 5.0
    """From one side's Close frame to the end of the connection, and for an agent to close when the client has gone."""
    asks_to_enter: bool = False
    """Whether the warden is asked about each request: it holds sessions' and runtimes' limits, for all workers."""
    knows_resends: bool = False
    """Whether the warden is told what makes a request one that was sent before; wants asks_to_enter."""
    claim_linger_s: float = 5.0
    """How long a claim is kept after its last request."""
    claim_timeout_s: float = 4000.0
    """For the warden to answer a claim. Beyond any start timeout: it always answers, and a claim that was granted
    after we gave up would hold its session for ever."""
    away_timeout_s: float = 5.0
    """How long a request waits for the warden or control to come back."""
    control_answer_timeout_s: float = 120.0
    drain_timeout_s: float = 10.0
    """For requests under way when the worker stops."""
    retire_timeout_s: float = limits.STREAM_TIMEOUT_S
    """For requests under way when another worker has taken over."""
    max_idle_connections: int = 32
    """Of one session, kept for its next requests."""
    max_idle_control_connections: int = 16
