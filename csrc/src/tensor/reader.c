/* reader.c -- see dynamo/tensor_frames.h for the contract: a stream of tensors as its bytes come.
 *
 *   head[9]  ->  check_head(): may this frame come now, may it be this large?  ->  payload
 *                                                META:     into `held`, then memory for the tensor
 *                                                PAYLOAD:  into `buf` at `filled`
 *                                                others:   from the input where it lies whole there, else into `held`
 * I1  filled <= meta.bytes, and left <= meta.bytes - filled while a PAYLOAD is read.
 * I2  Nothing is allocated by a size that was only announced, but a tensor within its limit: `held` grows with what came.
 * I3  broken < 0: every call returns it, with the sentence that it had at first.
 */
#include "common/common.h"
#include "dynamo/tensor_frames.h"
#include "tensor/inside.h"

struct dyn_tensor_reader {
    dyn_tensor_limits limits;
    enum { BETWEEN, INSIDE, COMPLETE, OVER } state; /* COMPLETE: to be reported by the next call */
    int broken;
    char sentence[256];
    uint8_t head[DYN_TENSOR_HEAD];
    size_t head_size; /* bytes of it that are there; all: inside of a frame */
    uint32_t left;    /* payload bytes to come */
    uint8_t *held;
    size_t held_size, held_room;
    uint8_t *name; /* what meta.name points to */
    dyn_tensor_meta meta;
    bool had_tensor;
    dyn_buf *buf;
    uint64_t filled;
};

int dyn_tensor_reader_new(dyn_tensor_reader **out, const dyn_tensor_limits *limits)
{
    dyn_tensor_reader *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    if (limits != NULL) self->limits = *limits;
    if (self->limits.tensor == 0) self->limits.tensor = DYN_TENSOR_MAX_BYTES;
    if (self->limits.message == 0) self->limits.message = DYN_TENSOR_MAX_MESSAGE;
    *out = self;
    return DYN_OK;
}

void dyn_tensor_reader_free(dyn_tensor_reader *self)
{
    if (self == NULL) return;
    dyn_buf_unref(self->buf);
    dyn__free(self->held);
    dyn__free(self->name);
    dyn__free(self);
}

static int breaks(dyn_tensor_reader *self, int rc)
{
    const char *detail = dyn_error_detail();
    size_t size = strlen(detail);
    if (size >= sizeof(self->sentence)) size = sizeof(self->sentence) - 1;
    memcpy(self->sentence, detail, size);
    self->sentence[size] = '\0';
    return self->broken = rc;
}

static int check_place(dyn_tensor_reader *self, uint8_t type)
{
    unsigned long long filled = self->filled, bytes = self->meta.bytes;
    if (self->state == OVER) return dyn__fail(DYN_EPROTO, "a frame after the end of the stream");
    if (self->state != INSIDE) {
        if (type != DYN_TENSOR_PAYLOAD) return DYN_OK;
        if (self->had_tensor) return dyn__fail(DYN_EPROTO, "more payload than the %llu bytes of the tensor", bytes);
        return dyn__fail(DYN_EPROTO, "missing tensor metadata: TENSOR_PAYLOAD received before TENSOR_META");
    }
    if (type == DYN_TENSOR_END)
        return dyn__fail(DYN_EPROTO, "tensor size mismatch: expected %llu bytes, got %llu", bytes, filled);
    if (type == DYN_TENSOR_META || type == DYN_TENSOR_PROTO || type == DYN_TENSOR_TOKENS)
        return dyn__fail(DYN_EPROTO, "a frame of type 0x%02x inside of a tensor, after %llu of its %llu bytes", type,
                         filled, bytes);
    return DYN_OK;
}

