"""Where WebSocket frames begin and end, followed strictly over the raw bytes of one direction (RFC 6455 section 5).

For: relaying frames as they are, without putting messages together or touching a payload. Not for what messages say:
whether text is UTF-8 is for whoever reads it. Invariant: of a frame that is refused not one byte has been let
through, and how the bytes were cut into pieces changes neither what is let through nor what is refused.
"""

from __future__ import annotations

from typing import Final, NoReturn

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
"""In place of the code of a Close frame that has none; never sent."""
INVALID_DATA: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011

MAX_CONTROL_BYTES: Final = 125
_MAX_REASON_BYTES: Final = MAX_CONTROL_BYTES - 2
FIN: Final = 0x80
_RESERVED: Final = 0x70
_FIRST_CONTROL: Final = 0x8
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_BURST_S: Final = 1.0
_MOST_BYTES: Final = (1 << 63) - 1


class BadFrame(Exception):
    """A frame that must not pass, nor anything after it. `code` and `reason` are what its sender is closed with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.passed = b""
        """What came before the frame, and is to be let through."""


class FrameFollower:
    """Follows one direction of a connection."""

    __slots__ = (
        "_fragmented",
        "_held",
        "_left",
        "_mask_bit",
        "_most_header_bytes",
        "_stopped",
        "ahead_s",
        "between_messages",
        "close_code",
        "ending",
        "is_masked",
        "max_payload_bytes",
        "next_at",
        "pace_s",
    )

    def __init__(
        self, *, masked: bool, max_payload_bytes: int | None = None, max_frames_per_s: float | None = None
    ) -> None:
        """`masked`: whether this is the direction to the server, whose frames all are masked.

        `max_frames_per_s` is kept to on average; as many as it allows in a second may come at once.
        """
        self.is_masked = masked
        self._mask_bit = 0x80 if masked else 0
        self._most_header_bytes = 8 if masked else 4
        """Of a frame that has no more than 65,535 bytes, when its length is not told in the second."""
        self.max_payload_bytes = _MOST_BYTES if max_payload_bytes is None else max_payload_bytes
        self.pace_s = 0.0 if max_frames_per_s is None else 1.0 / max_frames_per_s
        """Between two frames that come evenly; 0 when they are not counted."""
        self.ahead_s = _BURST_S + self.pace_s / 2
        """How far `next_at` may be ahead: half a frame more than a burst, so that sums of fractions don't decide."""
        self.next_at = 0.0
        """When the next frame would be due if all came evenly; ahead of now after a burst."""
        self._held: bytes = b""
        """The beginning of a frame of which too little has come to let it pass."""
        self._left = 0
        """Of the payload of the frame that is passing."""
        self._fragmented = False
        """Whether a message has begun whose last frame has not."""
        self.between_messages = True
        """Whether what has come ends where a message does."""
        self._stopped = False
        self.close_code: int | None = None
        """Of the Close frame that has passed."""
        self.ending = False
        """Whether nothing more passes, or only the rest of the frame that is passing."""

    @property
    def at_boundary(self) -> bool:
        """Whether what has been let through ends where a frame ends: another may be put in there."""
        return not self._left

    def stop(self) -> None:
        """Let nothing pass after the frame that is passing."""
        self._stopped = self.ending = True
        self.between_messages = False

    def feed(self, data: bytes, now: float = 0.0) -> bytes:
        """Follow `data`, which came at `now` (seconds); what is to be let through. Raises BadFrame."""
        if (
            self.between_messages
            and len(data) > self._most_header_bytes
            and (data[0] == FIN | TEXT or data[0] == FIN | BINARY)
            and data[1] == self._mask_bit | 126
            and MAX_CONTROL_BYTES < (length := data[2] << 8 | data[3]) <= self.max_payload_bytes
            and length == len(data) - self._most_header_bytes
            and self._in_time(now)
        ):
            return data  # one message that came whole: nearly all that comes, but for small ones (`direction`)
        try:
            return self._follow(data, now)
        finally:
            self.between_messages = not (self._left or self._held or self._fragmented or self.ending)

    def _follow(self, data: bytes, now: float) -> bytes:
        if self._held and not self._stopped:
            data = self._held + data
            self._held = b""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                self._left -= taken
                position += taken
                continue
            if self.ending:
                return data[:position]
            try:
                begun = self._begin(data, position, end, now)
            except BadFrame as error:
                error.passed = data[:position]
                raise
            if begun is None:
                self._held = data[position:]
                return data[:position]
            position = begun
        return data

    def _begin(self, data: bytes, start: int, end: int, now: float) -> int | None:
        """Where the payload of the frame at `start` begins; None when too little of it has come. Raises BadFrame."""
        opcode = self._opcode(data[start])
        is_control = opcode >= _FIRST_CONTROL
        at = start + 2
        if end < at:
            return None
        if (data[start + 1] & 0x80) != self._mask_bit:
            _refuse("a frame to a server must be masked, and one from a server must not be")
        length = data[start + 1] & 0x7F
        if length > MAX_CONTROL_BYTES:
            if is_control:
                _refuse(f"a control frame has more than {MAX_CONTROL_BYTES} bytes")
            width = 2 if length == 126 else 8
            if end < at + width:
                return None
            length = int.from_bytes(data[at : at + width])
            at += width
            if length <= (MAX_CONTROL_BYTES if width == 2 else 0xFFFF) or length > _MOST_BYTES:
                _refuse("a frame's length is not written in the fewest bytes")
        if length > self.max_payload_bytes:
            raise BadFrame(TOO_BIG, f"a frame has more than {self.max_payload_bytes} bytes")
        key_at = at
        at = at + 4 if self._mask_bit else at
        if end < at or (opcode == CLOSE and end < at + length):
            return None
        if not self._in_time(now):
            raise BadFrame(POLICY, f"more than {1 / self.pace_s:g} frames a second")
        if opcode == CLOSE:
            payload = data[at : at + length]
            self.close_code = _close_code(_unmasked(payload, data[key_at:at]) if self._mask_bit else payload)
            self.ending = True
        elif not is_control:
            self._fragmented = not data[start] & FIN
        self._left = length
        return at

    def _in_time(self, now: float) -> bool:
        """Whether one frame more may come now; it is counted then."""
        next_at = max(self.next_at, now) + self.pace_s
        if self.pace_s and next_at > now + self.ahead_s:
            return False
        self.next_at = next_at
        return True

    def _opcode(self, first: int) -> int:
        if first & _RESERVED:
            _refuse("a reserved bit is set, and no extension was agreed on")
        opcode = first & 0x0F
        if opcode not in _OPCODES:
            _refuse("a frame has an opcode that there is not")
        if opcode >= _FIRST_CONTROL:
            if not first & FIN:
                _refuse("a control frame is fragmented")
        elif (opcode == CONTINUATION) is not self._fragmented:
            _refuse("a message goes on that has not begun, or begins within another")
        return opcode


def _refuse(reason: str) -> NoReturn:
    raise BadFrame(PROTOCOL_ERROR, reason)


def _close_code(payload: bytes) -> int:
    """The code of a Close frame. Raises BadFrame."""
    if not payload:
        return NO_CODE
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise BadFrame(INVALID_DATA, "a Close frame has a reason that is not UTF-8") from None
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not _is_sendable(code):
        _refuse("a Close frame has a code that may not be sent")
    return code


def _is_sendable(code: int) -> bool:
    """Whether a Close frame may have this code: registered ones, and those of libraries and applications."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


def _unmasked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index & 3] for index, byte in enumerate(payload))


def close_frame(code: int, reason: str, *, mask: bytes | None = None) -> bytes:
    """A Close frame, masked with the four bytes `mask` if it goes to a server. A long reason is cut."""
    told = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    payload = code.to_bytes(2) + told
    if mask is None:
        return bytes((FIN | CLOSE, len(payload))) + payload
    return bytes((FIN | CLOSE, 0x80 | len(payload))) + mask + _unmasked(payload, mask)
