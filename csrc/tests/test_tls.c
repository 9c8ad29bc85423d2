#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <unistd.h>

#include "dynamo/http.h"
#include "dynamo/http_client.h"
#include "test.h"

/* ---- certificates: an authority, a server "localhost", a client, all in one folder --------------- */

static char folder[64];
static char ca_file[96], server_file[96], client_file[96], stranger_file[96];

static void extend(X509 *cert, X509 *issuer, int what, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
    CHECK(extension != NULL);
    X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
}

static X509 *certify(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, bool is_ca, long serial)
{
    X509 *cert = X509_new();
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer != NULL ? issuer : cert));
    extend(cert, issuer != NULL ? issuer : cert, NID_basic_constraints, is_ca ? "critical,CA:TRUE" : "CA:FALSE");
    if (!is_ca) extend(cert, issuer != NULL ? issuer : cert, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    CHECK(X509_sign(cert, issuer_key != NULL ? issuer_key : key, EVP_sha256()) > 0);
    return cert;
}

static void save(char *path, const char *name, X509 *cert, EVP_PKEY *key)
{
    snprintf(path, 96, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    PEM_write_X509(file, cert);
    if (key != NULL) PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
}

static void make_certificates(void)
{
    if (folder[0] != 0) return;
    strcpy(folder, "/tmp/dyn_tls_XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    EVP_PKEY *ca_key = EVP_EC_gen("P-256"), *key = EVP_EC_gen("P-256");
    X509 *ca = certify("test authority", ca_key, NULL, NULL, true, 1);
    X509 *server = certify("server", key, ca, ca_key, false, 2), *client = certify("client", key, ca, ca_key, false, 3);
    X509 *stranger = certify("stranger", key, NULL, NULL, false, 4);
    save(ca_file, "ca.pem", ca, NULL);
    save(server_file, "server.pem", server, key);
    save(client_file, "client.pem", client, key);
    save(stranger_file, "stranger.pem", stranger, key);
    X509_free(ca), X509_free(server), X509_free(client), X509_free(stranger);
    EVP_PKEY_free(ca_key), EVP_PKEY_free(key);
}

/* ---- two filters, with a wire between them that carries `piece` bytes at a time ------------------- */

typedef struct pair {
    dyn_tls_context *client_context, *server_context;
    dyn_tls *client, *server;
    size_t piece;
} pair;

static int carry(dyn_tls *from, dyn_tls *to, size_t piece)
{
    const char *data;
    size_t length;
    while ((length = dyn_tls_pending(from, &data)) > 0) {
        char *room;
        size_t size;
        int rc = dyn_tls_room(to, &room, &size);
        if (rc < 0) return rc;
        CHECK(size >= 16 * 1024);
        if (length > piece) length = piece;
        if (length > size) length = size;
        memcpy(room, data, length);
        dyn_tls_fed(to, length);
        dyn_tls_sent(from, length);
    }
    return DYN_OK;
}

static int shake(pair *self)
{
    int client = DYN_EAGAIN, server = DYN_EAGAIN, rc;
    for (int i = 0; i < 20 && (client == DYN_EAGAIN || server == DYN_EAGAIN); i++) {
        client = dyn_tls_handshake(self->client);
        if (client < 0 && client != DYN_EAGAIN) return client; /* before the server's words replace it */
        if ((rc = carry(self->client, self->server, self->piece)) < 0) return rc;
        server = dyn_tls_handshake(self->server);
        if ((rc = carry(self->server, self->client, self->piece)) < 0) return rc;
        if (server < 0 && server != DYN_EAGAIN) return server;
    }
    return client < 0 ? client : server;
}

static int open_pair(pair *self, const dyn_tls_settings *client, const dyn_tls_settings *server, const char *host)
{
    int rc;
    make_certificates();
    if (self->piece == 0) self->piece = 1 << 20;
    if (self->client_context == NULL && (rc = dyn_tls_context_new(&self->client_context, client)) < 0) return rc;
    if (self->server_context == NULL && (rc = dyn_tls_context_new(&self->server_context, server)) < 0) return rc;
    if ((rc = dyn_tls_new(&self->client, self->client_context, host)) < 0) return rc;
    if ((rc = dyn_tls_new(&self->server, self->server_context, NULL)) < 0) return rc;
    return shake(self);
}
static void close_pair(pair *self)
{
    dyn_tls_free(self->client), dyn_tls_free(self->server);
    self->client = self->server = NULL;
}
static void free_pair(pair *self)
{
    close_pair(self);
    dyn_tls_context_unref(self->client_context), dyn_tls_context_unref(self->server_context);
}

static dyn_tls_settings trusting(void)
{
    make_certificates();
    return (dyn_tls_settings){.ca_file = ca_file};
}
static dyn_tls_settings serving(void)
{
    make_certificates();
    return (dyn_tls_settings){.server = true, .certificate = server_file};
}

/* ---- tests ------------------------------------------------------------------------------------- */

static void bytes_come_through_in_pieces_of_any_size(void)
{
    enum { SIZE = 300000 };
    static const size_t pieces[] = {1, 7, 1000, 16384, 1 << 20};
    char *sent = malloc(SIZE), *got = malloc(SIZE);
    for (int i = 0; i < SIZE; i++) sent[i] = (char)(i * 13 + i / 777);
    for (size_t k = 0; k < DYN__COUNT(pieces); k++) {
        dyn_tls_settings client = trusting(), server = serving();
        pair p = {.piece = pieces[k]};
        CHECK_EQ(open_pair(&p, &client, &server, "localhost"), DYN_OK);
        CHECK_STR(dyn_tls_version(p.client), "TLSv1.3");
        for (int way = 0; way < 2; way++) {
            dyn_tls *from = way ? p.server : p.client, *to = way ? p.client : p.server;
            size_t have = 0, n;
            CHECK_EQ(dyn_tls_write(from, sent, SIZE), DYN_OK);
            while (have < SIZE) {
                const char *data;
                char *room;
                size_t size, length = dyn_tls_pending(from, &data);
                if (length > pieces[k]) length = pieces[k];
                CHECK_EQ(dyn_tls_room(to, &room, &size), DYN_OK);
                if (length > size) length = size;
                memcpy(room, data, length);
                dyn_tls_fed(to, length);
                dyn_tls_sent(from, length);
                int rc;
                while ((rc = dyn_tls_read(to, got + have, SIZE - have, &n)) == DYN_OK && (have += n) < SIZE) continue;
                if (rc != DYN_OK && rc != DYN_EAGAIN) break;
            }
            CHECK_EQ(have, SIZE);
            CHECK_EQ(memcmp(sent, got, SIZE), 0);
        }
        size_t n;
        dyn_tls_goodbye(p.client);
        CHECK_EQ(carry(p.client, p.server, p.piece), DYN_OK);
        CHECK_EQ(dyn_tls_read(p.server, got, SIZE, &n), DYN_ECLOSED);
        free_pair(&p);
    }
    free(sent);
    free(got);
}

static void a_second_connection_is_a_short_one(void)
{
    dyn_tls_settings client = trusting(), server = serving();
    pair p = {0};
    for (int i = 0; i < 3; i++) {
        char byte;
        size_t n;
        CHECK_EQ(open_pair(&p, &client, &server, "localhost"), DYN_OK);
        CHECK_EQ(dyn_tls_resumed(p.client), i > 0);
        CHECK_EQ(dyn_tls_read(p.client, &byte, 1, &n), DYN_EAGAIN); /* the ticket is in there */
        close_pair(&p);
    }
    CHECK_EQ(open_pair(&p, &client, &server, "127.0.0.1"), DYN_OK);
    CHECK(!dyn_tls_resumed(p.client)); /* another name */
    free_pair(&p);
}

static void who_is_not_who_they_say_is_refused(void)
{
    dyn_tls_settings client = trusting(), server = serving();
    pair name = {0}, stranger = {0};
    CHECK_EQ(open_pair(&name, &client, &server, "elsewhere.test"), DYN_ECONN);
    CHECK(strstr(dyn_error_detail(), "hostname mismatch") != NULL);
    free_pair(&name);
    server.certificate = stranger_file;
    CHECK_EQ(open_pair(&stranger, &client, &server, "localhost"), DYN_ECONN);
    CHECK(strstr(dyn_error_detail(), "certificate is refused") != NULL);
    free_pair(&stranger);
    pair trust = {0};
    dyn_tls_settings anyone = {.trust_anyone = true};
    CHECK_EQ(open_pair(&trust, &anyone, &server, "elsewhere.test"), DYN_OK);
    free_pair(&trust);
}

static void a_server_may_ask_who_the_client_is(void)
{
    dyn_tls_settings client = trusting(), server = serving();
    server.need_client_certificate = true;
    server.ca_file = ca_file;
    client.certificate = client_file;
    pair known = {0}, unknown = {0}, stranger = {0};
    CHECK_EQ(open_pair(&known, &client, &server, "localhost"), DYN_OK);
    free_pair(&known);
    client.certificate = NULL;
    CHECK_EQ(open_pair(&unknown, &client, &server, "localhost"), DYN_ECONN);
    free_pair(&unknown);
    client.certificate = stranger_file;
    CHECK_EQ(open_pair(&stranger, &client, &server, "localhost"), DYN_ECONN);
    free_pair(&stranger);
}

static void what_is_not_tls_is_refused(void)
{
    static const char *const words[] = {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff....",
                                        "\x15\x03\x03\x00\x02\x02\x28"};
    for (size_t i = 0; i < DYN__COUNT(words); i++) {
        dyn_tls_settings server = serving();
        dyn_tls_context *context;
        dyn_tls *tls;
        char *room;
        size_t size;
        CHECK_EQ(dyn_tls_context_new(&context, &server), DYN_OK);
        CHECK_EQ(dyn_tls_new(&tls, context, NULL), DYN_OK);
        CHECK_EQ(dyn_tls_handshake(tls), DYN_EAGAIN);
        CHECK_EQ(dyn_tls_room(tls, &room, &size), DYN_OK);
        memcpy(room, words[i], 7);
        dyn_tls_fed(tls, 7);
        int rc = dyn_tls_handshake(tls);
        CHECK(rc == DYN_ECONN || rc == DYN_EAGAIN);
        CHECK_EQ(dyn_tls_write(tls, "x", 1) < 0, true);
        dyn_tls_free(tls);
        dyn_tls_context_unref(context);
    }
}

static void settings_that_cannot_be_are_refused(void)
{
    dyn_tls_context *context = NULL;
    dyn_tls *tls = NULL;
    make_certificates();
    dyn_tls_settings bad[] = {{.server = true},
                              {.ca_file = ca_file, .trust_anyone = true},
                              {.need_client_certificate = true, .ca_file = ca_file},
                              {.key = server_file},
                              {.certificate = ca_file}};
    for (size_t i = 0; i < DYN__COUNT(bad); i++) CHECK(dyn_tls_context_new(&context, &bad[i]) < 0);
    dyn_tls_settings gone = {.ca_file = "/no/such/file"};
    CHECK_EQ(dyn_tls_context_new(&context, &gone), DYN_ENOENT);
    dyn_tls_settings client = trusting();
    CHECK_EQ(dyn_tls_context_new(&context, &client), DYN_OK);
    CHECK_EQ(dyn_tls_new(&tls, context, NULL), DYN_EINVAL);
    CHECK_EQ(dyn_tls_new(&tls, context, ""), DYN_EINVAL);
    dyn_tls_context_unref(context);
}

static void every_allocation_may_fail(void)
{
    make_certificates();
    EACH_ALLOCATION_FAILS {
        dyn_tls_settings client = trusting(), server = serving();
        pair p = {0};
        rc = open_pair(&p, &client, &server, "localhost");
        if (rc == DYN_OK) rc = dyn_tls_write(p.client, "hello", 5);
        free_pair(&p);
    }
}

/* ---- our server and our client, over TLS ------------------------------------------------------------ */

typedef struct house {
    dyn_loop *loop;
    dyn_http_server *server;
    dyn_http_client *client;
} house;

static void echo(void *user, dyn_http_exchange *x)
{
    size_t length;
    const uint8_t *body = dyn_http_body(x, &length);
    (void)user;
    dyn_http_respond(x, 200, "text/plain", body, length);
    dyn_http_exchange_unref(x);
}
static void pieces(void *user, dyn_http_exchange *x)
{
    (void)user;
    dyn_http_begin(x, 200, "text/plain");
    for (int i = 0; i < 1000; i++) dyn_http_write(x, "0123456789", 10);
    dyn_http_end(x);
    dyn_http_exchange_unref(x);
}

static void let_go(void *user)
{
    *(atomic_int *)user += 1;
}
static atomic_int released;
static void lend(void *user, dyn_http_exchange *x)
{
    static char lent[100000];
    dyn_http_piece pieces[20];
    (void)user;
    for (size_t i = 0; i < DYN__COUNT(pieces); i++) pieces[i] = (dyn_http_piece){lent, sizeof(lent)};
    dyn_http_respond_pieces(x, 200, NULL, pieces, DYN__COUNT(pieces), let_go, &released);
    dyn_http_exchange_unref(x);
}

static void open_house(house *self)
{
    make_certificates();
    dyn_tls_settings serve = serving(), trust = trusting();
    dyn_http_settings settings = {.header_timeout_ms = 200};
    dyn_http_client_settings limits = {0};
    uint16_t port = 0;
    char url[64];
    CHECK_EQ(dyn_loop_new(&self->loop), DYN_OK);
    CHECK_EQ(dyn_tls_context_new(&settings.tls, &serve), DYN_OK);
    CHECK_EQ(dyn_tls_context_new(&limits.tls, &trust), DYN_OK);
    CHECK_EQ(dyn_http_server_new(&self->server, self->loop, &settings), DYN_OK);
    CHECK_EQ(dyn_http_route(self->server, "POST", "/echo", 0, echo, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(self->server, "POST", "/pieces", 0, pieces, NULL), DYN_OK);
    CHECK_EQ(dyn_http_route(self->server, "POST", "/lend", 0, lend, NULL), DYN_OK);
    CHECK_EQ(dyn_http_server_listen(self->server, NULL, 0, &port), DYN_OK);
    snprintf(url, sizeof(url), "https://127.0.0.1:%u", port);
    CHECK_EQ(dyn_http_client_new(&self->client, url, &limits), DYN_OK);
    dyn_tls_context_unref(settings.tls);
    settings.tls = limits.tls; /* a client's */
    dyn_http_server *refused;
    CHECK_EQ(dyn_http_server_new(&refused, self->loop, &settings), DYN_EINVAL);
    dyn_tls_context_unref(limits.tls);
}
static void close_house(house *self)
{
    dyn_http_client_unref(self->client);
    dyn_http_server_free(self->server);
    dyn_loop_unref(self->loop);
}

/* POST `size` bytes; how many came back, or what failed. */
static int post(house *self, const char *path, size_t size, uint32_t timeout_ms)
{
    char *body = malloc(size + 1);
    dyn_http_request request = {
        .method = "POST", .path = path, .body = memset(body, 'x', size), .length = size, .timeout_ms = timeout_ms};
    dyn_http_call *call = NULL;
    size_t length = 0;
    int rc = dyn_http_call_new(&call, self->client, &request);
    if (rc == DYN_OK)
        while ((rc = dyn_http_call_run(call)) == DYN_EAGAIN) continue;
    if (rc == DYN_OK) dyn_http_call_body(call, &length);
    if (rc == DYN_OK && dyn_http_call_status(call) != 200) rc = DYN_ENOMEM;
    dyn_http_call_free(call);
    free(body);
    return rc < 0 ? rc : (int)length;
}

static void a_server_speaks_it(void)
{
    static const size_t sizes[] = {0, 1, 16 * 1024, 100000, 5 << 20};
    house h;
    dyn_http_client_stats stats;
    open_house(&h);
    for (size_t i = 0; i < DYN__COUNT(sizes); i++) CHECK_EQ(post(&h, "/echo", sizes[i], 20000), sizes[i]);
    CHECK_EQ(post(&h, "/pieces", 3, 20000), 10000);
    CHECK_EQ(post(&h, "/lend", 3, 20000), 2000000);
    dyn_http_client_stats_read(h.client, &stats);
    CHECK_EQ(stats.opened, 1);
    close_house(&h);
    CHECK_EQ(released, 1);
}

static int fail_allocations_here(void *arg)
{
    dyn__fail_after = *(int *)arg;
    return DYN_OK;
}

static void a_failing_allocation_costs_a_connection_at_most(void)
{
    house h;
    int never = -1, rc = DYN_ENOMEM;
    open_house(&h);
    for (int nth = 0; nth < 200 && rc < 0;
         nth++) { /* on the loop's thread the nth allocation fails, and all after it */
        CHECK_EQ(dyn_loop_run(h.loop, fail_allocations_here, &nth), DYN_OK);
        rc = post(&h, nth & 1 ? "/echo" : "/pieces", 30000, 200);
        CHECK_EQ(dyn_loop_run(h.loop, fail_allocations_here, &never), DYN_OK);
        dyn_http_client_close_idle(h.client);
    }
    CHECK(rc > 0);
    CHECK_EQ(post(&h, "/echo", 100, 10000), 100);
    close_house(&h);
}

static void the_folder_is_removed(void)
{
    const char *const files[] = {ca_file, server_file, client_file, stranger_file};
    make_certificates();
    for (size_t i = 0; i < DYN__COUNT(files); i++) unlink(files[i]);
    CHECK_EQ(rmdir(folder), 0);
}

TEST_MAIN(TEST(bytes_come_through_in_pieces_of_any_size), TEST(a_second_connection_is_a_short_one),
          TEST(who_is_not_who_they_say_is_refused), TEST(a_server_may_ask_who_the_client_is),
          TEST(what_is_not_tls_is_refused), TEST(settings_that_cannot_be_are_refused), TEST(every_allocation_may_fail),
          TEST(a_server_speaks_it), TEST(a_failing_allocation_costs_a_connection_at_most), TEST(the_folder_is_removed))
