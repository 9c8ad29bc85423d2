/* zstd.h -- bodies made smaller, and made whole again within a bound (area wire).
 *
 * Threads  no state; dyn_zstd_compress keeps nothing between calls.
 */
#ifndef DYNAMO_ZSTD_H
#define DYNAMO_ZSTD_H

#include "dynamo/wire.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DYN_ZSTD_LEVEL 3              /* what Quill uses; 1 to 22 */
#define DYN_ZSTD_THRESHOLD 1024       /* bodies up to this size are sent as they are */
#define DYN_ZSTD_MAX_WINDOW (8 << 20) /* what a frame may ask a reader to hold (RFC 9659) */

/* Append `size` bytes as one zstd frame that carries their size.  errors  DYN_ENOMEM, DYN_EINVAL (level). */
DYN_API int dyn_zstd_compress(dyn_bytes *out, const void *data, size_t size, int level);
/* Append what the frames in `data` hold. Work and memory are bounded by `max`, whatever the frames announce.
 * errors  DYN_ENOMEM, DYN_ELIMIT (more than `max` bytes, or a window over DYN_ZSTD_MAX_WINDOW), DYN_EPROTO (not zstd, cut
 *         off, corrupt); *out is then as it was. */
DYN_API int dyn_zstd_decompress(dyn_bytes *out, const void *data, size_t size, size_t max);
/* How many bytes the frame says it holds, for who wants to give the room; SIZE_MAX when it does not say. */
DYN_API size_t dyn_zstd_announced(const void *data, size_t size);

#ifdef __cplusplus
}
#endif
#endif
