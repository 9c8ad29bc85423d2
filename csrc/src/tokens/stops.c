/* stops.c -- see dynamo/tokens.h for the contract. An automaton of Aho and Corasick over all stop strings.
 *
 *   "</s>", "<end>":     root -<- n1 -/- n2 -s- n3 ->- n4 (match 0)
 *                                   \-e- n5 -n- n6 -d- n7 ->- n8 (match 1)
 *
 * The state after some text is the longest end of the text that begins a stop string: exactly what must be held
 * back. Its bytes are the path from the root, so they need not be stored: node.text says where they are.
 *
 * I1  node 0 is the root: depth 0, fails to itself.
 * I2  fail(n) is the node of the longest proper end of path(n) that is a path too; depth(fail(n)) < depth(n).
 * I3  longest(n) is the longest stop string that path(n) ends with, -1 for none.
 */
#include "common/common.h"
#include "dynamo/tokens.h"

struct node {
    uint32_t text; /* path(n) = bytes + text, depth long */
    uint32_t depth;
    uint32_t child, sibling; /* 0: none */
    uint32_t fail;
    int32_t longest; /* I3 */
    uint32_t longest_size;
    uint8_t byte;
};

struct dyn_stops {
    atomic_size_t refs;
    uint32_t count;     /* nodes */
    uint8_t first[256]; /* does a string begin with this byte? */
    struct node *nodes; /* in the same allocation, then bytes */
    char *bytes;
};

static uint32_t child_of(const dyn_stops *self, uint32_t node, uint8_t byte)
{
    uint32_t child = self->nodes[node].child;
    while (child != 0 && self->nodes[child].byte != byte) child = self->nodes[child].sibling;
    return child;
}

static void insert(dyn_stops *self, uint32_t text, size_t size, int32_t index)
{
    uint32_t at = 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)self->bytes[text + i];
        uint32_t next = child_of(self, at, byte);
        if (next == 0) {
            next = self->count++;
            self->nodes[next] = (struct node){
                .text = text, .depth = (uint32_t)i + 1, .byte = byte, .longest = -1, .sibling = self->nodes[at].child};
            self->nodes[at].child = next;
        }
        at = next;
    }
    if (self->nodes[at].longest < 0) { /* of equal strings the first */
        self->nodes[at].longest = index;
        self->nodes[at].longest_size = (uint32_t)size;
    }
}

/* Breadth first, so that fail() of all shorter paths is known (I2). queue: room for every node. */
static void link_failures(dyn_stops *self, uint32_t *queue)
{
    uint32_t head = 0, tail = 0;
    queue[tail++] = 0;
    while (head < tail) {
        uint32_t at = queue[head++];
        for (uint32_t child = self->nodes[at].child; child != 0; child = self->nodes[child].sibling) {
            struct node *node = &self->nodes[child];
            uint32_t fail = self->nodes[at].fail, next = 0;
            if (at != 0) {
                while ((next = child_of(self, fail, node->byte)) == 0 && fail != 0) fail = self->nodes[fail].fail;
            }
            node->fail = next;
            if (node->longest < 0) {
                node->longest = self->nodes[next].longest;
                node->longest_size = self->nodes[next].longest_size;
            }
            queue[tail++] = child;
        }
    }
}

int dyn_stops_new(dyn_stops **out, const char *const *strings, const size_t *sizes, size_t count)
{
    size_t total = 0;
    if (count > DYN_STOPS_MAX) return dyn__fail(DYN_ELIMIT, "%zu stop strings: at most %d", count, DYN_STOPS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] == 0) return dyn__fail(DYN_EINVAL, "stop string %zu is empty", i);
        if (sizes[i] > DYN_STOPS_MAX_BYTES - total)
            return dyn__fail(DYN_ELIMIT, "the stop strings are longer than %d bytes together", DYN_STOPS_MAX_BYTES);
        total += sizes[i];
    }
    dyn_stops *self = dyn__calloc(1, sizeof(*self) + (total + 1) * sizeof(struct node) + total);
    if (self == NULL) return DYN_ENOMEM;
    uint32_t *queue = dyn__malloc((total + 1) * sizeof(*queue));
    if (queue == NULL) return dyn__free(self), DYN_ENOMEM;
    atomic_init(&self->refs, 1);
    self->nodes = (struct node *)(self + 1);
    self->bytes = (char *)(self->nodes + total + 1);
    self->nodes[0] = (struct node){.longest = -1}; /* I1 */
    self->count = 1;
    for (size_t i = 0, at = 0; i < count; at += sizes[i], i++) {
        memcpy(self->bytes + at, strings[i], sizes[i]);
        self->first[(uint8_t)strings[i][0]] = 1;
        insert(self, (uint32_t)at, sizes[i], (int32_t)i);
    }
    link_failures(self, queue);
    dyn__free(queue);
    *out = self;
    return DYN_OK;
}

dyn_stops *dyn_stops_ref(dyn_stops *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_stops_unref(dyn_stops *self)
{
    if (self == NULL) return;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) == 1) dyn__free(self);
}

void dyn_jail_init(dyn_jail *self, const dyn_stops *stops, bool include_stop)
{
    *self = (dyn_jail){.stops = stops, .matched = -1, .include_stop = include_stop};
}

size_t dyn_jail_held(const dyn_jail *self)
{
    return self->stops == NULL || self->matched >= 0 ? 0 : self->stops->nodes[self->node].depth;
}

static void put(dyn_text *out, const char *bytes, size_t size)
{
    memcpy(out->data + out->size, bytes, size);
    out->size += size;
}

int dyn_jail_push(dyn_jail *self, const char *text, size_t size, dyn_text *out)
{
    const dyn_stops *stops = self->stops;
    int rc;

    if (self->matched >= 0) return 1;
    if (size == 0) return DYN_OK;
    if (stops == NULL) return dyn_text_append(out, text, size);
    if ((rc = dyn_text_reserve(out, dyn_jail_held(self) + size)) < 0) return rc;
    uint32_t at = self->node;
    for (size_t i = 0; i < size;) {
        uint8_t byte = (uint8_t)text[i];
        if (at == 0 && !stops->first[byte]) {
            size_t run = i + 1;
            while (run < size && !stops->first[(uint8_t)text[run]]) run++;
            put(out, text + i, run - i);
            i = run;
            continue;
        }
        uint32_t next = child_of(stops, at, byte);
        const struct node *node = &stops->nodes[at];
        if (next == 0) { /* not at the root: its children are those of `first` */
            put(out, stops->bytes + node->text, node->depth - stops->nodes[node->fail].depth);
            at = node->fail;
            continue;
        }
        node = &stops->nodes[next];
        if (node->longest >= 0) {
            put(out, stops->bytes + node->text, self->include_stop ? node->depth : node->depth - node->longest_size);
            self->matched = node->longest;
            self->node = 0;
            return 1;
        }
        at = next;
        i++;
    }
    self->node = at;
    return DYN_OK;
}

int dyn_jail_end(dyn_jail *self, dyn_text *out)
{
    size_t held = dyn_jail_held(self);
    if (held > 0) {
        int rc = dyn_text_append(out, self->stops->bytes + self->stops->nodes[self->node].text, held);
        if (rc < 0) return rc;
    }
    self->node = 0;
    return DYN_OK;
}
