/* tokens.h -- from token ids to text, a token at a time: detokeniser, stop strings, columns of tokens.
 *
 *   ids --dyn_detok--> complete UTF-8 --dyn_jail--> text that may be shown
 *                |                        |
 *          up to 3 bytes wait       a suffix that may become a stop string waits
 *
 * Units    sizes of texts are bytes, counts of batches are tokens.
 * Errors   int results are DYN_OK or more, or a negative enum dyn_error; a failed call changes nothing.
 * Threads  a dyn_vocab and a dyn_stops are immutable and may be shared; anything else has one user at a time.
 */
#ifndef DYNAMO_TOKENS_H
#define DYNAMO_TOKENS_H

#include "dynamo/common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- text: bytes that grow --------------------------------------------------------------------
 * All zero is an empty text. data is not zero-terminated and moves when it grows. */
typedef struct dyn_text {
    char *data;
    size_t size, room;
} dyn_text;

/* Make room for `more` bytes after the end.  errors  DYN_ENOMEM. */
DYN_API int dyn_text_reserve(dyn_text *self, size_t more);
/* Copy bytes to the end.  data: borrowed, may be NULL when size is 0.  errors  DYN_ENOMEM. */
DYN_API int dyn_text_append(dyn_text *self, const void *data, size_t size);
/* Free the memory and leave an empty text. */
DYN_API void dyn_text_free(dyn_text *self);

/* ---- vocabulary: what each token id stands for ------------------------------------------------- */
typedef struct dyn_vocab dyn_vocab;
enum { DYN_TOKEN_SPECIAL = 1 }; /* flag of an id: control tokens (<eos>, <|im_end|>), hidden unless asked for */
enum {
    DYN_VOCAB_STRIP_SPACE = 1
}; /* option: a text that starts with a space loses it (SentencePiece's dummy prefix) */

/* Make a table; one reference.
 * bytes    the bytes of all tokens, one after the other; copied. Any bytes: a token may be part of a character.
 * ends     for each id, where its bytes end in `bytes` (it begins where the one before ends); ascending.
 * flags    DYN_TOKEN_* of each id, or NULL for none.
 * errors   DYN_EINVAL (ends that descend or leave `bytes`), DYN_ERANGE (over 2^31 bytes or 2^28 ids), DYN_ENOMEM. */
DYN_API int dyn_vocab_new(dyn_vocab **out, const uint8_t *bytes, size_t size, const uint32_t *ends,
                          const uint8_t *flags, size_t count, unsigned options);
DYN_API dyn_vocab *dyn_vocab_ref(dyn_vocab *self);
DYN_API void dyn_vocab_unref(dyn_vocab *self); /* NULL is allowed */
DYN_API size_t dyn_vocab_count(const dyn_vocab *self);
/* The bytes of one id, borrowed while the table lives; an unknown id has none. */
DYN_API const uint8_t *dyn_vocab_bytes(const dyn_vocab *self, uint32_t id, size_t *size);
DYN_API bool dyn_vocab_special(const dyn_vocab *self, uint32_t id);

/* ---- detokeniser --------------------------------------------------------------------------------
 * Writes only complete, valid UTF-8. Bytes that cannot become a character are shown as U+FFFD, one for
 * each longest part that could have been one (what Python's errors="replace" does). Cutting the ids
 * into other pieces gives the same text. */
typedef struct dyn_detok dyn_detok;
enum {
    DYN_DETOK_SPECIAL = 1,  /* show special tokens */
    DYN_DETOK_AT_START = 2, /* the text begins here: DYN_VOCAB_STRIP_SPACE applies. Not for what follows a prompt */
};
/* vocab   kept alive by the detokeniser.  errors  DYN_ENOMEM. */
DYN_API int dyn_detok_new(dyn_detok **out, dyn_vocab *vocab, unsigned flags);
DYN_API void dyn_detok_free(dyn_detok *self); /* NULL is allowed */
/* Append the text that these ids complete. Unknown ids have no text.  errors  DYN_ENOMEM. */
DYN_API int dyn_detok_push(dyn_detok *self, const uint32_t *ids, size_t count, dyn_text *out);
/* No more ids: an unfinished character becomes U+FFFD. The detokeniser may then be used for another text. */
DYN_API int dyn_detok_end(dyn_detok *self, dyn_text *out);

