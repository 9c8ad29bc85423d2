/* tls.c -- see dynamo/tls.h for the contract. OpenSSL does the work; here are its settings and its two ends.
 *
 *   room, fed --> in [from, to) --our BIO--> SSL --our BIO--> out [sent, length) --> pending, sent
 *
 * OpenSSL's memory BIOs would copy each byte once more.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>

#include "dynamo/tls.h"
#include "net/http_internal.h"

enum { ROOM = 32 * 1024, KEEP = 512 * 1024 };

struct dyn_tls_context {
    atomic_size_t refs;
    SSL_CTX *ctx;
    BIO_METHOD *ends;
    bool server, trust_anyone;
    char *password;
    pthread_mutex_t lock; /* of what follows: a client goes on where an earlier connection to the host was */
    SSL_SESSION *session;
    char session_host[256];
};

struct dyn_tls {
    dyn_tls_context *context; /* a reference */
    SSL *ssl;
    dyn__bytes in, out;
    size_t from, sent;
    bool no_memory;
    char host[256];
};

/* ---- the two ends ------------------------------------------------------------------------------ */

static int end_read(BIO *bio, char *out, int size)
{
    dyn_tls *self = BIO_get_data(bio);
    size_t there = self->in.length - self->from, take = there < (size_t)size ? there : (size_t)size;
    BIO_clear_retry_flags(bio);
    if (take == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, self->in.data + self->from, take);
    self->from += take;
    return (int)take;
}

static int end_write(BIO *bio, const char *data, int size)
{
    dyn_tls *self = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (self->sent == self->out.length) self->sent = self->out.length = 0;
    if (dyn__bytes_need(&self->out, (size_t)size) < 0) {
        self->no_memory = true;
        return -1;
    }
    dyn__bytes_put(&self->out, data, (size_t)size);
    return size;
}

static long end_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

/* ---- errors ------------------------------------------------------------------------------------ */

static const char *last_words(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;
    return text != NULL ? text : "unknown reason";
}

static int from_file(const char *what, const char *path)
{
    unsigned long first = ERR_peek_error();
    int reason = ERR_GET_REASON(first), system = ERR_GET_LIB(first) == ERR_LIB_SYS ? reason : 0, rc;
    if (system == ENOENT)
        rc = dyn__fail(DYN_ENOENT, "%s %s: no such file", what, path);
    else if (system == EACCES)
        rc = dyn__fail(DYN_EACCES, "%s %s: not readable", what, path);
    else
        rc = dyn__fail(DYN_EINVAL, "%s %s: %s", what, path, last_words());
    ERR_clear_error();
    return rc;
}

/* ---- context ----------------------------------------------------------------------------------- */

static int give_password(char *out, int size, int writing, void *user)
{
    const char *password = user;
    size_t length = password != NULL ? strlen(password) : 0;
    (void)writing;
    if (length == 0 || length > (size_t)size) return -1;
    memcpy(out, password, length);
    return (int)length;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    dyn_tls *tls = SSL_get_app_data(ssl);
    dyn_tls_context *self = tls->context;
    pthread_mutex_lock(&self->lock);
    SSL_SESSION *old = self->session;
    self->session = session; /* the reference is ours when 1 is returned */
    memcpy(self->session_host, tls->host, sizeof(tls->host));
    pthread_mutex_unlock(&self->lock);
    SSL_SESSION_free(old);
    return 1;
}

