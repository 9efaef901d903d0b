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