static int check_head(dyn_tensor_reader *self)
{
    const uint8_t *h = self->head;
    uint32_t size = (uint32_t)h[5] << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8];
    if ((h[1] | h[2] | h[3] | h[4]) != 0)
        return dyn__fail(DYN_EPROTO, "reserved bytes %02x %02x %02x %02x of a frame: must be 0", h[1], h[2], h[3],
                         h[4]);
    switch (h[0]) {
    case DYN_TENSOR_END:
        if (size != 0) return dyn__fail(DYN_EPROTO, "an END frame of %u bytes: must be empty", size);
        break;
    case DYN_TENSOR_CREDIT:
        if (size != 8) return dyn__fail(DYN_EPROTO, "a CREDIT frame of %u bytes: must be 8", size);
        break;
    case DYN_TENSOR_META:
        if (size > DYN_TENSOR_META_MAX)
            return dyn__fail(DYN_ELIMIT, "tensor metadata of %u bytes: at most %d", size, DYN_TENSOR_META_MAX);
        break;
    case DYN_TENSOR_PAYLOAD:
        if (size > self->meta.bytes - self->filled)
            return dyn__fail(DYN_EPROTO, "%u bytes of payload: the tensor of %llu bytes lacks %llu", size,
                             (unsigned long long)self->meta.bytes,
                             (unsigned long long)(self->meta.bytes - self->filled));
        break;
    default:
        if (size > self->limits.message)
            return dyn__fail(DYN_ELIMIT, "a frame of %u bytes: at most %u are taken", size, self->limits.message);
    }
    self->left = size;
    self->held_size = 0;
    return DYN_OK;
}

static int hold(dyn_tensor_reader *self, const uint8_t *bytes, size_t size)
{
    if (size > self->held_room - self->held_size) {
        size_t room = self->held_room < 256 ? 256 : self->held_room;
        while (room - self->held_size < size) room *= 2;
        uint8_t *held = dyn__realloc(self->held, room);
        if (held == NULL) return DYN_ENOMEM;
        self->held = held;
        self->held_room = room;
    }
    if (size > 0) memcpy(self->held + self->held_size, bytes, size);
    self->held_size += size;
    return DYN_OK;
}

static int begin_tensor(dyn_tensor_reader *self, const uint8_t *payload, size_t size, dyn_tensor_event *event)
{
    int rc = dyn_tensor_meta_read(payload, size, &self->meta);
    if (rc < 0) return rc;
    if (self->meta.bytes > self->limits.tensor)
        return dyn__fail(DYN_ELIMIT, "a tensor of %llu bytes: at most %llu are taken",
                         (unsigned long long)self->meta.bytes, (unsigned long long)self->limits.tensor);
    if (self->meta.name_size > 0) {
        uint8_t *name = dyn__realloc(self->name, self->meta.name_size);
        if (name == NULL) return DYN_ENOMEM;
        self->name = memcpy(name, self->meta.name, self->meta.name_size);
        self->meta.name = (const char *)name;
    }
    if ((rc = dyn_buf_new(&self->buf, self->meta.bytes)) < 0) return rc;
    self->filled = 0;
    self->had_tensor = true;
    self->state = self->meta.bytes == 0 ? COMPLETE : INSIDE;
    event->type = DYN_TENSOR_EVENT_META;
    event->meta = &self->meta;
    return DYN_OK;
}

static void give_tensor(dyn_tensor_reader *self, dyn_tensor_event *event)
{
    event->type = DYN_TENSOR_EVENT_TENSOR;
    event->meta = &self->meta;
    event->buf = self->buf;
    self->buf = NULL;
    self->state = BETWEEN;
}

/* A whole payload that is not of a tensor. */
static int whole(dyn_tensor_reader *self, const uint8_t *payload, size_t size, dyn_tensor_event *event)
{
    event->data = payload;
    event->size = size;
    switch (self->head[0]) {
    case DYN_TENSOR_META: event->data = NULL, event->size = 0; return begin_tensor(self, payload, size, event);
    case DYN_TENSOR_PROTO: event->type = DYN_TENSOR_EVENT_MESSAGE; return DYN_OK;
    case DYN_TENSOR_TOKENS: event->type = DYN_TENSOR_EVENT_TOKENS; return DYN_OK;
    case DYN_TENSOR_CREDIT:
        event->type = DYN_TENSOR_EVENT_CREDIT;
        memcpy(&event->credit, payload, 8);
        return DYN_OK;
    case DYN_TENSOR_CANCEL:
        event->type = DYN_TENSOR_EVENT_CANCEL;
        self->state = OVER;
        dyn_buf_unref(self->buf);
        self->buf = NULL;
        return DYN_OK;
    default: /* END */
        event->type = DYN_TENSOR_EVENT_END;
        self->state = OVER;
        return DYN_OK;
    }
}

