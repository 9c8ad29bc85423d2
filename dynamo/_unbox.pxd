# Arguments that say what they should have been.

cdef inline bytes utf8(object value, str what):
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    return (<str>value).encode()


cdef inline double real(object value, str what) except? -1.0:
    try:
        return value
    except TypeError:
        raise TypeError(f"{what} must be a number, not {type(value).__name__}") from None
