# The door through which C codes become exceptions.

# rc itself when it is 0 or more; else the exception of that code, with the library's own sentence.
cdef int check(int rc) except? -1 nogil
# The exception of a code as an object, for errors that arrive later (a stream's end): nothing is raised.
cdef object error_of(int rc, object detail=*)
