# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""Reads for many connections at once, in the place of their transports: one call of the event loop for all that is there.

For: what the compiled short ways read (`fastpath`, `fastpipe`). The event loop calls for each connection by itself, and
looks at each of them twice. Not for an end, nor for an error: the transport, which reads again then, finds it and tells
of it. Invariant: a connection is read by its transport or here, never by both, and not at all once its transport closes;
what comes is handed on in its order.
"""

import asyncio

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
    ssize_t recv(int descriptor, void* buffer, size_t size, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        EPOLLET
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout)

cdef enum:
    MOST_EVENTS = 128  # of one call
    BUFFER_BYTES = 65536
    MOST_READS = 4  # of one connection, before others have their turn

cdef dict lanes = {}  # by event loop, as long as anything rides


cdef class Taker:
    """Who takes what is read."""

    cdef int came(self, const char* data, Py_ssize_t size) except -1:
        raise NotImplementedError


cdef class Rider(Taker):
    """A connection that may be read here."""

    def __cinit__(self):
        self.descriptor = -1

    def ride(self, transport):
        """Have what comes to `transport` read here, from now on or again, if it is open and the kernel lets us."""
        cdef int descriptor = transport.get_extra_info("socket").fileno()
        if descriptor < 0 or self.descriptor >= 0:
            return
        loop = asyncio.get_running_loop()
        lane = lanes.get(loop)
        if lane is None:
            try:
                lane = Lane(loop)
            except OSError:
                return  # too many files are open: the transport reads on
            lanes[loop] = lane
        transport.pause_reading()
        self.transport, self.is_closing, self.descriptor = transport, transport.is_closing, descriptor
        self.lane = lane
        self.lane.add(self)

    def alight(self):
        """Have nothing more read here, nor elsewhere."""
        if self.descriptor >= 0:
            self.lane.remove(self)

    def pause_reading(self):
        """As the transport's."""
        self.alight()
        self.transport.pause_reading()

    def resume_reading(self):
        """As the transport's, which reads from now on."""
        self.alight()
        self.transport.resume_reading()

    @property
    def rides(self):
        return self.descriptor >= 0


cdef class Lane:
    """That of one event loop."""

    def __cinit__(self, loop):
        self.loop, self.riders = loop, {}
        self.buffer = <char*>malloc(BUFFER_BYTES)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.buffer == NULL or self.epoll < 0:
            raise OSError(errno, "no epoll instance")
        loop.add_reader(self.epoll, self._ready)

    def __dealloc__(self):
        free(self.buffer)

    cdef int add(self, Rider rider) except -1:
        cdef Rider before = self.riders.get(rider.descriptor)
        if before is not None:
            before.descriptor = -1  # its transport has closed it
        self.riders[rider.descriptor] = rider
        if self._watch(EPOLL_CTL_ADD, rider.descriptor) < 0:
            self.remove(rider)
            rider.transport.resume_reading()  # too much is watched: it does it itself
        return 0

    cdef int remove(self, Rider rider) except -1:
        # Before its transport closes the descriptor: that may be another one's at once.
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, rider.descriptor, NULL)
        del self.riders[rider.descriptor]
        rider.descriptor = -1
        if not self.riders:
            del lanes[self.loop]
            self.loop.remove_reader(self.epoll)
            close(self.epoll)
            self.epoll = -1
        return 0

    def _ready(self):
        cdef epoll_event[MOST_EVENTS] events
        cdef int i, count = epoll_wait(self.epoll, events, MOST_EVENTS, 0)
        for i in range(count):
            rider = self.riders.get(events[i].data.fd)
            if rider is None:
                continue  # another one's turn has ended it
            try:
                self._read(rider, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            except Exception as error:
                self._failed(rider, error)

    cdef int _read(self, Rider rider, bint to_end) except -1:
        """What is there is told only once: it is read until there is no more, or it is asked for anew."""
        cdef ssize_t size
        cdef int reads
        if rider.is_closing():
            # As it stops reading itself. And the descriptor may soon be another connection's.
            self.remove(rider)
            return 0
        for reads in range(MOST_READS):
            size = recv(rider.descriptor, self.buffer, BUFFER_BYTES, MSG_DONTWAIT)
            if size > 0:
                rider.came(self.buffer, size)
                if rider.descriptor < 0 or (size < BUFFER_BYTES and not to_end):
                    return 0
            elif size < 0 and errno == EAGAIN:
                return 0
            elif size == 0 or errno != EINTR:
                self.remove(rider)
                rider.transport.resume_reading()
                return 0
        self._watch(EPOLL_CTL_MOD, rider.descriptor)
        return 0

    cdef int _watch(self, int operation, int descriptor) noexcept:
        """Be told once of what is there now, and of what comes; less than 0 when that can't be."""
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events, event.data.fd = EPOLLIN | EPOLLRDHUP | <unsigned int>EPOLLET, descriptor
        return epoll_ctl(self.epoll, operation, descriptor, &event)

    def _failed(self, Rider rider, error):
        """As event loops do it."""
        if rider.descriptor >= 0:
            self.remove(rider)
        self.loop.call_exception_handler(
            {"message": "Fatal error on transport", "exception": error, "transport": rider.transport}
        )
        rider.transport.abort()
