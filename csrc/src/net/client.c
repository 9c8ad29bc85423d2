/* client.c -- one server: its URL, its idle connections, its names. See dynamo/http_client.h and client_internal.h. */
#include <ctype.h>
#include <stdio.h>
#include <unistd.h>

#include "net/client_internal.h"

enum { MAX_URL = 2048, NAMES_LIVE_S = 30 };

/* ---- the url ----------------------------------------------------------------------------------- */

static int bad_url(const char *url, const char *why)
{
    return dyn__fail(DYN_EINVAL, "the URL \"%.200s\": %s", url, why);
}

static int parse_host(dyn_http_client *self, const char *from, size_t length)
{
    const char *url = self->url, *port = NULL;
    size_t name = length;
    bool bracket = length > 0 && from[0] == '[';
    if (bracket) {
        const char *end = memchr(from, ']', length);
        if (end == NULL) return bad_url(url, "an IPv6 address ends with ]");
        name = (size_t)(end - from) + 1;
        if (name < length && from[name] != ':') return bad_url(url, "behind ] comes :port or /path");
        if (name < length) port = from + name + 1;
    } else {
        const char *colon = memchr(from, ':', length);
        if (colon != NULL) name = (size_t)(colon - from), port = colon + 1;
    }
    if (name == 0 || name > 255) return bad_url(url, "it has no host, as in http://localhost:8000");
    self->port = self->https ? 443 : 80;
    if (port != NULL) {
        size_t digits = (size_t)(from + length - port);
        unsigned long number = digits > 0 && digits <= 5 ? strtoul(port, NULL, 10) : 0;
        for (size_t i = 0; i < digits; i++)
            if (!isdigit((unsigned char)port[i])) number = 0;
        if (number == 0 || number > 65535) return bad_url(url, "the port must be 1 to 65535");
        self->port = (uint16_t)number;
    }
    for (size_t i = 0; i < name; i++) {
        unsigned char c = (unsigned char)from[i];
        bool good = isalnum(c) || c == '-' || c == '.' || c == '_' || (bracket && (c == ':' || c == '[' || c == ']'));
        if (!good) return bad_url(url, "a host has letters, digits, dots and dashes");
    }
    self->host = bracket ? dyn__strndup(from + 1, name - 2) : dyn__strndup(from, name);
    size_t room = length + sizeof("Host: \r\n");
    self->host_line = dyn__malloc(room);
    if (self->host == NULL || self->host_line == NULL) return DYN_ENOMEM;
    snprintf(self->host_line, room, "Host: %.*s\r\n", (int)length, from);
    return DYN_OK;
}

