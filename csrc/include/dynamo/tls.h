/* tls.h -- TLS 1.2 and 1.3 as a filter between bytes and bytes (area net).
 *
 *   socket --room, fed--> [ filter ] --read-->  plain bytes
 *   socket <--pending, sent-- [    ] <--write-- plain bytes
 *
 * The filter knows no socket: who owns one moves the bytes, on the loop thread or on a thread that waits.
 * Errors   DYN_EAGAIN: it needs bytes from the other side first (send what is pending, then read the socket).
 *          DYN_ECONN: the handshake failed, or the other side's certificate was refused; the sentence says why.
 *          DYN_EBROKEN: what came is not TLS, or the connection ended without a goodbye.
 * Threads  a context: any thread. A filter: one thread at a time.
 */
#ifndef DYNAMO_TLS_H
#define DYNAMO_TLS_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyn_tls_context dyn_tls_context;
typedef struct dyn_tls dyn_tls;

typedef struct dyn_tls_settings {
    bool server;
    bool tls_1_3_only;
    /* Take any certificate and any name: for tests on loopback. With `ca_file` it is refused. */
    bool trust_anyone;
    /* A server asks for a client certificate that `ca_file` vouches for, and refuses without one. */
    bool need_client_certificate;
    const char *ca_file;     /* PEM, whom to trust; NULL: the system's store */
    const char *certificate; /* PEM file with the own certificate and its chain; a server needs one */
    const char *key;         /* PEM file; NULL: the same file */
    const char *password;    /* of the key; NULL: none */
} dyn_tls_settings;

/* Make a context: what all connections of one kind share. One reference.
 * settings  borrowed for the call; NULL: a client that trusts the system's store.
 * errors    DYN_ENOMEM, DYN_EINVAL (settings that contradict each other, a file that is not PEM), DYN_ENOENT (no such
 *           file), DYN_EACCES (wrong password, file not readable). */
DYN_API int dyn_tls_context_new(dyn_tls_context **out, const dyn_tls_settings *settings);
DYN_API dyn_tls_context *dyn_tls_context_ref(dyn_tls_context *self);
DYN_API void dyn_tls_context_unref(dyn_tls_context *self); /* NULL is allowed */

/* Make a filter for one connection.
 * context  a reference is taken.
 * host     client: the name or address that the certificate must be for. Server: NULL.
 * errors   DYN_ENOMEM, DYN_EINVAL (a client without a host). */
DYN_API int dyn_tls_new(dyn_tls **out, dyn_tls_context *context, const char *host);
DYN_API void dyn_tls_free(dyn_tls *self); /* NULL is allowed */

/* Go on with the handshake. DYN_OK: it is done; it may leave bytes pending all the same.
 * errors  DYN_EAGAIN, DYN_ECONN, DYN_EBROKEN, DYN_ENOMEM. */
DYN_API int dyn_tls_handshake(dyn_tls *self);
/* Room for bytes of the other side, never less than 16 KiB, until the next call; then say how many were put there.
 * errors  DYN_ENOMEM. */
DYN_API int dyn_tls_room(dyn_tls *self, char **room, size_t *size);
DYN_API void dyn_tls_fed(dyn_tls *self, size_t size);
/* Take plain bytes. *got is 1 or more with DYN_OK.
 * errors  DYN_EAGAIN, DYN_ECLOSED (the other side said goodbye), DYN_EBROKEN, DYN_ENOMEM. */
DYN_API int dyn_tls_read(dyn_tls *self, void *out, size_t size, size_t *got);
/* Give plain bytes; all of them become pending.   errors  DYN_EBROKEN, DYN_ENOMEM. */
DYN_API int dyn_tls_write(dyn_tls *self, const void *data, size_t size);
/* Bytes for the other side, borrowed until the next call; how many were sent of them. */
DYN_API size_t dyn_tls_pending(const dyn_tls *self, const char **data);
DYN_API void dyn_tls_sent(dyn_tls *self, size_t size);
/* Say goodbye: leaves bytes pending. */
DYN_API void dyn_tls_goodbye(dyn_tls *self);

DYN_API const char *dyn_tls_version(const dyn_tls *self); /* "TLSv1.3"; static */
DYN_API bool dyn_tls_resumed(const dyn_tls *self);        /* was the handshake a short one? */

#ifdef __cplusplus
}
#endif
#endif
