/* buf.c -- see dynamo/common.h for the contract.
 *
 *   | count, size | pad to 64 | data ... |     one allocation; from 4 MiB on whole pages, huge where the system has them
 *
 * To touch fresh pages for the first time costs more than to fill them. So the pages of the last large buffer wait for the
 * next one of its size, and the system may have them meanwhile (MADV_FREE): as with malloc, one per process.
 */
#include <sys/mman.h>

#include "common/common.h"

struct dyn_buf {
    atomic_size_t refs;
    size_t size;
    void *raw;   /* what was allocated: aligned by hand, since posix_memalign takes ten times as long as malloc */
    size_t room; /* bytes of whole pages; 0: there is malloc below */
};
enum { HEAD = 64, PAGED = 4 << 20 /* bytes */, PAGE = 4096, SPARE_MOST = 256 << 20 };
_Static_assert(sizeof(struct dyn_buf) <= HEAD, "the header fits before the data");

#if !defined(DYN__SANITIZED) && defined(MADV_FREE)
/* Address and pages in one word, which is exchanged whole: dyn__pages() aligns to 2 MiB, so 21 bits are free. */
static _Atomic uintptr_t spare;
enum { COUNT = (1 << 21) - 1 };

static void drop(uintptr_t kept)
{
    dyn__pages_free((void *)(kept & ~(uintptr_t)COUNT), (kept & COUNT) * PAGE);
}

static void *take_spare(size_t room)
{
    if (dyn__fail_after >= 0) return NULL; /* a test counts allocations */
    uintptr_t kept = atomic_exchange(&spare, 0);
    size_t has = (kept & COUNT) * PAGE;
    if (has == room) return (void *)(kept & ~(uintptr_t)COUNT);
    if (kept != 0 && (kept = atomic_exchange(&spare, kept)) != 0) drop(kept);
    return NULL;
}

static bool keep_spare(void *pages, size_t room)
{
    if (room > SPARE_MOST || ((uintptr_t)pages & COUNT) != 0 || madvise(pages, room, MADV_FREE) != 0) return false;
    uintptr_t kept = atomic_exchange(&spare, (uintptr_t)pages | room / PAGE);
    if (kept != 0) drop(kept);
    return true;
}
#else
static void *take_spare(size_t room)
{
    (void)room;
    return NULL;
}
static bool keep_spare(void *pages, size_t room)
{
    (void)pages, (void)room;
    return false;
}
#endif

static int make(dyn_buf **out, size_t size, bool zeroed)
{
    if (size > SIZE_MAX / 2) return DYN_ENOMEM;
    size_t room = size < PAGED ? 0 : (HEAD + size + PAGE - 1) & ~(size_t)(PAGE - 1);
    void *raw =
        room > 0 && !zeroed ? take_spare(room) : NULL; /* fresh pages come zeroed, and only when they are touched */
#ifdef DYN__SANITIZED                                  /* which is to see what is written behind the end */
    if (raw == NULL) raw = room > 0 ? dyn__pages(HEAD + size) : dyn__aligned(HEAD, HEAD + size);
#else
    if (raw == NULL) raw = room > 0 ? dyn__pages(room) : dyn__malloc(HEAD - 1 + HEAD + size);
#endif
    if (raw == NULL) return DYN_ENOMEM;
    dyn_buf *self = (dyn_buf *)(((uintptr_t)raw + HEAD - 1) & ~(uintptr_t)(HEAD - 1));
    self->raw = raw;
    self->room = room;
    if (zeroed && room == 0) memset((uint8_t *)self + HEAD, 0, size);
    atomic_init(&self->refs, 1);
    self->size = size;
    *out = self;
    return DYN_OK;
}

int dyn_buf_new(dyn_buf **out, size_t size)
{
    return make(out, size, false);
}

int dyn_buf_new_zeroed(dyn_buf **out, size_t size)
{
    return make(out, size, true);
}

dyn_buf *dyn_buf_ref(dyn_buf *self)
{
    atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void dyn_buf_unref(dyn_buf *self)
{
    if (self == NULL) return;
    if (atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1) return;
    if (self->room == 0)
        dyn__free(self->raw);
    else if (!keep_spare(self->raw, self->room))
        dyn__pages_free(self->raw, self->room);
}

uint8_t *dyn_buf_data(dyn_buf *self)
{
    return (uint8_t *)self + HEAD;
}

size_t dyn_buf_size(const dyn_buf *self)
{
    return self->size;
}
