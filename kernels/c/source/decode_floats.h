/* Decodes' products in float. Numbers of a cache are widened on their way into registers, once for
 * all queries that are computed at once.
 *
 * How many queries, keys and vectors a function has is a constant wherever it is used, so that
 * sums stay in registers. */
#include "tiles.h"

/* With so many queries, as many keys, or vectors of values, as there are registers for; few have
 * enough sums that none waits for the one before. */
#if W == 16
#define KEYS_AT_ONCE(queries) ((queries) > 4 ? 2 : (queries) > 1 ? 4 : 8)
#define VECTORS_AT_ONCE(queries) 4
#else
#define KEYS_AT_ONCE(queries) ((queries) > 2 ? 2 : (queries) > 1 || W == 4 ? 4 : 8)
#define VECTORS_AT_ONCE(queries) ((queries) > 3 ? 2 : 4)
#endif

/* So many positions of a tile are computed. */
INLINE int64_t computed(int64_t count) { return round_up(count, W); }

/* 2 * W numbers from `row[i]` on. Of bfloat16 each vector takes every other one, which a shift or a
 * mask widens. */
INLINE void widen_two(const char *row, int64_t i, enum dtype type, vf *first, vf *second) {
    if (type == BF16) {
        vu both;
        memcpy(&both, row + 2 * i, sizeof both);
        *first = (vf)(both << 16);
        *second = (vf)(both & 0xffff0000u);
    } else {
        *first = load(row, i, type);
        *second = load(row, i + W, type);
    }
}

/* Whether sums of values lie as `widen_two` gives every other number. */
INLINE int out_of_order(const struct attention_arguments *a, enum dtype type) {
    return type == BF16 && a->kv_dtype == BF16;
}

INLINE void in_order(const float *sums, vf *first, vf *second) {
    vf even = load(sums, 0, F32), odd = load(sums, W, F32);
    *first = SHUFFLE(even, odd, INTERLEAVE_LOWER);
    *second = SHUFFLE(even, odd, INTERLEAVE_UPPER);
}

/* Rows of a tile: where they lie, but for those that end within a vector. */
INLINE void take_rows(const struct attention_arguments *a, const char *cache,
                      const int64_t *offsets, int64_t head, char *staged, const char **rows,
                      enum dtype type, int pairs) {
    (void)pairs;
    int64_t head_dim = a->head_dim, padded = round_up(head_dim, STEP), size = bytes_of(type);
    const char *from = cache_of(cache, head, a, type);
    for (int64_t t = 0; t < TILE; t++) rows[t] = from + offsets[t];
    if (padded == head_dim) return;
    for (int64_t t = 0; t < TILE; t++) {
        char *copy = staged + t * padded * size;
        memcpy(copy, rows[t], (size_t)(head_dim * size));
        memset(copy + head_dim * size, 0, (size_t)((padded - head_dim) * size));
        rows[t] = copy;
    }
}

/* The queries of some heads as floats, in the order of the keys that they are multiplied with. */
INLINE void take_queries(const struct attention_arguments *a, int64_t token, int64_t first,
                         int64_t count, char *queries, enum dtype type) {
    int64_t padded = round_up(a->head_dim, STEP);
    for (int64_t head = 0; head < count; head++) {
        int64_t from = token * a->q_token_stride + (first + head) * a->q_head_stride;
        const char *query = a->q + from * bytes_of(type);
        for (int64_t i = 0; i < padded; i += STEP) {
            char step[4 * STEP] = {0};
            int64_t left = smaller_of(a->head_dim - i, STEP);
            memcpy(step, query + i * bytes_of(type), (size_t)(left * bytes_of(type)));
            vf one = load(step, 0, type), two = load(step, W, type);
            if (out_of_order(a, type)) widen_two(step, 0, type, &one, &two);
            store(queries, head * padded + i, one, F32);
            store(queries, head * padded + i + W, two, F32);
        }
    }
}

/* Vectors are summed over their lanes in pairs: neighbours of four lanes, then such fours. */
#if W == 16
#define FOLD(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +                   \
     SHUFFLE(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31))
#define FOLD_FOURS(a, b)                                                                          \
    (SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +                    \
     SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#elif W == 8
#define FOLD(a, b)                                                                                \
    (SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15))
