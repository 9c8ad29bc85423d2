/* http_fields.c -- the fields of a head, as the parser hands them out piece by piece. See http_internal.h.
 *
 *   arena:  [url NUL] name NUL value NUL name NUL value NUL ...        list: where each of them lies
 */
#include "net/http_internal.h"

void dyn__http_fields_init(dyn__http_fields *self)
{
    self->list = self->list_inside;
    self->room = DYN__COUNT(self->list_inside);
    self->arena = (dyn__bytes){self->arena_inside, 0, sizeof(self->arena_inside)};
    dyn__http_fields_reset(self);
}

void dyn__http_fields_reset(dyn__http_fields *self)
{
    self->arena.length = self->count = 0;
    self->in_name = false;
}

void dyn__http_fields_free(dyn__http_fields *self)
{
    if (self->arena.data != self->arena_inside) dyn__free(self->arena.data);
    if (self->list != self->list_inside) dyn__free(self->list);
}

int dyn__http_fields_text(dyn__http_fields *self, const char *data, size_t length)
{
    dyn__bytes *arena = &self->arena;
    if (arena->data == self->arena_inside && length > arena->room - arena->length) {
        dyn__bytes heap = {0};
        if (dyn__bytes_need(&heap, 2 * arena->room + length) < 0) return DYN_ENOMEM;
        dyn__bytes_put(&heap, arena->data, arena->length);
        *arena = heap;
    }
    if (dyn__bytes_need(arena, length) < 0) return DYN_ENOMEM;
    dyn__bytes_put(arena, data, length);
    return DYN_OK;
}

/* The name is complete: what follows is its value. */
static int end_name(dyn__http_fields *self)
{
    dyn__http_field *field = &self->list[self->count - 1];
    field->name_length = (uint32_t)self->arena.length - field->name;
    if (field->name_length == 0) return DYN_EPROTO;
    self->in_name = false;
    if (dyn__http_fields_text(self, "", 1) < 0) return DYN_ENOMEM;
    field->value = (uint32_t)self->arena.length;
    return DYN_OK;
}

int dyn__http_fields_end(dyn__http_fields *self)
{
    int rc;
    if (self->count > 0) {
        dyn__http_field *field = &self->list[self->count - 1];
        if (self->in_name && (rc = end_name(self)) < 0) return rc; /* "Name:" with nothing behind */
        const char *value = self->arena.data + field->value;
        size_t length = self->arena.length - field->value;
        while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t')) length--;
        self->arena.length = field->value + length;
        field->value_length = (uint32_t)length;
    }
    return self->arena.length > 0 ? dyn__http_fields_text(self, "", 1) : DYN_OK;
}

int dyn__http_fields_name(dyn__http_fields *self, const char *data, size_t length, size_t most)
{
    int rc;
    if (!self->in_name) {
        if ((rc = dyn__http_fields_end(self)) < 0) return rc;
        if (self->count >= most) return DYN_ELIMIT;
        if (self->count == self->room) {
            bool inside = self->list == self->list_inside;
            dyn__http_field *list = dyn__realloc(inside ? NULL : self->list, 2 * self->room * sizeof(*list));
            if (list == NULL) return DYN_ENOMEM;
            if (inside) memcpy(list, self->list_inside, sizeof(self->list_inside));
            self->list = list;
            self->room *= 2;
        }
        self->list[self->count++] = (dyn__http_field){.name = (uint32_t)self->arena.length};
        self->in_name = true;
    }
    size_t from = self->arena.length;
    if (dyn__http_fields_text(self, data, length) < 0) return DYN_ENOMEM;
    for (char *at = self->arena.data + from, *end = at + length; at < end; at++)
        if (*at >= 'A' && *at <= 'Z') *at |= 32;
    return DYN_OK;
}

int dyn__http_fields_value(dyn__http_fields *self, const char *data, size_t length)
{
    int rc;
    if (self->count == 0) return DYN_EPROTO;
    if (self->in_name && (rc = end_name(self)) < 0) return rc;
    return dyn__http_fields_text(self, data, length);
}

const char *dyn__http_fields_find(const dyn__http_fields *self, const char *name, size_t *length)
{
    size_t name_length = strlen(name);
    for (size_t i = 0; i < self->count; i++) {
        const dyn__http_field *field = &self->list[i];
        if (field->name_length != name_length || memcmp(self->arena.data + field->name, name, name_length) != 0)
            continue;
        if (length != NULL) *length = field->value_length;
        return self->arena.data + field->value;
    }
    return NULL;
}

const char *dyn__http_fields_at(const dyn__http_fields *self, size_t n, size_t *name_length, const char **value,
                                size_t *value_length)
{
    const dyn__http_field *field = &self->list[n];
    if (name_length != NULL) *name_length = field->name_length;
    if (value != NULL) *value = self->arena.data + field->value;
    if (value_length != NULL) *value_length = field->value_length;
    return self->arena.data + field->name;
}
