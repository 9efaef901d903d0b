/* The products of decodes: a group's queries with keys, and weights with values, in registers.
 *
 * Each is defined for every number of queries at once by macros, since the compiler keeps sums in
 * registers only where it knows how many there are. */
#include "attention.h"

enum { TILE = 32 };

/* Whether a lane multiplies two bfloat16 at once, of keys and of values. */
#if defined(HAS_BF16)
#define PAIRED(type) ((type) == BF16)
enum { STEP = 2 * W };
#else
#define PAIRED(type) 0
enum { STEP = W };
#endif

/* What is known of one query so far, in floats: sums of values, W sums of weights, the largest
 * score. Sums of pairs lie in the order in which their products come, see `in_order`. */
struct decode_layout {
    int64_t group, padded, maximum, stride;
};

INLINE struct decode_layout decode_layout_of(const struct attention_arguments *a) {
    int64_t padded = round_up(a->head_dim, STEP);
    return (struct decode_layout){a->heads / a->kv_heads, padded, padded + W, padded + 2 * W};
}

/* A range of a sequence's positions, or of a chunk's tokens. */
struct attention_task {
    int32_t chunk, first, past, partial; /* partial: its place in the workspace, -1 for none */
};

/* Where the rows of a tile begin, in bytes after those of slot 0; the last one's repeated to its
 * end. */
INLINE void find_rows(const struct attention_arguments *a, const int32_t *slots, int64_t count,
                      int64_t *offsets, enum dtype type) {
    for (int64_t t = 0; t < TILE; t++)
        offsets[t] = slots[t < count ? t : count - 1] * a->slot_stride * bytes_of(type);
}

INLINE const char *cache_of(const char *cache, int64_t head, const struct attention_arguments *a,
                            enum dtype type) {
    return cache + head * a->head_stride * bytes_of(type);
}

/* Rows to be fetched while others are computed with, one by one: many at once would only wait. */
struct ahead {
    const char *from;
    const int64_t *offsets;
    int64_t bytes;
};

INLINE void fetch(struct ahead ahead, int64_t row) {
    for (int64_t i = 0; i < ahead.bytes; i += LINE)
        __builtin_prefetch(ahead.from + ahead.offsets[row] + i, 0, 3);
}

INLINE float scale_of(const char *scales, int64_t slot, int64_t head,
                      const struct attention_arguments *a) {
    int64_t at = slot * a->scale_slot_stride + head * a->scale_head_stride;
    return load_some(scales, at, 1, F16)[0];
}

INLINE vf add_products(vf sum, const char *x, const char *y, int64_t i, int pairs) {
#if defined(HAS_BF16)
    if (pairs) {
        __m512bh own, other;
        memcpy(&own, x + 2 * i, sizeof own);
        memcpy(&other, y + 2 * i, sizeof other);
        return (vf)_mm512_dpbf16_ps((__m512)sum, own, other);
    }
#endif
    (void)pairs;
    return sum + load(x, i, F32) * load(y, i, F32);
}

/* As many queries at once as registers hold sums of. */
enum { QUERIES_AT_ONCE = W == 16 ? 5 : 2 };

/* Scores of W keys, each with QUERIES queries that lie `between` bytes apart. */
#define DEFINE_SCORE(QUERIES)                                                                     \
    INLINE void score_##QUERIES(const char *const *keys, const char *queries, int64_t between,    \
                                int64_t padded, vf scale, float *scores, struct ahead ahead,      \
                                int64_t token, int pairs) {                                       \
        vf fours[QUERIES][FOURS];                                                                 \
        _Pragma("GCC unroll 4") for (int n = 0; n < FOURS; n++) {                                 \
            vf sums[QUERIES][4] = {0};                                                            \
            for (int64_t t = 4 * n; t < 4 * n + 4; t++) fetch(ahead, token + t);                  \
            for (int64_t i = 0; i < padded; i += pairs ? 2 * W : W)                               \
                _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                         \
                    _Pragma("GCC unroll 4") for (int t = 0; t < 4; t++) sums[g][t] =              \
                        add_products(sums[g][t], queries + g * between,                           \
                                     keys[TOKEN_OF_FOUR(n, t)], i, pairs);                        \
            _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++) fours[g][n] =               \
                sum_four(sums[g][0], sums[g][1], sums[g][2], sums[g][3]);                         \
        }                                                                                         \
        _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                                 \
            store(scores, g * TILE, sum_fours(fours[g]) * scale, F32);                            \
    }
DEFINE_SCORE(1)
DEFINE_SCORE(2)
DEFINE_SCORE(3)
DEFINE_SCORE(4)
DEFINE_SCORE(5)

