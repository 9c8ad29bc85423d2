/* zstd.c -- see dynamo/zstd.h for the contract. */
#include <zstd.h>
#include <zstd_errors.h>

#include "common/common.h"
#include "dynamo/zstd.h"

int dyn_zstd_compress(dyn_bytes *out, const void *data, size_t size, int level)
{
    if (level < 1 || level > ZSTD_maxCLevel())
        return dyn__fail(DYN_EINVAL, "zstd level %d: must be 1 to %d", level, ZSTD_maxCLevel());
    size_t bound = ZSTD_compressBound(size);
    int rc = ZSTD_isError(bound) ? DYN_ERANGE : dyn_bytes_reserve(out, bound);
    if (rc < 0) return rc;
    size_t n = ZSTD_compress(out->data + out->size, bound, data, size, level);
    if (ZSTD_isError(n)) return ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation ? DYN_ENOMEM : DYN_EINVAL;
    out->size += n;
    return DYN_OK;
}

size_t dyn_zstd_announced(const void *data, size_t size)
{
    unsigned long long n = ZSTD_getFrameContentSize(data, size);
    return n == ZSTD_CONTENTSIZE_UNKNOWN || n == ZSTD_CONTENTSIZE_ERROR || n > SIZE_MAX ? SIZE_MAX : (size_t)n;
}

static int refuse(size_t code)
{
    switch (ZSTD_getErrorCode(code)) {
    case ZSTD_error_memory_allocation: return DYN_ENOMEM;
    case ZSTD_error_frameParameter_windowTooLarge:
        return dyn__fail(DYN_ELIMIT, "a zstd frame asks for a window of more than %d bytes", DYN_ZSTD_MAX_WINDOW);
    default: return dyn__fail(DYN_EPROTO, "not a zstd frame: %s", ZSTD_getErrorName(code));
    }
}

static int too_large(size_t max)
{
    return dyn__fail(DYN_ELIMIT, "a zstd frame holds more than the limit of %zu bytes", max);
}

int dyn_zstd_decompress(dyn_bytes *out, const void *data, size_t size, size_t max)
{
    enum { STEP = 128 * 1024 };
    size_t before = out->size, announced = dyn_zstd_announced(data, size), left = 1;
    if (announced != SIZE_MAX && announced > max) return too_large(max);
    if (size == 0) return dyn__fail(DYN_EPROTO, "not a zstd frame: no bytes");
    ZSTD_DCtx *context = ZSTD_createDCtx();
    if (context == NULL) return DYN_ENOMEM;
    int rc = DYN_OK;
    ZSTD_inBuffer in = {data, size, 0};
    size_t code = ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 23);
    if (ZSTD_isError(code)) rc = refuse(code);
    /* The announced size is a claim: room is made as bytes come, at first for as much as 64 times the input. */
    size_t first = announced != SIZE_MAX && announced / 64 <= size ? announced + 1 : STEP;
    if (rc == DYN_OK) rc = dyn_bytes_reserve(out, first);
    while (rc == DYN_OK) {
        size_t have = out->size - before;
        if (out->room - out->size == 0 && (rc = dyn_bytes_reserve(out, have > STEP ? have : STEP)) < 0) break;
        size_t room = out->room - out->size, may = max - have + 1; /* one more than allowed, to see it overflow */
        ZSTD_outBuffer to = {out->data + out->size, room < may ? room : may, 0};
        left = ZSTD_decompressStream(context, &to, &in);
        if (ZSTD_isError(left)) {
            rc = refuse(left);
            break;
        }
        out->size += to.pos;
        if (out->size - before > max) rc = too_large(max);
        if (in.pos == in.size && to.pos < to.size) break; /* everything is out */
    }
    if (rc == DYN_OK && left != 0) rc = dyn__fail(DYN_EPROTO, "a zstd frame is cut off");
    ZSTD_freeDCtx(context);
    if (rc < 0) out->size = before;
    return rc;
}
