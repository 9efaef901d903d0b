/* Decodes' products where an instruction multiplies pairs of bfloat16; other types are staged as
 * floats.
 *
 * Each is defined for every number of queries at once by macros, since the compiler keeps sums in
 * registers only where it knows how many there are. */

INLINE vf add_products(vf sum, const char *x, const char *y, int64_t i, int pairs) {
    if (pairs) {
        __m512bh own, other;
        memcpy(&own, x + 2 * i, sizeof own);
        memcpy(&other, y + 2 * i, sizeof other);
        return (vf)_mm512_dpbf16_ps((__m512)sum, own, other);
    }
    return sum + load(x, i, F32) * load(y, i, F32);
}

/* Vectors are summed over their lanes four at a time, then four such fours together: lane `t` of
 * the result is the sum of the vector of token `t`. Four `n` takes the tokens that this names. */
enum { FOURS = 4 };
#define TOKEN_OF_FOUR(n, i) ((n) + (i) * FOURS)

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

INLINE vf sum_four(vf a, vf b, vf c, vf d) { return NEXT(WIDEST(a, c), WIDEST(b, d)); }

INLINE vf sum_fours(const vf fours[FOURS]) {
    return LAST(THIRD(fours[0], fours[2]), THIRD(fours[1], fours[3]));
}

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

/* A tile is computed whole. */
INLINE int64_t computed(int64_t count) {
    (void)count;
    return TILE;
}

INLINE int out_of_order(const struct attention_arguments *a, enum dtype type) {
    (void)a;
    return PAIRED(type);
}

