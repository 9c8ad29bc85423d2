# Types whose objects only the library makes.
cdef extern from "dynamo/_made.h":
    # kind() and kind.__new__(kind) raise TypeError from here on, and
    # the type is final in Python then. Call it behind the class and those derived from it.
    int dyn_only_library_makes(object kind) except -1
