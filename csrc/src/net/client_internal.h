/* client_internal.h -- the parts of the HTTP client and who owns what.
 *
 *   client --idle--> link, link ...          links that threads share, under client->lock
 *   hub --lanes--> lane(client) --idle--> link, link ...     and --waiting--> calls without a link
 *   call --link--> link                      while it is under way
 *
 *   a link:   NAMES -> CONNECT -> SECURE (https) -> READY
 *   a call:   send request | gate -> parser -> rules -> body        both at once, by dyn__call_step()
 *
 * I1  A link belongs to exactly one of: a call, the client's idle stack, a lane's idle stack.
 * I2  A link with a hub is in that hub's poller and on its thread only; a link without one is in no poller.
 * I3  link->readable false means: the last read took all there was; only the kernel can say that there is more. The
 *     same for writable. Nobody reads twice to learn that there is nothing.
 * I4  link->in[from, to) was read and not consumed; it is empty when the link is idle.
 * I5  A link goes back to idle only when request and answer are complete, nothing is behind the answer, and neither
 *     side said close.
 */
#ifndef DYN_NET_CLIENT_INTERNAL_H
#define DYN_NET_CLIENT_INTERNAL_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "dynamo/http_client.h"
#include "net/http_internal.h"
#include "net/poller.h"

enum { DYN__IN_ROOM = 64 * 1024, DYN__ADDRESSES = 8 };

/* ---- names: resolve.c ------------------------------------------------------------------------- */
/* The addresses of a host, found by a thread of its own: getaddrinfo cannot be told a deadline. */
typedef struct dyn__names {
    atomic_size_t refs;
    atomic_bool done;
    int read_fd, write_fd; /* the other end is closed when done: readable; -1 when it was done at once */
    uint64_t since_ns;
    int gai; /* what getaddrinfo said */
    size_t count;
    struct sockaddr_storage address[DYN__ADDRESSES];
    socklen_t length[DYN__ADDRESSES];
    char *host;
    uint16_t port;
} dyn__names;
int dyn__names_new(dyn__names **out, const char *host, uint16_t port); /* one reference */
dyn__names *dyn__names_ref(dyn__names *self);
void dyn__names_unref(dyn__names *self);

/* ---- the client: client.c ---------------------------------------------------------------------- */
typedef struct dyn__link dyn__link;

struct dyn_http_client {
    atomic_size_t refs;
    dyn_http_client_settings limits; /* no zeros; tls is ours when https */
    char *url;                       /* as given, for messages */
    char *host, *prefix;             /* host without brackets; prefix "" or "/a/b" */
    char *host_line;                 /* "Host: ...\r\n" */
    uint16_t port;
    bool https;
    pthread_mutex_t lock; /* of what follows */
    dyn__link *idle;      /* the one used last first */
    uint32_t idle_count;
    dyn__names *names;
    int pid;
    _Atomic uint64_t opened, reused, calls, failed;
};
/* An idle link that is still good, else a new one that is not open yet. Blocking use.  errors  DYN_ENOMEM, DYN_ECONN. */
int dyn__client_link(dyn_http_client *self, dyn__link **out, bool fresh);
void dyn__client_keep(dyn_http_client *self, dyn__link *link); /* taken */
/* The host's addresses, known or being found; one reference.  errors  DYN_ENOMEM, DYN_EIO. */
int dyn__client_names(dyn_http_client *self, dyn__names **out);
void dyn__client_forget_names(dyn_http_client *self); /* they led nowhere */