/* Sums of pairs come as the lower and the upper halves of every eight dimensions. */
INLINE void in_order(const float *sums, vf *first, vf *second) {
    vf lower = load(sums, 0, F32), upper = load(sums, W, F32);
    *first = SHUFFLE(lower, upper, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    *second = SHUFFLE(lower, upper, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
}

/* For each number of queries, with most vectors that registers hold and with one. */
enum { VECTORS_AT_ONCE = 4 };
#define DEFINE_VALUES(QUERIES) DEFINE_ADD_VALUES(QUERIES, 4) DEFINE_ADD_VALUES(QUERIES, 1)
#define DEFINE_PAIRS(QUERIES) DEFINE_ADD_PAIRS(QUERIES, 2) DEFINE_ADD_PAIRS(QUERIES, 1)
DEFINE_VALUES(1)
DEFINE_VALUES(2)
DEFINE_VALUES(3)
DEFINE_VALUES(4)
DEFINE_VALUES(5)
DEFINE_PAIRS(1)
DEFINE_PAIRS(2)
DEFINE_PAIRS(3)
DEFINE_PAIRS(4)
DEFINE_PAIRS(5)

/* Rows of a tile as the products take them: floats, or bfloat16 where a lane
 * multiplies pairs. Rows that are so already stay where they are. */
INLINE void take_rows(const struct attention_arguments *a, const char *cache,
                      const int64_t *offsets, int64_t head, char *staged, const char **rows,
                      enum dtype type, int pairs) {
    int64_t head_dim = a->head_dim, padded = round_up(head_dim, STEP);
    const char *from = cache_of(cache, head, a, type);
    for (int64_t t = 0; t < TILE; t++) rows[t] = from + offsets[t];
    if (pairs && type == BF16 && padded == head_dim) return;
    for (int64_t t = 0; t < TILE; t++) {
        char *copy = staged + t * padded * (pairs ? 2 : 4);
        for (int64_t i = 0; i < padded; i += W)
            store(copy, i,
                  i < head_dim ? load_within(rows[t], i, head_dim, type) : splat(0),
                  pairs ? BF16 : F32);
        rows[t] = copy;
    }
}

/* The queries of some heads as the products take them, zeros after their last dimension. */
INLINE void take_queries(const struct attention_arguments *a, int64_t token, int64_t first,
                         int64_t count, char *queries, enum dtype type) {
    int64_t padded = round_up(a->head_dim, STEP);
    enum dtype as = PAIRED(type) ? BF16 : F32;
    for (int64_t head = 0; head < count; head++) {
        int64_t from = token * a->q_token_stride + (first + head) * a->q_head_stride;
        const char *query = a->q + from * bytes_of(type);
        for (int64_t i = 0; i < padded; i += W)
            store(queries, head * padded + i,
                  i < a->head_dim ? load_within(query, i, a->head_dim, type) : splat(0), as);
    }
}

INLINE void score_staged(const char *const *keys, const char *queries, int64_t between,
                         int64_t group, int64_t padded, const float *scales, float *scores,
                         struct ahead ahead, int pairs) {
    int64_t parts = divide_up(group, QUERIES_AT_ONCE);
    for (int64_t part = 0; part < parts; part++) {
        if (part > 0) ahead.bytes = 0;
        int64_t first = group * part / parts, count = group * (part + 1) / parts - first;
        const char *own = queries + first * between;
        for (int64_t t = 0; t < TILE; t += W) {
            vf scale = load(scales, t, F32);
            float *to = scores + first * TILE + t;
            switch (count) {
            case 1: score_1(keys + t, own, between, padded, scale, to, ahead, t, pairs); break;
            case 2: score_2(keys + t, own, between, padded, scale, to, ahead, t, pairs); break;
            case 3: score_3(keys + t, own, between, padded, scale, to, ahead, t, pairs); break;
            case 4: score_4(keys + t, own, between, padded, scale, to, ahead, t, pairs); break;
            default: score_5(keys + t, own, between, padded, scale, to, ahead, t, pairs);
            }
        }
    }
}

/* One function for all types that are staged as floats. */
static __attribute__((noinline)) void score_floats(const char *const *keys, const char *queries,
                                                   int64_t between, int64_t group, int64_t padded,
                                                   const float *scales, float *scores,
                                                   struct ahead ahead) {
    score_staged(keys, queries, between, group, padded, scales, scores, ahead, 0);
}

INLINE void score_tile(const char *const *keys, int64_t count, const char *queries,
                       int64_t between, int64_t group, int64_t padded, const float *scales,
                       float *scores, struct ahead ahead, enum dtype type, int pairs) {
    (void)count, (void)type;
    if (pairs)
        score_staged(keys, queries, between, group, padded, scales, scores, ahead, 1);
    else
        score_floats(keys, queries, between, group, padded, scales, scores, ahead);
}

/* Rows ahead are fetched with the first of a row's dimensions alone. */
#define ADD_VALUES(QUERIES)                                                                       \
    for (; from + VECTORS_AT_ONCE * W <= padded; from += VECTORS_AT_ONCE * W, ahead.bytes = 0)    \
        add_values_##QUERIES##_4(values, count, from, padded, weights, state, stride, ahead,      \
                                 F32);                                                            \
    for (; from < padded; from += W, ahead.bytes = 0)                                             \
        add_values_##QUERIES##_1(values, count, from, padded, weights, state, stride, ahead, F32);

#define ADD_PAIRS(QUERIES)                                                                        \
    for (; from + 4 * W <= padded; from += 4 * W, ahead.bytes = 0)                                \
        add_pairs_##QUERIES##_2(values, count, from, weights, state, stride, ahead);              \
    for (; from < padded; from += 2 * W, ahead.bytes = 0)                                         \
        add_pairs_##QUERIES##_1(values, count, from, weights, state, stride, ahead);

static __attribute__((noinline)) void add_floats(const char *const *values, int64_t count,
                                                 int64_t queries, int64_t padded,
                                                 const float *weights, float *state,
                                                 int64_t stride, struct ahead ahead) {
    int64_t from = 0;
    switch (queries) {
    case 1: ADD_VALUES(1) break;
    case 2: ADD_VALUES(2) break;
    case 3: ADD_VALUES(3) break;
    case 4: ADD_VALUES(4) break;
    default: ADD_VALUES(5)
    }
}

INLINE void add_rounded(const char *const *values, int64_t count, int64_t queries, int64_t padded,
                        const uint16_t *weights, float *state, int64_t stride,
                        struct ahead ahead) {
    int64_t from = 0;
    switch (queries) {
    case 1: ADD_PAIRS(1) break;
    case 2: ADD_PAIRS(2) break;
    case 3: ADD_PAIRS(3) break;
    case 4: ADD_PAIRS(4) break;
    default: ADD_PAIRS(5)
    }
}

INLINE void add_tile(const char *const *values, int64_t count, int64_t queries, int64_t padded,
                     const float *weights, const uint16_t *rounded, float *state, int64_t stride,
                     struct ahead ahead, enum dtype type, int pairs) {
    (void)type;
    if (pairs)
        add_rounded(values, count, queries, padded, rounded, state, stride, ahead);
    else
        add_floats(values, count, queries, padded, weights, state, stride, ahead);
}