/* A client that names protocols gets HTTP/1.1 when that is among them, else no word about it. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *length, const unsigned char *offered,
                           unsigned offered_length, void *user)
{
    static const unsigned char ours[] = "http/1.1";
    (void)ssl, (void)user;
    for (unsigned at = 0; at < offered_length; at += offered[at] + 1u) {
        if (offered[at] != sizeof(ours) - 1 || memcmp(offered + at + 1, ours, sizeof(ours) - 1) != 0) continue;
        *out = offered + at + 1;
        *length = offered[at];
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

static int load(dyn_tls_context *self, const dyn_tls_settings *s)
{
    SSL_CTX *ctx = self->ctx;
    if (s->ca_file != NULL) {
        if (SSL_CTX_load_verify_file(ctx, s->ca_file) != 1) return from_file("the CA file", s->ca_file);
        if (s->server) SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(s->ca_file));
    } else if (!s->server && !s->trust_anyone && SSL_CTX_set_default_verify_paths(ctx) != 1)
        return from_file("the system's certificates", "(set SSL_CERT_FILE)");
    if (s->certificate == NULL) return DYN_OK;
    const char *key = s->key != NULL ? s->key : s->certificate;
    if (s->password != NULL && (self->password = dyn__strdup(s->password)) == NULL) return DYN_ENOMEM;
    SSL_CTX_set_default_passwd_cb(ctx, give_password);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, self->password);
    if (SSL_CTX_use_certificate_chain_file(ctx, s->certificate) != 1)
        return from_file("the certificate", s->certificate);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1) {
        unsigned long code = ERR_peek_error();
        if (ERR_GET_LIB(code) == ERR_LIB_SYS) return from_file("the key", key);
        int rc = dyn__fail(DYN_EACCES, "the key %s cannot be read (%s): is its password given, and right?", key,
                           last_words());
        if (ERR_GET_LIB(code) == ERR_LIB_X509) rc = dyn__fail(DYN_EINVAL, "the key %s: %s", key, last_words());
        ERR_clear_error();
        return rc;
    }
    if (SSL_CTX_check_private_key(ctx) != 1) return from_file("the key does not fit the certificate:", key);
    return DYN_OK;
}

int dyn_tls_context_new(dyn_tls_context **out, const dyn_tls_settings *settings)
{
    const dyn_tls_settings defaults = {0}, *s = settings != NULL ? settings : &defaults;
    if (s->server && s->certificate == NULL)
        return dyn__fail(DYN_EINVAL, "a TLS server needs a certificate: give the path of a PEM file");
    if (s->trust_anyone && s->ca_file != NULL)
        return dyn__fail(DYN_EINVAL, "trust_anyone beside the CA file %s: choose one", s->ca_file);
    if (s->need_client_certificate && (!s->server || s->ca_file == NULL))
        return dyn__fail(DYN_EINVAL,
                         "asking for client certificates needs a server and the CA file that vouches for them");
    if (s->key != NULL && s->certificate == NULL)
        return dyn__fail(DYN_EINVAL, "the key %s without its certificate: give both", s->key);

    int rc = DYN_ENOMEM;
    dyn_tls_context *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    pthread_mutex_init(&self->lock, NULL);
    self->server = s->server;
    self->trust_anyone = s->trust_anyone;
    ERR_clear_error();
    self->ctx = SSL_CTX_new(s->server ? TLS_server_method() : TLS_client_method());
    self->ends = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "dynamo");
    if (self->ctx == NULL || self->ends == NULL) goto fail;
    BIO_meth_set_read(self->ends, end_read);
    BIO_meth_set_write(self->ends, end_write);
    BIO_meth_set_ctrl(self->ends, end_control);
    SSL_CTX_set_min_proto_version(self->ctx, s->tls_1_3_only ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_options(self->ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(self->ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
    if (!s->server) {
        static const unsigned char protocols[] = "\x08http/1.1";
        SSL_CTX_set_alpn_protos(self->ctx, protocols, sizeof(protocols) - 1);
        SSL_CTX_set_verify(self->ctx, s->trust_anyone ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_session_cache_mode(self->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(self->ctx, keep_session);
    } else {
        static const unsigned char id[] = "dynamo";
        SSL_CTX_set_session_id_context(self->ctx, id, sizeof(id) - 1);
        SSL_CTX_set_alpn_select_cb(self->ctx, choose_protocol, NULL);
        int how = s->need_client_certificate ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                  : s->ca_file != NULL       ? SSL_VERIFY_PEER
                                             : SSL_VERIFY_NONE;
        SSL_CTX_set_verify(self->ctx, how, NULL);
    }
    if ((rc = load(self, s)) < 0) goto fail;
    *out = self;
    return DYN_OK;
fail:
    dyn_tls_context_unref(self);
    return rc;
}

dyn_tls_context *dyn_tls_context_ref(dyn_tls_context *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_tls_context_unref(dyn_tls_context *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    SSL_SESSION_free(self->session);
    SSL_CTX_free(self->ctx);
    BIO_meth_free(self->ends);
    pthread_mutex_destroy(&self->lock);
    if (self->password != NULL) OPENSSL_cleanse(self->password, strlen(self->password));
    dyn__free(self->password);
    dyn__free(self);
}

bool dyn__tls_is_server(const dyn_tls_context *self)
{
    return self->server;
}

/* ---- filter ------------------------------------------------------------------------------------ */

