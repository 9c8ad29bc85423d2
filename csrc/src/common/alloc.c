/* alloc.c -- see common/common.h for the contract. */
#include <sys/mman.h>

#include "common/common.h"

/* Leak checkers know malloc, not mmap. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PAGES_FROM_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PAGES_FROM_MALLOC 1
#endif
#endif

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

void *dyn__pages(size_t size)
{
    if (refused()) return NULL;
#ifdef PAGES_FROM_MALLOC
    void *memory = NULL;
    return posix_memalign(&memory, 4096, size) == 0 ? memset(memory, 0, size) : NULL;
#else
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory != MAP_FAILED ? memory : NULL;
#endif
}

void dyn__pages_free(void *memory, size_t size)
{
    if (memory == NULL) return;
#ifdef PAGES_FROM_MALLOC
    (void)size;
    free(memory);
#else
    munmap(memory, size);
#endif
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
