/* Events in any order, as a broken or hostile publisher may send them: the index agrees with its naive twin. */
#include <stdlib.h>

#include "../tests/naive_index.h"
#include "dynamo/index.h"
#include "index/inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { LONGEST = 12, WORKERS = 4 };

static void demand(bool holds)
{
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static naive_index twin;
    dyn_index *index = NULL;
    if (size > 600) return 0; /* the twin has room for 2,047 nodes: no input fills it */
    memset(&twin, 0, sizeof(twin));
    dyn_index_options options = {.aliases = twin.aliases = size > 0 && bytes[0] & 1};
    if (dyn_index_new(&index, &options) < 0) return 0;
    for (size_t at = 1; at + 3 < size;) {
        uint8_t what = bytes[at++], who = bytes[at++] % WORKERS, first = bytes[at++];
        size_t count = what / 8 % LONGEST;
        uint64_t names[LONGEST], tokens[LONGEST], parent = first % 16;
        if (count > size - at) count = size - at;
        for (size_t i = 0; i < count; i++) tokens[i] = bytes[at + i] % 4, names[i] = bytes[at + i] / 4 % 16;
        at += count;
        if (what % 8 < 3) {
            const uint64_t *above = what % 8 == 0 ? NULL : &parent;
            int rc = dyn_index_stored(index, who, 0, above, names, tokens, count);
            demand(rc == (naive_stored(&twin, who, above, names, tokens, count) ? DYN_OK : DYN_EBLOCK));
        } else if (what % 8 < 5) {
            int rc = dyn_index_removed(index, who, 0, names, count);
            demand(rc == (naive_removed(&twin, who, names, count) ? DYN_OK : DYN_EBLOCK));
        } else if (what % 8 == 5 && first % 8 == 0) {
            demand(dyn_index_remove_worker(index, who) == DYN_OK);
            naive_cleared(&twin, who);
        } else {
            dyn_overlap out[WORKERS];
            uint32_t want[NAIVE_WORKERS], got[NAIVE_WORKERS] = {0};
            bool early = first & 1;
            size_t found = (early ? dyn_index_find_early : dyn_index_find)(index, tokens, count, out, WORKERS);
            demand(found <= WORKERS);
            for (size_t i = 0; i < found; i++) got[out[i].worker] = out[i].blocks;
            naive_find(&twin, tokens, count, early, want);
            demand(memcmp(want, got, sizeof(want)) == 0);
        }
    }
    demand(dyn__index_check(index) == 0);
    dyn_index_unref(index);
    return 0;
}
