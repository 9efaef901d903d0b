/* What the parts of attention share: the step, one layer's tensors, and sums over vectors. */
#pragma once

#include "vectors.h"

/* Decodes are cut at these positions, whatever else is in the step, so that their results do not
 * depend on it. */
enum { SPLIT = 512 };

struct attention_arguments {
    /* Of the step. */
    int64_t dtype, threads;
    const int32_t *table; /* [rows, context] */
    int64_t table_stride;
    const int64_t *rows, *q_starts, *kv_lengths;
    int64_t chunks, decodes, heads, kv_heads, head_dim;
    double scale;
    char *workspace;
    int64_t workspace_bytes;
    /* Of the layer; strides in elements. */
    const char *q;
    int64_t q_token_stride, q_head_stride;
    const char *k, *v;
    int64_t kv_dtype, slot_stride, head_stride;
    const char *k_scales, *v_scales; /* half precision; NULL for none */
    int64_t scale_slot_stride, scale_head_stride;
    char *out; /* [tokens, heads, head_dim] */
};

/* Memory until the function returns, a cache line's multiple: compilers expect that much of
 * vectors, and a sanitiser's alloca does not give it. */
enum { LINE = 64 };
#define ROOM(bytes) __builtin_alloca_with_align((size_t)(bytes), 8 * LINE)

INLINE int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

#if W == 16
#define INTERLEAVE_LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define INTERLEAVE_UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif W == 8
#define INTERLEAVE_LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define INTERLEAVE_UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
#define INTERLEAVE_LOWER 0, 4, 1, 5
#define INTERLEAVE_UPPER 2, 6, 3, 7
#endif

#if W == 16
#define WIDEST(a, b)                                                                              \
    (SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +                      \
     SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define NEXT(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +                    \
     SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#define THIRD(a, b)                                                                               \
    (SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +                    \
     SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#define LAST(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +                   \
     SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#elif W == 8
#define WIDEST(a, b)                                                                              \
    (SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define NEXT(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#define LAST(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
#else
#define WIDEST(a, b) (SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7))
#define NEXT(a, b) (SHUFFLE(a, b, 0, 4, 2, 6) + SHUFFLE(a, b, 1, 5, 3, 7))
#endif

/* Vectors are summed over their lanes four at a time, then W / 4 such fours together: lane `t` of
 * the result is the sum of the vector of token `t`. Four `n` takes the tokens that this names. */
enum { FOURS = W / 4 };
#define TOKEN_OF_FOUR(n, i) ((n) + (i) * FOURS)

INLINE vf sum_four(vf a, vf b, vf c, vf d) { return NEXT(WIDEST(a, c), WIDEST(b, d)); }

INLINE vf sum_fours(const vf fours[FOURS]) {
#if W == 16
    return LAST(THIRD(fours[0], fours[2]), THIRD(fours[1], fours[3]));
#elif W == 8
    return LAST(fours[0], fours[1]);
#else
    return fours[0];
#endif
}
