/* tokens/utf8.h -- inside csrc: one UTF-8 character at a time, for bytes that are all there. */
#ifndef DYN_SRC_TOKENS_UTF8_H
#define DYN_SRC_TOKENS_UTF8_H

#include "common/common.h"

/* How long the character at p is; negative: the longest part that begins like one but is none, to be replaced by one
 * U+FFFD. left >= 1. */
static inline int dyn__utf8_step(const uint8_t *p, size_t left)
{
    uint8_t lower = 0x80, upper = 0xBF, byte = p[0];
    int needed;
    if (byte < 0x80) return 1;
    if (byte >= 0xC2 && byte <= 0xDF) {
        needed = 1;
    } else if (byte >= 0xE0 && byte <= 0xEF) {
        needed = 2;
        if (byte == 0xE0) lower = 0xA0;
        if (byte == 0xED) upper = 0x9F;
    } else if (byte >= 0xF0 && byte <= 0xF4) {
        needed = 3;
        if (byte == 0xF0) lower = 0x90;
        if (byte == 0xF4) upper = 0x8F;
    } else {
        return -1;
    }
    for (int i = 1; i <= needed; i++) {
        if ((size_t)i >= left || p[i] < lower || p[i] > upper) return -i;
        lower = 0x80, upper = 0xBF;
    }
    return needed + 1;
}

#endif
