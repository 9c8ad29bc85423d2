/* alloc.c -- see common/common.h for the contract. */
#include <sys/mman.h>

#include "common/common.h"

enum { HUGE_PAGE = 1 << 21 }; /* bytes */
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
#ifdef DYN__SANITIZED
    void *memory = NULL;
    return posix_memalign(&memory, 4096, size) == 0 ? memset(memory, 0, size) : NULL;
#else
    size_t extra = size >= HUGE_PAGE ? HUGE_PAGE : 0; /* to align by; given back */
    char *memory = mmap(NULL, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    if (extra > 0) {
        size_t before = -(uintptr_t)memory & (HUGE_PAGE - 1);
        if (before > 0) munmap(memory, before);
        memory += before;
        if (extra > before) munmap(memory + size, extra - before);
#ifdef MADV_HUGEPAGE
        madvise(memory, size, MADV_HUGEPAGE); /* refused where there are none: fine */
#endif
    }
    return memory;
#endif
}

void dyn__pages_free(void *memory, size_t size)
{
    if (memory == NULL) return;
#ifdef DYN__SANITIZED
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