static bool is_address(const char *host)
{
    unsigned char address[16];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int name_the_server(dyn_tls *self, const char *host)
{
    size_t length = strlen(host);
    if (length == 0 || length >= sizeof(self->host))
        return dyn__fail(DYN_EINVAL, "a host name of %zu bytes: must be 1 to %zu", length, sizeof(self->host) - 1);
    memcpy(self->host, host, length + 1);
    if (is_address(host))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(self->ssl), host) == 1 ? DYN_OK : DYN_ENOMEM;
    if (SSL_set_tlsext_host_name(self->ssl, host) != 1 || SSL_set1_host(self->ssl, host) != 1) return DYN_ENOMEM;
    SSL_set_hostflags(self->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return DYN_OK;
}

int dyn_tls_new(dyn_tls **out, dyn_tls_context *context, const char *host)
{
    if (!context->server && host == NULL)
        return dyn__fail(DYN_EINVAL, "a TLS client needs the name that the server's certificate is for");
    int rc = DYN_ENOMEM;
    dyn_tls *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    self->context = dyn_tls_context_ref(context);
    self->ssl = SSL_new(context->ctx);
    BIO *bio = self->ssl != NULL ? BIO_new(context->ends) : NULL;
    if (bio == NULL) goto fail;
    BIO_set_data(bio, self);
    BIO_set_init(bio, 1);
    SSL_set_bio(self->ssl, bio, bio);
    SSL_set_app_data(self->ssl, self);
    if (context->server) {
        SSL_set_accept_state(self->ssl);
    } else {
        if ((rc = name_the_server(self, host)) < 0) goto fail;
        SSL_set_connect_state(self->ssl);
        pthread_mutex_lock(&context->lock);
        if (context->session != NULL && strcmp(context->session_host, host) == 0)
            SSL_set_session(self->ssl, context->session);
        pthread_mutex_unlock(&context->lock);
    }
    *out = self;
    return DYN_OK;
fail:
    ERR_clear_error();
    dyn_tls_free(self);
    return rc;
}

void dyn_tls_free(dyn_tls *self)
{
    if (self == NULL) return;
    if (self->ssl != NULL) SSL_set_quiet_shutdown(self->ssl, 1); /* else the session counts as broken */
    if (self->ssl != NULL && SSL_is_init_finished(self->ssl)) SSL_shutdown(self->ssl);
    SSL_free(self->ssl);
    dyn__bytes_free(&self->in);
    dyn__bytes_free(&self->out);
    dyn_tls_context_unref(self->context);
    dyn__free(self);
}

/* What OpenSSL's refusal means. */
static int why(dyn_tls *self, int result, bool shaking)
{
    int what = SSL_get_error(self->ssl, result), rc;
    if (what == SSL_ERROR_WANT_READ) return DYN_EAGAIN;
    if (what == SSL_ERROR_ZERO_RETURN) return DYN_ECLOSED;
    long verdict = SSL_get_verify_result(self->ssl);
    if (self->no_memory)
        rc = DYN_ENOMEM;
    else if (shaking && verdict != X509_V_OK)
        rc = dyn__fail(DYN_ECONN, "TLS with %s: the certificate is refused: %s",
                       self->host[0] ? self->host : "a client", X509_verify_cert_error_string(verdict));
    else
        rc = dyn__fail(shaking ? DYN_ECONN : DYN_EBROKEN, "TLS with %s: %s", self->host[0] ? self->host : "a client",
                       last_words());
    ERR_clear_error();
    return rc;
}

int dyn_tls_handshake(dyn_tls *self)
{
    ERR_clear_error();
    int result = SSL_do_handshake(self->ssl);
    return result == 1 ? DYN_OK : why(self, result, true);
}

int dyn_tls_room(dyn_tls *self, char **room, size_t *size)
{
    if (self->from == self->in.length) self->from = self->in.length = 0;
    if (self->from > 0 && self->in.room - self->in.length < ROOM / 2) { /* what is left of a record, to the front */
        memmove(self->in.data, self->in.data + self->from, self->in.length - self->from);
        self->in.length -= self->from;
        self->from = 0;
    }
    if (self->in.room - self->in.length < ROOM / 2 && dyn__bytes_need(&self->in, ROOM) < 0) return DYN_ENOMEM;
    *room = self->in.data + self->in.length;
    *size = self->in.room - self->in.length;
    return DYN_OK;
}

void dyn_tls_fed(dyn_tls *self, size_t size)
{
    assert(size <= self->in.room - self->in.length);
    self->in.length += size;
}

int dyn_tls_read(dyn_tls *self, void *out, size_t size, size_t *got)
{
    ERR_clear_error();
    int result = SSL_read_ex(self->ssl, out, size, got);
    return result == 1 ? DYN_OK : why(self, result, false);
}

int dyn_tls_write(dyn_tls *self, const void *data, size_t size)
{
    size_t written;
    if (size == 0) return DYN_OK;
    ERR_clear_error();
    int result = SSL_write_ex(self->ssl, data, size, &written);
    if (result == 1) return DYN_OK;
    int rc = why(self, result, false);
    return rc == DYN_EAGAIN || rc == DYN_ECLOSED ? dyn__fail(DYN_EBROKEN, "TLS: written too early or too late") : rc;
}

size_t dyn_tls_pending(const dyn_tls *self, const char **data)
{
    *data = self->out.data + self->sent;
    return self->out.length - self->sent;
}

void dyn_tls_sent(dyn_tls *self, size_t size)
{
    assert(size <= self->out.length - self->sent);
    self->sent += size;
    if (self->sent == self->out.length) {
        self->sent = 0;
        dyn__bytes_empty(&self->out, KEEP);
    }
}

void dyn__tls_take(dyn_tls *self, dyn__bytes *out)
{
    dyn__bytes empty = *out;
    assert(out->length == 0 && self->sent == 0);
    *out = self->out;
    self->out = empty;
}

void dyn_tls_goodbye(dyn_tls *self)
{
    ERR_clear_error();
    if (SSL_is_init_finished(self->ssl)) SSL_shutdown(self->ssl);
    ERR_clear_error();
}

const char *dyn_tls_version(const dyn_tls *self)
{
    return SSL_get_version(self->ssl);
}

bool dyn_tls_resumed(const dyn_tls *self)
{
    return SSL_session_reused(self->ssl);
}
