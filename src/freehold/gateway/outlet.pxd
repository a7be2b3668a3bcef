cdef class Outlet:
    cdef object write, is_closing, waiting
    cdef int descriptor

    cdef int put(self, bytes data) except -1
    cdef int put_raw(self, const char* data, Py_ssize_t size) except -1
