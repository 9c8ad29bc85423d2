/* bytes.c -- see dynamo/wire.h for the contract: bytes that grow, and varints. */
#include "common/common.h"
#include "dynamo/wire.h"

void dyn_bytes_free(dyn_bytes *self)
{
    dyn__free(self->data);
    *self = (dyn_bytes){0};
}

int dyn_bytes_reserve(dyn_bytes *self, size_t more)
{
    if (more <= self->room - self->size) return DYN_OK;
    if (more > SIZE_MAX / 2 - self->size) return DYN_ENOMEM;
    size_t room = self->room < 256 ? 256 : self->room;
    while (room - self->size < more) room *= 2;
    uint8_t *data = dyn__realloc(self->data, room);
    if (data == NULL) return DYN_ENOMEM;
    self->data = data, self->room = room;
    return DYN_OK;
}

int dyn_bytes_append(dyn_bytes *self, const void *data, size_t size)
{
    if (size == 0) return DYN_OK;
    int rc = dyn_bytes_reserve(self, size);
    if (rc < 0) return rc;
    memcpy(self->data + self->size, data, size);
    self->size += size;
    return DYN_OK;
}

size_t dyn_varint_write(uint8_t *out, uint64_t value)
{
    size_t n = 0;
    while (value >= 0x80) {
        out[n++] = (uint8_t)value | 0x80;
        value >>= 7;
    }
    out[n++] = (uint8_t)value;
    return n;
}

size_t dyn_varint_read(const uint8_t *bytes, size_t size, uint64_t *out)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size && i < DYN_WIRE_VARINT_MAX; i++) {
        if (i == 9 && bytes[i] > 1) return 0; /* the tenth byte has one bit left */
        value |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
        if (bytes[i] < 0x80) {
            *out = value;
            return i + 1;
        }
    }
    return 0;
}
