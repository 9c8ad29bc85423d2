/* blocks_scalar.c -- without vectors: what every other one must agree with. */
#define XXH_VECTOR 0
#define DYN__HASH_BLOCKS dyn__hash_blocks_scalar
#include "hash/blocks.h"
