# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""The short ways of what passes in small parts, compiled: events of streams, and messages of WebSockets.

For: `relay` and `websocket.direction`, whose own short ways these stand in for. Not for a part that is more or less
than one whole chunk or message: that goes the long way, and so does all that comes until it has ended. Invariant:
what comes out at the other end is what came in, in its order.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from freehold.gateway.lane cimport Rider, Taker
from freehold.gateway.outlet cimport Outlet

cdef enum:
    FIN_TEXT = 0x81
    FIN_BINARY = 0x82
    MASKED = 0x80
    TWO_BYTES_MORE = 126
    MOST_SIZE_DIGITS = 15


cdef class Chunks(Taker):
    """See relay.AgentRelay._short_way."""

    cdef object relay, exchange, body, long_way
    cdef Outlet outlet
    cdef Py_ssize_t most
    cdef bint is_open  # what comes next begins where a chunk does, and all that came before has been passed on

    def __cinit__(self, relay, exchange, body, long_way, transport):
        self.relay, self.exchange, self.body, self.long_way = relay, exchange, body, long_way
        self.outlet = Outlet(transport)
        self.most = body.max_chunk_bytes

    def data_received(self, bytes data):
        self.came(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int came(self, const char* data, Py_ssize_t size) except -1:
        if self.is_open and self._is_chunk(<const unsigned char*>data, size) and not self.relay.ended:
            self.exchange.bytes_out += size
            self.outlet.put_raw(data, size)
        else:
            self.long_way(PyBytes_FromStringAndSize(data, size))
            self.is_open = self.body.between_chunks and not self.body.done
        return 0

    cdef bint _is_chunk(self, const unsigned char* at, Py_ssize_t size) noexcept:
        """Whether it is one whole chunk, and not the last: as framing.PLAIN_SIZE_LINE finds them."""
        cdef Py_ssize_t length = 0, digits = 0
        cdef unsigned char byte
        while digits < size and digits <= MOST_SIZE_DIGITS:
            byte = at[digits]
            if c"0" <= byte <= c"9":
                length = length << 4 | (byte - c"0")
            elif c"a" <= byte <= c"f":
                length = length << 4 | (byte - c"a" + 10)
            elif c"A" <= byte <= c"F":
                length = length << 4 | (byte - c"A" + 10)
            else:
                break
            digits += 1
        return (
            0 < digits <= MOST_SIZE_DIGITS
            and 0 < length <= self.most
            and digits + 4 + length == size
            and at[digits] == c"\r"
            and at[digits + 1] == c"\n"
            and at[size - 2] == c"\r"
            and at[size - 1] == c"\n"
        )


cdef class Messages(Rider):
    """See websocket.direction.Direction._short_way."""

    cdef object follower, clock, long_way
    cdef Outlet outlet
    cdef bint is_open  # what comes next begins where a message does
    cdef bint is_masked
    cdef Py_ssize_t most
    cdef double pace_s, ahead_s
    cdef readonly long long passed

    def __cinit__(self, follower, destination, clock, long_way):
        self.follower, self.clock, self.long_way = follower, clock, long_way
        self.outlet = Outlet(destination)
        self.is_masked, self.most = follower.is_masked, follower.max_payload_bytes
        self.pace_s, self.ahead_s = follower.pace_s, follower.ahead_s

    def close(self):
        self.is_open = False

    def data_received(self, bytes data):
        self.came(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int came(self, const char* data, Py_ssize_t size) except -1:
        if self.is_open and self._is_message(<const unsigned char*>data, size) and self._is_in_time():
            self.passed += size
            self.outlet.put_raw(data, size)
        else:
            self.is_open = self.long_way(PyBytes_FromStringAndSize(data, size))
        return 0

    cdef bint _is_message(self, const unsigned char* at, Py_ssize_t size) noexcept:
        """Whether it is one whole message in a frame of less than 64 KiB."""
        cdef Py_ssize_t header = 6 if self.is_masked else 2, length
        if size < header or (at[0] != FIN_TEXT and at[0] != FIN_BINARY) or (at[1] >= MASKED) != self.is_masked:
            return False
        length = at[1] & ~MASKED
        if length >= TWO_BYTES_MORE:
            header += 2
            if length > TWO_BYTES_MORE or size < header:
                return False
            length = at[2] << 8 | at[3]
            if length < TWO_BYTES_MORE:
                return False
        return length <= self.most and header + length == size

    cdef bint _is_in_time(self) except -1:
        """Whether one frame more may come now; it is counted then: as FrameFollower does."""
        cdef double now, next_at
        if not self.pace_s:
            return True
        now, next_at = self.clock(), self.follower.next_at
        next_at = (next_at if next_at > now else now) + self.pace_s
        if next_at > now + self.ahead_s:
            return False
        self.follower.next_at = next_at
        return True
