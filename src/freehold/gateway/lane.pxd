cdef class Lane


cdef class Taker:
    cdef int came(self, const char* data, Py_ssize_t size) except -1


cdef class Rider(Taker):
    cdef Lane lane
    cdef object transport, is_closing
    cdef int descriptor  # -1 while it does not ride


cdef class Lane:
    cdef object loop
    cdef dict riders  # by descriptor
    cdef int epoll
    cdef char* buffer

    cdef int add(self, Rider rider) except -1
    cdef int remove(self, Rider rider) except -1
    cdef int _read(self, Rider rider, bint to_end) except -1
    cdef int _watch(self, int operation, int descriptor) noexcept
