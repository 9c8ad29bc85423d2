/* blocks_avx2.c -- for CPUs that dyn__hash_pick() asked. */
#define DYN__HASH_BLOCKS dyn__hash_blocks_avx2
#include "hash/blocks.h"
