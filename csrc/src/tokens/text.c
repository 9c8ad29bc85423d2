/* text.c -- see dynamo/tokens.h for the contract. */
#include "common/common.h"
#include "dynamo/tokens.h"

int dyn_text_reserve(dyn_text *self, size_t more)
{
    if (more <= self->room - self->size) return DYN_OK;
    if (more > SIZE_MAX / 4 - self->size) return DYN_ENOMEM;
    size_t room = self->room ? self->room : 64;
    while (room < self->size + more) room *= 2;
    char *data = dyn__realloc(self->data, room);
    if (data == NULL) return DYN_ENOMEM;
    self->data = data;
    self->room = room;
    return DYN_OK;
}

int dyn_text_append(dyn_text *self, const void *data, size_t size)
{
    if (size == 0) return DYN_OK; /* data may be NULL, and memcpy may not take it */
    int rc = dyn_text_reserve(self, size);
    if (rc < 0) return rc;
    memcpy(self->data + self->size, data, size);
    self->size += size;
    return DYN_OK;
}

void dyn_text_free(dyn_text *self)
{
    dyn__free(self->data);
    *self = (dyn_text){0};
}