/* Adds weighted values of `count` rows to VECTORS of the sums of QUERIES queries. */
#define DEFINE_ADD_VALUES(QUERIES, VECTORS)                                                       \
    INLINE void add_values_##QUERIES##_##VECTORS(                                                 \
        const char *const *rows, int64_t count, int64_t from, int64_t head_dim,                   \
        const float *weights, float *state, int64_t stride, struct ahead ahead,                   \
        enum dtype type) {                                                                        \
        vf sums[QUERIES][VECTORS];                                                                \
        _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < VECTORS; i++)                             \
                sums[g][i] = load(state, g * stride + from + i * W, F32);                         \
        for (int64_t t = 0; t < count; t++) {                                                     \
            fetch(ahead, t);                                                                      \
            vf values[VECTORS];                                                                   \
            _Pragma("GCC unroll 8") for (int i = 0; i < VECTORS; i++)                             \
                values[i] = VECTORS == 1 ? load_within(rows[t], from, head_dim, type)             \
                                         : load(rows[t], from + i * W, type);                     \
            _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                             \
                _Pragma("GCC unroll 8") for (int i = 0; i < VECTORS; i++)                         \
                    sums[g][i] += values[i] * weights[g * TILE + t];                              \
        }                                                                                         \
        _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < VECTORS; i++)                             \
                store(state, g * stride + from + i * W, sums[g][i], F32);                         \
    }

#if defined(HAS_BF16)
/* The same of pairs of rows: weights and values are rounded to bfloat16 and multiplied two by two.
 * VECTORS of 2 * W dimensions; each gives two vectors of sums. */
#define DEFINE_ADD_PAIRS(QUERIES, VECTORS)                                                        \
    INLINE void add_pairs_##QUERIES##_##VECTORS(const char *const *rows, int64_t count,           \
                                                int64_t from, const uint16_t *weights,            \
                                                float *state, int64_t stride,                     \
                                                struct ahead ahead) {                             \
        __m512 sums[QUERIES][2 * VECTORS];                                                        \
        _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < 2 * VECTORS; i++)                         \
                sums[g][i] = (__m512)load(state, g * stride + from + i * W, F32);                 \
        for (int64_t t = 0; t < count; t += 2) {                                                  \
            fetch(ahead, t), fetch(ahead, t + 1);                                                 \
            __m512i values[2 * VECTORS];                                                          \
            _Pragma("GCC unroll 8") for (int i = 0; i < VECTORS; i++) {                           \
                __m512i one = _mm512_loadu_si512(rows[t] + 2 * from + i * 4 * W);                 \
                __m512i two = _mm512_loadu_si512(rows[t + 1] + 2 * from + i * 4 * W);             \
                values[2 * i] = _mm512_unpacklo_epi16(one, two);                                  \
                values[2 * i + 1] = _mm512_unpackhi_epi16(one, two);                              \
            }                                                                                     \
            _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++) {                           \
                int32_t pair;                                                                     \
                memcpy(&pair, weights + g * TILE + t, sizeof pair);                               \
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);                                \
                _Pragma("GCC unroll 8") for (int i = 0; i < 2 * VECTORS; i++) sums[g][i] =        \
                    _mm512_dpbf16_ps(sums[g][i], both, (__m512bh)values[i]);                      \
            }                                                                                     \
        }                                                                                         \
        _Pragma("GCC unroll 8") for (int g = 0; g < QUERIES; g++)                                 \
            _Pragma("GCC unroll 8") for (int i = 0; i < 2 * VECTORS; i++)                         \
                store(state, g * stride + from + i * W, (vf)sums[g][i], F32);                     \
    }
#endif

/* Sums of pairs come as the lower and the upper halves of every eight dimensions. */
INLINE void in_order(const float *sums, vf *first, vf *second) {
    vf lower = load(sums, 0, F32), upper = load(sums, W, F32);
#if W == 16
    *first = SHUFFLE(lower, upper, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    *second = SHUFFLE(lower, upper, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
#else
    *first = lower, *second = upper;
#endif
}

/* For each number of queries, with most vectors that registers hold and with one. */
enum { VECTORS_AT_ONCE = W == 16 ? 4 : 2 };
#if W == 16
#define DEFINE_VALUES(QUERIES) DEFINE_ADD_VALUES(QUERIES, 4) DEFINE_ADD_VALUES(QUERIES, 1)
#define ADD_VALUES_AT_ONCE(QUERIES) add_values_##QUERIES##_4
#else
#define DEFINE_VALUES(QUERIES) DEFINE_ADD_VALUES(QUERIES, 2) DEFINE_ADD_VALUES(QUERIES, 1)
#define ADD_VALUES_AT_ONCE(QUERIES) add_values_##QUERIES##_2
#endif
DEFINE_VALUES(1)
DEFINE_VALUES(2)
DEFINE_VALUES(3)
DEFINE_VALUES(4)
DEFINE_VALUES(5)
#if defined(HAS_BF16)
#define DEFINE_PAIRS(QUERIES) DEFINE_ADD_PAIRS(QUERIES, 2) DEFINE_ADD_PAIRS(QUERIES, 1)
DEFINE_PAIRS(1)
DEFINE_PAIRS(2)
DEFINE_PAIRS(3)
DEFINE_PAIRS(4)
DEFINE_PAIRS(5)
#endif