int dyn_tensor_reader_feed(dyn_tensor_reader *self, const uint8_t *bytes, size_t size, size_t *used,
                           dyn_tensor_event *event)
{
    const uint8_t *at = bytes, *end = size > 0 ? bytes + size : bytes;
    int rc;
    *event = (dyn_tensor_event){.type = DYN_TENSOR_EVENT_NONE};
    *used = 0;
    if (self->broken < 0) return dyn__fail(self->broken, "%s", self->sentence);
    if (self->state == COMPLETE) give_tensor(self, event);
    while (event->type == DYN_TENSOR_EVENT_NONE) {
        if (self->head_size < DYN_TENSOR_HEAD) {
            if (at == end) break;
            self->head[self->head_size++] = *at++;
            if (self->head_size == 1 &&
                ((rc = dyn__tensor_type_check(self->head[0])) < 0 || (rc = check_place(self, self->head[0])) < 0))
                return breaks(self, rc);
            if (self->head_size < DYN_TENSOR_HEAD) continue;
            if ((rc = check_head(self)) < 0) return breaks(self, rc);
        }
        size_t take = (size_t)(end - at) < self->left ? (size_t)(end - at) : self->left;
        if (self->head[0] == DYN_TENSOR_PAYLOAD) {
            assert(take <= self->meta.bytes - self->filled); /* I1 */
            if (take > 0) memcpy(dyn_buf_data(self->buf) + self->filled, at, take);
            at += take;
            if ((rc = dyn_tensor_reader_filled(self, take, event)) < 0) return rc;
            if (self->left > 0) break;
            continue;
        }
        const uint8_t *payload = at;
        if (take < self->left || self->held_size > 0) {
            if ((rc = hold(self, at, take)) < 0) return breaks(self, rc);
            payload = self->held;
        }
        at += take;
        self->left -= (uint32_t)take;
        if (self->left > 0) break;
        self->head_size = 0;
        rc = whole(self, payload, self->held_size > 0 ? self->held_size : take, event);
        if (rc < 0) return breaks(self, rc);
    }
    *used = (size_t)(at - bytes);
    return DYN_OK;
}

uint8_t *dyn_tensor_reader_room(dyn_tensor_reader *self, size_t *room)
{
    bool here = self->broken == 0 && self->state == INSIDE && self->head_size == DYN_TENSOR_HEAD &&
                self->head[0] == DYN_TENSOR_PAYLOAD && self->left > 0;
    *room = here ? self->left : 0;
    return here ? dyn_buf_data(self->buf) + self->filled : NULL;
}

int dyn_tensor_reader_filled(dyn_tensor_reader *self, size_t size, dyn_tensor_event *event)
{
    *event = (dyn_tensor_event){.type = DYN_TENSOR_EVENT_NONE};
    if (self->broken < 0) return dyn__fail(self->broken, "%s", self->sentence);
    if (size > self->left || self->head_size < DYN_TENSOR_HEAD || self->head[0] != DYN_TENSOR_PAYLOAD)
        return dyn__fail(DYN_EINVAL, "%zu bytes of payload written: there was room for %u", size, self->left);
    self->filled += size;
    self->left -= (uint32_t)size;
    if (self->left > 0) return DYN_OK;
    self->head_size = 0;
    if (self->filled == self->meta.bytes) give_tensor(self, event);
    return DYN_OK;
}

int dyn_tensor_reader_end(dyn_tensor_reader *self)
{
    if (self->broken < 0) return dyn__fail(self->broken, "%s", self->sentence);
    if (self->state == OVER && self->head_size == 0) return DYN_OK;
    if (self->state == INSIDE)
        return dyn__fail(DYN_ETRUNC, "the stream ends after %llu of the %llu bytes of a tensor",
                         (unsigned long long)self->filled, (unsigned long long)self->meta.bytes);
    return dyn__fail(DYN_ETRUNC, "the stream ends without an END frame");
}
