/* common/common.h -- inside csrc only: allocation that can be made to fail, errors with a sentence.
 *
 * All memory of the library goes through these, so that a test can fail the nth allocation and so
 * that a leak checker sees one allocator.
 */
#ifndef DYN_SRC_COMMON_H
#define DYN_SRC_COMMON_H

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dynamo/common.h"

void *dyn__malloc(size_t size);
void *dyn__calloc(size_t count, size_t size);
void *dyn__realloc(void *old, size_t size);        /* like realloc: `old` lives when NULL is returned */
void *dyn__aligned(size_t alignment, size_t size); /* dyn__free() frees it too */
void dyn__free(void *memory);
/* Zeroed whole pages, straight from the system and back to it: for large blocks that come and go, which would leave
 * holes in the heap. */
/* Leak checkers know malloc, not mmap: there dyn__pages is malloc, and who keeps pages for later should not. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DYN__SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DYN__SANITIZED 1
#endif
#endif
void *dyn__pages(size_t size); /* zeroed; from 2 MiB on aligned to that and, where the system can, huge */
void dyn__pages_free(void *memory, size_t size); /* the same size; NULL is allowed */
char *dyn__strdup(const char *text);
char *dyn__strndup(const char *text, size_t length);

/* The nth allocation of this thread from now on fails (0: the next), and all after it; -1: none.
 * For tests. */
extern _Thread_local int dyn__fail_after;

/* Leave a sentence for dyn_error_detail() and return `code`, so that a refusal is one line:
 * return dyn__fail(DYN_EINVAL, "block size %zu: must be 1 or more", size); */
int dyn__fail(int code, const char *format, ...) DYN_PRINTF(2, 3);

#define DYN__COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define DYN__CONTAINER(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))
#if defined(__GNUC__)
#define DYN__LIKELY(x) __builtin_expect(!!(x), 1)
#define DYN__UNLIKELY(x) __builtin_expect(!!(x), 0)
#define DYN__PREFETCH(p) __builtin_prefetch(p)
#else
#define DYN__LIKELY(x) (x)
#define DYN__UNLIKELY(x) (x)
#define DYN__PREFETCH(p) ((void)(p))
#endif

#endif