#define FOLD_FOURS(a, b)                                                                          \
    (SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#else
#define FOLD(a, b) (SHUFFLE(a, b, 0, 2, 4, 6) + SHUFFLE(a, b, 1, 3, 5, 7))
#endif

/* Sums over lanes of W vectors, of which two and two are folded already. */
INLINE vf sum_folded(const vf folded[W / 2]) {
#if W == 16
    vf first = FOLD_FOURS(FOLD(folded[0], folded[1]), FOLD(folded[2], folded[3]));
    vf second = FOLD_FOURS(FOLD(folded[4], folded[5]), FOLD(folded[6], folded[7]));
    return FOLD_FOURS(first, second);
#elif W == 8
    return FOLD_FOURS(FOLD(folded[0], folded[1]), FOLD(folded[2], folded[3]));
#else
    return FOLD(folded[0], folded[1]);
#endif
}

/* Products of `keys` keys with `queries` queries, summed; two keys' sums folded into one. */
INLINE void multiply_keys(const int queries, const int keys, const char *const *rows,
                          const float *own, int64_t padded, enum dtype type,
                          vf (*folded)[W / 2]) {
    vf sums[QUERIES_AT_ONCE][8];
#pragma GCC unroll 5
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 8
        for (int k = 0; k < keys; k++) sums[q][k] = (vf){0};
    for (int64_t i = 0; i < padded; i += STEP)
#pragma GCC unroll 4
        for (int k = 0; k < keys; k += 2) {
            vf one[2], other[2];
            widen_two(rows[k], i, type, &one[0], &one[1]);
            widen_two(rows[k + 1], i, type, &other[0], &other[1]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++)
#pragma GCC unroll 5
                for (int q = 0; q < queries; q++) {
                    vf query = load(own, q * padded + i + half * W, F32);
                    add_product(&sums[q][k], query, one[half]);
                    add_product(&sums[q][k + 1], query, other[half]);
                }
        }
#pragma GCC unroll 5
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
        for (int k = 0; k < keys; k += 2) folded[q][k / 2] = FOLD(sums[q][k], sums[q][k + 1]);
}

/* What both products are of. */
struct operands {
    const char *const *rows;
    int64_t count, padded;
    struct ahead ahead;
};

INLINE void score_queries(const int queries, struct operands of, const float *own,
                          const float *scales, float *scores, enum dtype type) {
    for (int64_t t = 0; t < of.count; t += W) {
        vf folded[QUERIES_AT_ONCE][W / 2], scale = load(scales, t, F32);
        for (int64_t k = 0; k < W; k += KEYS_AT_ONCE(queries)) {
            for (int i = 0; i < KEYS_AT_ONCE(queries); i++) fetch(of.ahead, t + k + i);
            multiply_keys(queries, KEYS_AT_ONCE(queries), of.rows + t + k, own, of.padded, type,
                          (vf(*)[W / 2])((vf *)folded + k / 2));
        }
        for (int q = 0; q < queries; q++)
            store(scores, q * TILE + t, sum_folded(folded[q]) * scale, F32);
    }
}

/* The lines that begin within a part of each row: others are fetched with the other parts, so that
 * no more are asked for at once than can be awaited. */
INLINE struct ahead part_of(struct ahead ahead, int64_t first, int64_t past) {
    first = round_up(first, LINE);
    past = smaller_of(past, ahead.bytes);
    return (struct ahead){ahead.from + first, ahead.offsets, past - first};
}

/* Adds weighted values to `vectors` of the sums of `queries` queries. */
INLINE void add_vectors(const int queries, const int vectors, struct operands of, int64_t from,
                        const float *weights, float *state, int64_t stride, enum dtype type) {
    vf sums[QUERIES_AT_ONCE][4];
#pragma GCC unroll 5
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[q][v] = load(state, q * stride + from + v * W, F32);
    int64_t size = bytes_of(type);
    of.ahead = part_of(of.ahead, from * size, (from + vectors * W) * size);
    for (int64_t t = 0; t < of.count; t++) {
        fetch(of.ahead, t);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v += 2) {
            vf first, second;
            widen_two(of.rows[t], from + v * W, type, &first, &second);
#pragma GCC unroll 5
            for (int q = 0; q < queries; q++) {
                vf weight = splat(weights[q * TILE + t]);
                add_product(&sums[q][v], weight, first);
                add_product(&sums[q][v + 1], weight, second);
            }
        }
    }
#pragma GCC unroll 5
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(state, q * stride + from + v * W, sums[q][v], F32);
}

INLINE void add_queries(const int queries, struct operands of, const float *weights, float *state,
                        int64_t stride, enum dtype type) {
    const int vectors = VECTORS_AT_ONCE(queries);
    int64_t from = 0;
    for (; from + vectors * W <= of.padded; from += vectors * W)
        add_vectors(queries, vectors, of, from, weights, state, stride, type);
    if (vectors > 2 && from < of.padded)
        add_vectors(queries, 2, of, from, weights, state, stride, type);
}

/* Calls `function(queries, ...)` with the number of queries a constant. */
#define BY_QUERIES(function, queries, ...)                                                        \
    do {                                                                                          \
        switch (queries) {                                                                        \
        case 1: function(1, __VA_ARGS__); break;                                                  \
        case 2: function(2, __VA_ARGS__); break;                                                  \
        case 3: function(3, __VA_ARGS__); break;                                                  \
        case 4: function(4, __VA_ARGS__); break;                                                  \
        default: function(QUERIES_AT_ONCE, __VA_ARGS__);                                          \
        }                                                                                         \
    } while (0)

INLINE void score_tile(const char *const *keys, int64_t count, const char *queries,
                       int64_t between, int64_t group, int64_t padded, const float *scales,
                       float *scores, struct ahead ahead, enum dtype type, int pairs) {
    (void)pairs;
    struct operands of = {keys, count, padded, ahead};
    int64_t parts = divide_up(group, QUERIES_AT_ONCE);
    for (int64_t part = 0; part < parts; part++, of.ahead.bytes = 0) {
        int64_t first = group * part / parts, own = group * (part + 1) / parts - first;
        BY_QUERIES(score_queries, own, of, (const float *)(queries + first * between), scales,
                   scores + first * TILE, type);
    }
}

INLINE void add_tile(const char *const *values, int64_t count, int64_t queries, int64_t padded,
                     const float *weights, const uint16_t *rounded, float *state, int64_t stride,
                     struct ahead ahead, enum dtype type, int pairs) {
    (void)rounded, (void)pairs;
    struct operands of = {values, count, padded, ahead};
    BY_QUERIES(add_queries, queries, of, weights, state, stride, type);
}