/* ---- a connection: client_link.c --------------------------------------------------------------- */
struct dyn__link {
    int fd; /* NAMES: a copy of names->read_fd */
    enum { DYN__NAMES, DYN__CONNECT, DYN__SECURE, DYN__READY } phase;
    bool readable, writable; /* I3 */
    bool ending;             /* the kernel has the last byte: reading goes on to the end */
    bool ended;              /* that was read, or the connection broke */
    bool used;               /* carried a whole exchange before */
    dyn_http_client *client; /* borrowed: its owner (I1) holds a reference */
    dyn_http_hub *hub;
    dyn_http_call *call; /* borrowed */
    dyn__names *names;
    size_t address;           /* the one being tried */
    uint64_t attempt_ends_ns; /* UINT64_MAX: no other address is left */
    dyn_tls *tls;
    dyn__link *next; /* of an idle stack, or of those to be freed */
    uint64_t idle_since_ns;
    size_t in_from, in_to; /* I4 */
    char in[DYN__IN_ROOM];
};
int dyn__link_new(dyn__link **out, dyn_http_client *client, dyn_http_hub *hub);
void dyn__link_free(dyn__link *self);
/* Go on with opening. errors DYN_EAGAIN: what it waits for is in dyn__link_wants(). */
int dyn__link_open(dyn__link *self, uint64_t deadline_ns);
/* POLLIN | POLLOUT, given what the call wants beyond the link itself. */
short dyn__link_wants(const dyn__link *self, bool more_to_send);
/* *got bytes, at least 1.  errors  DYN_EAGAIN, DYN_ECLOSED (a clean end), DYN_EBROKEN. */
int dyn__link_read(dyn__link *self, void *out, size_t size, size_t *got);
/* *taken bytes.  errors  DYN_EAGAIN (none), DYN_EBROKEN. */
int dyn__link_write(dyn__link *self, struct iovec *pieces, int count, size_t *taken);
int dyn__link_flush(dyn__link *self);               /* what TLS holds; DYN_OK: all is in the kernel */
bool dyn__link_good(dyn__link *self, uint64_t now); /* an idle one: can it be used again? */

/* ---- a call: client_call.c, client_reply.c ----------------------------------------------------- */
enum dyn__framing { DYN__NO_REPLY_BODY, DYN__REPLY_SIZED, DYN__REPLY_CHUNKED, DYN__REPLY_TO_END };

struct dyn_http_call {
    dyn_http_client *client; /* a reference */
    dyn__link *link;         /* I1 */
    dyn_http_hub *hub;
    dyn_http_call *next, *prev; /* of the hub's active or a lane's waiting list */
    dyn_http_call *next_news;
    bool in_news, waiting, active;
    void *user;
    unsigned flags;
    enum dyn_http_call_phase phase;
    int rc; /* FAILED: why */
    uint32_t timeout_ms;
    uint64_t deadline_ns; /* UINT64_MAX: none */

    /* the request */
    bool is_head, retried, congested;
    dyn__bytes head;     /* with a short body behind it */
    dyn_http_piece body; /* when it is in one piece */
    const dyn_http_piece *pieces;
    size_t piece_count, piece, piece_sent; /* the one being sent, and how much of it was */
    size_t body_length, sent;              /* sent counts head and body */
    dyn__bytes later;                      /* chunks that follow */
    size_t later_sent;
    bool later_over; /* no more chunks will come */
    bool send_over;  /* all is sent, or nothing more will be */
    bool send_broke; /* that; an answer may be there all the same */

    /* the answer */
    dyn__http_parser parser;
    int gate, interim; /* interim: 1xx answers so far */
    size_t scanned;    /* bytes of link->in that the gate has seen */
    bool keep, headed; /* headed: the head is known */
    bool hungry;       /* somebody waits for more of the body: the window does not count */
    enum dyn__framing framing;
    int status;
    uint64_t left;   /* SIZED: still to come */
    uint64_t length; /* SIZED: in all */
    dyn__http_fields fields;
    dyn__bytes reply;
    size_t consumed;
    char *into; /* instead of reply */
    size_t into_length;
    char why[320];
};
/* As far as it goes without waiting: DYN_OK at a stop, DYN_EAGAIN, the failure (noted in the call), or DYN__FRESH: the
 * kept-alive connection was dead before anything happened on it, so give the call a new one. */
enum { DYN__FRESH = 1 };
int dyn__call_step(dyn_http_call *self);
void dyn__call_attach(dyn_http_call *self, dyn__link *link); /* taken */
int dyn__call_fail(dyn_http_call *self, int rc);             /* takes the thread's detail; returns rc */
int dyn__call_timed_out(dyn_http_call *self);
uint64_t dyn__call_wakes_ns(const dyn_http_call *self); /* its deadline, or that of a connection attempt */
/* client_reply.c: take what is in link->in.  DYN_OK: made progress; DYN_EAGAIN: needs more bytes. */
void dyn__reply_reset(dyn_http_call *self);
int dyn__reply_head(dyn_http_call *self);
int dyn__reply_chunks(dyn_http_call *self);
int dyn__reply_put(dyn_http_call *self, const char *data, size_t length);

/* hub.c */
dyn__poller *dyn__hub_poller(dyn_http_hub *self);                       /* NULL in a child of fork */
void dyn__hub_release(dyn_http_call *call, dyn__link *link, bool keep); /* the link of a call that is over */
void dyn__hub_forget(dyn_http_call *call);                              /* it is freed */

#endif
