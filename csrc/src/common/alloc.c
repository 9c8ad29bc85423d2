/* alloc.c -- see common/common.h for the contract. */
#include "common/common.h"

_Thread_local int dyn__fail_after = -1;

static bool refused(void)
{
    if (DYN__LIKELY(dyn__fail_after < 0)) return false;
    if (dyn__fail_after == 0) return true;
    dyn__fail_after--;
    return false;
}

void *dyn__malloc(size_t size)
{
    return refused() ? NULL : malloc(size ? size : 1);
}

void *dyn__calloc(size_t count, size_t size)
{
    return refused() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *dyn__realloc(void *old, size_t size)
{
    return refused() ? NULL : realloc(old, size ? size : 1);
}

void *dyn__aligned(size_t alignment, size_t size)
{
    void *memory = NULL;
    if (refused() || posix_memalign(&memory, alignment, size ? size : 1) != 0) return NULL;
    return memory;
}

void dyn__free(void *memory)
{
    free(memory);
}

char *dyn__strndup(const char *text, size_t length)
{
    char *copy = dyn__malloc(length + 1);
    if (copy == NULL) return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *dyn__strdup(const char *text)
{
    return dyn__strndup(text, strlen(text));
}
