# Mirrors dynamo/tls.h, as far as the bindings use it.


cdef extern from "dynamo/tls.h" nogil:
    ctypedef struct dyn_tls_context:
        pass
    ctypedef struct dyn_tls_settings:
        bint server
        bint tls_1_3_only
        bint trust_anyone
        bint need_client_certificate
        const char *ca_file
        const char *certificate
        const char *key
        const char *password
    int dyn_tls_context_new(dyn_tls_context **out, const dyn_tls_settings *settings)
    dyn_tls_context *dyn_tls_context_ref(dyn_tls_context *self)
    void dyn_tls_context_unref(dyn_tls_context *self)
