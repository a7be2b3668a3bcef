cdef class Outlet:
    cdef object write, is_closing, waiting
    cdef int descriptor

    cdef int put(self, bytes data) except -1