static int parse_url(dyn_http_client *self)
{
    const char *url = self->url, *at = url;
    if (strlen(url) > MAX_URL) return bad_url(url, "it is longer than 2048 bytes");
    for (const char *c = url; *c != 0; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return bad_url(url, "it has a blank, a control character or a byte that is not ASCII: percent-encode it");
    if (strncasecmp(url, "http://", 7) == 0)
        at += 7;
    else if (strncasecmp(url, "https://", 8) == 0)
        at += 8, self->https = true;
    else
        return bad_url(url, "it must begin with http:// or https://");
    size_t host = strcspn(at, "/?#");
    if (memchr(at, '@', host) != NULL)
        return bad_url("(not shown)", "it has a user or password: send them as a header instead");
    if (strpbrk(at, "?#") != NULL) return bad_url(url, "a base URL has no ? or #");
    int rc = parse_host(self, at, host);
    if (rc < 0) return rc;
    size_t prefix = strlen(at + host);
    while (prefix > 0 && at[host + prefix - 1] == '/') prefix--;
    self->prefix = dyn__strndup(at + host, prefix);
    return self->prefix != NULL ? DYN_OK : DYN_ENOMEM;
}

/* ---- life -------------------------------------------------------------------------------------- */

int dyn_http_client_new(dyn_http_client **out, const char *url, const dyn_http_client_settings *settings)
{
    dyn_http_client *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc = DYN_ENOMEM;
    dyn_http_client_settings *l = &self->limits;
    atomic_init(&self->refs, 1);
    pthread_mutex_init(&self->lock, NULL);
    self->pid = getpid();
    if (settings != NULL) *l = *settings;
    l->tls = NULL;
    if (l->max_response_bytes == 0) l->max_response_bytes = (size_t)256 << 20;
    if (l->max_header_bytes == 0 || l->max_header_bytes > DYN__IN_ROOM) l->max_header_bytes = DYN__IN_ROOM;
    if (l->max_headers == 0) l->max_headers = 100;
    if (l->max_idle == 0) l->max_idle = 100;
    if (l->max_connections == 0) l->max_connections = 100;
    if (l->idle_timeout_ms == 0) l->idle_timeout_ms = 60 * 1000;
    if (l->window_bytes == 0) l->window_bytes = (size_t)1 << 20;
    if ((self->url = dyn__strdup(url)) == NULL || (rc = parse_url(self)) < 0) goto fail;
    if (self->https && settings != NULL && settings->tls != NULL)
        l->tls = dyn_tls_context_ref(settings->tls);
    else if (self->https && (rc = dyn_tls_context_new(&l->tls, NULL)) < 0)
        goto fail;
    *out = self;
    return DYN_OK;
fail:
    dyn_http_client_unref(self);
    return rc;
}

dyn_http_client *dyn_http_client_ref(dyn_http_client *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_http_client_unref(dyn_http_client *self)
{
    if (self == NULL || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    dyn_http_client_close_idle(self);
    dyn__names_unref(self->names);
    dyn_tls_context_unref(self->limits.tls);
    pthread_mutex_destroy(&self->lock);
    dyn__free(self->url);
    dyn__free(self->host);
    dyn__free(self->prefix);
    dyn__free(self->host_line);
    dyn__free(self);
}

/* A child of fork has copies of the parent's sockets: it closes them, says nothing on them, and starts afresh. A
 * lock that a thread of the parent held at the fork is made anew. */
static void lock(dyn_http_client *self)
{
    if (DYN__UNLIKELY(self->pid != getpid())) {
        pthread_mutex_init(&self->lock, NULL);
        dyn__link *link = self->idle;
        self->idle = NULL;
        self->idle_count = 0;
        dyn__names_unref(self->names); /* its thread stayed behind */
        self->names = NULL;
        while (link != NULL) {
            dyn__link *next = link->next;
            link->ended = true; /* no goodbye */
            dyn__link_free(link);
            link = next;
        }
        self->pid = getpid();
    }
    pthread_mutex_lock(&self->lock);
}

void dyn_http_client_close_idle(dyn_http_client *self)
{
    lock(self);
    dyn__link *link = self->idle;
    self->idle = NULL;
    self->idle_count = 0;
    pthread_mutex_unlock(&self->lock);
    while (link != NULL) {
        dyn__link *next = link->next;
        dyn__link_free(link);
        link = next;
    }
}

void dyn_http_client_stats_read(const dyn_http_client *self, dyn_http_client_stats *out)
{
    dyn_http_client *client = (dyn_http_client *)(uintptr_t)self;
    lock(client);
    out->idle = client->idle_count;
    pthread_mutex_unlock(&client->lock);
    out->opened = atomic_load_explicit(&client->opened, memory_order_relaxed);
    out->reused = atomic_load_explicit(&client->reused, memory_order_relaxed);
    out->calls = atomic_load_explicit(&client->calls, memory_order_relaxed);
    out->failed = atomic_load_explicit(&client->failed, memory_order_relaxed);
}

/* ---- links ------------------------------------------------------------------------------------- */

int dyn__client_link(dyn_http_client *self, dyn__link **out, bool fresh)
{
    while (!fresh) {
        lock(self);
        dyn__link *link = self->idle;
        if (link != NULL) {
            self->idle = link->next;
            self->idle_count--;
        }
        pthread_mutex_unlock(&self->lock);
        if (link == NULL) break;
        if (dyn__link_good(link, dyn_now_ns())) {
            atomic_fetch_add_explicit(&self->reused, 1, memory_order_relaxed);
            *out = link;
            return DYN_OK;
        }
        dyn__link_free(link);
    }
    return dyn__link_new(out, self, NULL);
}

void dyn__client_keep(dyn_http_client *self, dyn__link *link)
{
    dyn__link *old = NULL;
    link->used = true;
    link->call = NULL;
    link->idle_since_ns = dyn_now_ns();
    lock(self);
    link->next = self->idle;
    self->idle = link;
    if (++self->idle_count > self->limits.max_idle) { /* the one that was idle longest goes */
        dyn__link **at = &self->idle;
        while ((*at)->next != NULL) at = &(*at)->next;
        old = *at;
        *at = NULL;
        self->idle_count--;
    }
    pthread_mutex_unlock(&self->lock);
    dyn__link_free(old);
}

int dyn__client_names(dyn_http_client *self, dyn__names **out)
{
    int rc = DYN_OK;
    lock(self);
    dyn__names *names = self->names;
    if (names != NULL && dyn_now_ns() - names->since_ns > NAMES_LIVE_S * UINT64_C(1000000000) && names->done) {
        self->names = NULL;
        dyn__names_unref(names);
    }
    if (self->names == NULL) rc = dyn__names_new(&self->names, self->host, self->port);
    if (rc == DYN_OK) *out = dyn__names_ref(self->names);
    pthread_mutex_unlock(&self->lock);
    return rc;
}

void dyn__client_forget_names(dyn_http_client *self)
{
    lock(self);
    dyn__names *names = self->names;
    self->names = NULL;
    pthread_mutex_unlock(&self->lock);
    dyn__names_unref(names);
}
