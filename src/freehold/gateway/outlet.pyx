# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Where the compiled short ways write: past a transport, as long as that has sent all that came before.

For: `fastpath` and `fastpipe`. A transport keeps what it is given until the event loop comes round, and asks about it
more often than it costs to send it. Invariant: bytes leave in the order in which they were put; nothing is written past
a transport that is not open: by then its descriptor may be another connection's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send(int descriptor, const void* data, size_t size, int flags)


cdef class Outlet:
    """A transport's."""

    def __cinit__(self, transport):
        self.write, self.is_closing, self.waiting = (
            transport.write, transport.is_closing, transport.get_write_buffer_size
        )
        self.descriptor = transport.get_extra_info("socket").fileno()

    cdef int put(self, bytes data) except -1:
        return self.put_raw(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int put_raw(self, const char* data, Py_ssize_t size) except -1:
        """As the transport's `write`: nobody gets what comes after its end."""
        cdef ssize_t sent = 0
        if self.is_closing():
            return 0
        if not self.waiting():
            sent = send(self.descriptor, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == size:
                return 0
            if sent < 0:
                sent = 0  # there is no room, or it is broken: the transport finds out, too
        self.write(PyBytes_FromStringAndSize(data + sent, size - sent))
        return 0
