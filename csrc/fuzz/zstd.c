/* Any bytes as zstd, against a bound; and any bytes through zstd and back. */
#include "dynamo/zstd.h"

#include "common/common.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MAX = 20000 };
    dyn_bytes out = {0}, packed = {0};
    if (dyn_zstd_decompress(&out, data, size, MAX) == DYN_OK) {
        if (out.size > MAX) abort();
    } else if (out.size != 0)
        abort();
    if (out.room > MAX + 1024 * 1024) abort();
    out.size = 0;
    if (dyn_zstd_compress(&packed, data, size, 1) < 0) abort();
    if (dyn_zstd_decompress(&out, packed.data, packed.size, size) < 0 || out.size != size) abort();
    if (size > 0 && memcmp(out.data, data, size) != 0) abort();
    dyn_bytes_free(&out), dyn_bytes_free(&packed);
    return 0;
}
