/* blocks_base.c -- with what every CPU of this kind has: SSE2 on x86-64, NEON on aarch64. */
#define DYN__HASH_BLOCKS dyn__hash_blocks_base
#include "hash/blocks.h"