/* ---- stop strings --------------------------------------------------------------------------------
 * The match that ends first wins; of those that end together the longest. */
typedef struct dyn_stops dyn_stops;
enum { DYN_STOPS_MAX = 256, DYN_STOPS_MAX_BYTES = 16384 };
/* Compile a set; one reference.
 * strings  count texts of sizes[i] > 0 bytes, copied.
 * errors   DYN_EINVAL (an empty string), DYN_ELIMIT (more than the two bounds above), DYN_ENOMEM. */
DYN_API int dyn_stops_new(dyn_stops **out, const char *const *strings, const size_t *sizes, size_t count);
DYN_API dyn_stops *dyn_stops_ref(dyn_stops *self);
DYN_API void dyn_stops_unref(dyn_stops *self); /* NULL is allowed */

/* One text on its way through the matcher. What it holds back is the longest end of the text that may still
 * become a stop string; that is a path in the compiled set, so a jail is two numbers and allocates nothing. */
typedef struct dyn_jail {
    const dyn_stops *stops; /* borrowed; NULL lets everything through */
    uint32_t node;          /* private */
    int matched;            /* the index of the string that matched, -1 before */
    bool include_stop;      /* show the stop string itself */
} dyn_jail;
DYN_API void dyn_jail_init(dyn_jail *self, const dyn_stops *stops, bool include_stop);
/* Pass text on; appends what may be shown. Returns 1 when a stop string is complete: `out` then got all that comes before it
 * (and the string itself with `include_stop`), the rest of the text is dropped, and so is everything pushed later.
 * errors  DYN_ENOMEM. */
DYN_API int dyn_jail_push(dyn_jail *self, const char *text, size_t size, dyn_text *out);
DYN_API size_t dyn_jail_held(const dyn_jail *self); /* bytes held back */
/* No more text: append what was held back.  errors  DYN_ENOMEM. */
DYN_API int dyn_jail_end(dyn_jail *self, dyn_text *out);

/* ---- columns of tokens ----------------------------------------------------------------------------
 *   ids       | u32 u32 u32 ...        one allocation, each column 64-byte aligned
 *   positions | u32 u32 u32 ...
 *   logprobs  | f32 f32 f32 ...        NaN where none is known */
typedef struct dyn_token_batch dyn_token_batch;
enum { DYN_TOKEN_BATCH_MAX = 1 << 26 };
/* errors  DYN_ENOMEM, DYN_ERANGE. */
DYN_API int dyn_token_batch_new(dyn_token_batch **out, size_t reserve);
DYN_API void dyn_token_batch_free(dyn_token_batch *self); /* NULL is allowed */
/* Copy tokens to the end. Earlier column pointers die.
 * positions  NULL: counting on from the last one (from 0 in an empty batch).
 * logprobs   NULL: unknown.
 * errors     DYN_ENOMEM, DYN_ERANGE (over DYN_TOKEN_BATCH_MAX). */
DYN_API int dyn_token_batch_append(dyn_token_batch *self, const uint32_t *ids, const uint32_t *positions,
                                   const float *logprobs, size_t count);
DYN_API void dyn_token_batch_clear(dyn_token_batch *self);
DYN_API size_t dyn_token_batch_count(const dyn_token_batch *self);
DYN_API size_t dyn_token_batch_bytes(const dyn_token_batch *self);        /* memory in use, exactly */
DYN_API const uint32_t *dyn_token_batch_ids(const dyn_token_batch *self); /* borrowed until the batch changes */
DYN_API const uint32_t *dyn_token_batch_positions(const dyn_token_batch *self);
DYN_API const float *dyn_token_batch_logprobs(const dyn_token_batch *self);

#ifdef __cplusplus
}
#endif
#endif
