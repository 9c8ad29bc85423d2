# cython: boundscheck=False, wraparound=False
"""TLS 1.2 and 1.3: what the connections of one client or one server have in common."""
import os

from libc.string cimport memset

from dynamo._errors cimport check
from dynamo.c_tls cimport dyn_tls_context_new, dyn_tls_context_unref, dyn_tls_settings


cdef bytes path_of(object name):
    cdef bytes raw = os.fsencode(name)
    if b"\0" in raw:
        raise ValueError(f"the path {name!r} has a NUL")
    return raw


cdef class TlsContext:
    """What TLS connections have in common: whom they trust, and who they are.

    Parameters
    ----------
    ca_file : PEM file of those whom to trust; None: the system's store. A server asks its clients for a certificate
        only when it has one.
    certificate, key, password : PEM files of the own certificate with its chain and of its key (None: in the same
        file), and the key's password. A server needs a certificate.
    server : make it for a server; False: for a client
    need_client_certificate : refuse clients without a certificate that `ca_file` vouches for
    trust_anyone : take any certificate and name; for tests on loopback
    tls_1_3_only : refuse TLS 1.2 (older versions are always refused)
    """

    def __cinit__(self, *, ca_file=None, certificate=None, key=None, password=None, bint server=False,
                  bint need_client_certificate=False, bint trust_anyone=False, bint tls_1_3_only=False):
        cdef dyn_tls_settings settings
        cdef bytes raw_ca, raw_certificate, raw_key, raw_password
        cdef int rc
        memset(&settings, 0, sizeof(settings))
        settings.server = server
        settings.need_client_certificate = need_client_certificate
        settings.trust_anyone = trust_anyone
        settings.tls_1_3_only = tls_1_3_only
        if ca_file is not None:
            raw_ca = path_of(ca_file)
            settings.ca_file = raw_ca
        if certificate is not None:
            raw_certificate = path_of(certificate)
            settings.certificate = raw_certificate
        if key is not None:
            raw_key = path_of(key)
            settings.key = raw_key
        if password is not None:
            raw_password = password.encode() if isinstance(password, str) else bytes(password)
            settings.password = raw_password
        with nogil:                         # the system's certificates take milliseconds to read
            rc = dyn_tls_context_new(&self.ptr, &settings)
        check(rc)

    def __dealloc__(self):
        dyn_tls_context_unref(self.ptr)
