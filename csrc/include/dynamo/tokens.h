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

/* ---- one token, as it travels ---------------------------------------------------------------------
 *   id u32 | position u32 | flags u8 | logprob f32, if flagged | u16 size, UTF-8 text, if flagged     all big-endian */
enum dyn_token_flag { DYN_TOKEN_HAS_TEXT = 1, DYN_TOKEN_HAS_LOGPROB = 2, DYN_TOKEN_IS_SPECIAL = 4 };
enum {
    DYN_TOKEN_TEXT_MAX = 65535,  /* bytes of a text that travels */
    DYN_TOKEN_COUNT_MAX = 65535, /* tokens of a batch that travels */
    DYN_TOKEN_HEAD_MAX = 15,     /* bytes of an encoded token without its text */
};
typedef struct dyn_token {
    uint32_t id, position;
    float logprob;    /* counts with DYN_TOKEN_HAS_LOGPROB */
    uint8_t flags;    /* dyn_token_flag */
    const char *text; /* counts with DYN_TOKEN_HAS_TEXT; not zero-terminated; borrowed */
    size_t text_size;
} dyn_token;
/* How many bytes dyn_token_encode() writes.  errors  DYN_ERANGE: a text over DYN_TOKEN_TEXT_MAX. */
DYN_API int dyn_token_encoded_size(const dyn_token *self, size_t *size);
/* Write a token; out has room for its encoded size, which is not checked again. The result: the end of what was written. */
DYN_API uint8_t *dyn_token_encode(const dyn_token *self, uint8_t *out);
/* Read the token at the start of the bytes; unknown flags are ignored.
 * out     its text is borrowed from the bytes and may be anything, not only UTF-8.
 * used    receives how many bytes it took; may be NULL.
 * errors  DYN_ETRUNC. */
DYN_API int dyn_token_decode(const uint8_t *bytes, size_t size, dyn_token *out, size_t *used);

/* ---- columns of tokens ----------------------------------------------------------------------------
 *   ids       | u32 u32 u32 ...        one allocation, each column 64-byte aligned
 *   positions | u32 u32 u32 ...
 *   logprobs  | f32 f32 f32 ...        NaN where none is known
 *   flags     | u8 u8 u8 ...           dyn_token_flag
 *   ends      | u32 u32 u32 ...        a second one, made for the first token with a text: where its text ends
 *   text      | all texts, one after the other: valid UTF-8 */
typedef struct dyn_token_batch dyn_token_batch;
enum { DYN_TOKEN_BATCH_MAX = 1 << 26 }; /* tokens; texts of a batch are together less than 2^31 bytes */
/* errors  DYN_ENOMEM, DYN_ERANGE. */
DYN_API int dyn_token_batch_new(dyn_token_batch **out, size_t reserve);
DYN_API void dyn_token_batch_free(dyn_token_batch *self); /* NULL is allowed */
/* Copy tokens to the end, without texts. Earlier column pointers die.
 * positions  NULL: counting on from the last one (from 0 in an empty batch).
 * logprobs   NULL: unknown; NaN: unknown for that token.
 * errors     DYN_ENOMEM, DYN_ERANGE (over DYN_TOKEN_BATCH_MAX). */
DYN_API int dyn_token_batch_append(dyn_token_batch *self, const uint32_t *ids, const uint32_t *positions,
                                   const float *logprobs, size_t count);
/* Copy one token to the end. Bytes of its text that are no UTF-8 become U+FFFD.  errors  as above. */
DYN_API int dyn_token_batch_add(dyn_token_batch *self, const dyn_token *token);
/* Copy count tokens of another batch (or of this one) to the end, from the given one on, every step-th.
 * errors  as above; DYN_ERANGE also when they are not all there. */
DYN_API int dyn_token_batch_extend(dyn_token_batch *self, const dyn_token_batch *other, size_t from, ptrdiff_t step,
                                   size_t count);
/* Forget all but the first `count`; more than there are: nothing happens. The memory stays. */
DYN_API void dyn_token_batch_truncate(dyn_token_batch *self, size_t count);
DYN_API size_t dyn_token_batch_count(const dyn_token_batch *self);
DYN_API size_t dyn_token_batch_bytes(const dyn_token_batch *self);        /* memory in use, exactly */
DYN_API const uint32_t *dyn_token_batch_ids(const dyn_token_batch *self); /* borrowed until the batch changes */
DYN_API const uint32_t *dyn_token_batch_positions(const dyn_token_batch *self);
DYN_API const float *dyn_token_batch_logprobs(const dyn_token_batch *self);
DYN_API const uint8_t *dyn_token_batch_flags(const dyn_token_batch *self);
/* One token, index < count; its text is borrowed until the batch changes. */
DYN_API void dyn_token_batch_get(const dyn_token_batch *self, size_t index, dyn_token *out);
/* All texts together; not zero-terminated; borrowed until the batch changes. */
DYN_API const char *dyn_token_batch_text(const dyn_token_batch *self, size_t *size);

/* ---- a batch, as it travels ------------------------------------------------------------------------
 *   flags u8: 1 a sequence follows, 2 final | [sequence u32] | count u16 | tokens      big-endian */
typedef struct dyn_token_batch_head {
    bool has_sequence, final;
    uint32_t sequence;
} dyn_token_batch_head;
/* How many bytes dyn_token_batch_encode() writes.
 * errors  DYN_ERANGE: over DYN_TOKEN_COUNT_MAX tokens, or a text over DYN_TOKEN_TEXT_MAX: send more batches. */
DYN_API int dyn_token_batch_encoded_size(const dyn_token_batch *self, const dyn_token_batch_head *head, size_t *size);
/* Write it; out has room for its encoded size, which is not checked again. */
DYN_API void dyn_token_batch_encode(const dyn_token_batch *self, const dyn_token_batch_head *head, uint8_t *out);
/* Append the tokens of an encoded batch; unknown flags are ignored, broken UTF-8 becomes U+FFFD.
 * used    receives how many bytes it took; may be NULL.
 * errors  DYN_ETRUNC, DYN_ENOMEM, DYN_ERANGE (this batch would be too large). */
DYN_API int dyn_token_batch_decode(dyn_token_batch *self, const uint8_t *bytes, size_t size, dyn_token_batch_head *head,
                                   size_t *used);

#ifdef __cplusplus
}
#endif
#endif
