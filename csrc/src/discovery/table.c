/* table.c -- see discovery/store.h. A sorted array: thousands of keys at most, and lists come out in order. */
#include "discovery/store.h"

size_t dyn__table_seek(const struct table *self, const char *key)
{
    size_t low = 0, high = self->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(*self->items[middle], key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void *dyn__table_find(const struct table *self, const char *key)
{
    size_t at = dyn__table_seek(self, key);
    return at < self->count && strcmp(*self->items[at], key) == 0 ? self->items[at] : NULL;
}

int dyn__table_reserve(struct table *self)
{
    if (self->count < self->room) return DYN_OK;
    size_t room = self->room ? self->room * 2 : 16;
    char ***items = dyn__realloc(self->items, room * sizeof(*items));
    if (items == NULL) return DYN_ENOMEM;
    self->items = items, self->room = room;
    return DYN_OK;
}

void dyn__table_insert(struct table *self, size_t at, void *item)
{
    assert(self->count < self->room && at <= self->count);
    memmove(self->items + at + 1, self->items + at, (self->count - at) * sizeof(*self->items));
    self->items[at] = item;
    self->count++;
}

void *dyn__table_remove(struct table *self, size_t at)
{
    void *item = self->items[at];
    memmove(self->items + at, self->items + at + 1, (self->count - at - 1) * sizeof(*self->items));
    self->count--;
    return item;
}

void dyn__table_clear(struct table *self)
{
    dyn__free(self->items);
    *self = (struct table){0};
}
