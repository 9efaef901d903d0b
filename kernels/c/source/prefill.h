/* Attention of a block of one chunk's queries over all keys that they see.
 *
 * Lanes are queries: those of a block's tokens that share a key/value head, SIDES vectors of them at
 * a time (a band). So maxima, sums and masks need no sums over lanes, and numbers of keys and values
 * are broadcast from where they lie. Keys and values of a block are made ready once for all bands. */
#include "next_block.h"

/* Sums of ROWS_AT_ONCE keys or dimensions with a band take most of the registers. */
enum { SIDES = W == 8 ? 3 : 2, BAND = SIDES * W, BANDS = W == 8 ? 6 : 4 };
enum { ROWS_AT_ONCE = W == 16 ? 8 : 4 };

/* Makes W rows of W lanes into columns: a round moves a bit of a lane's number to its row's. */
INLINE void transpose(vf x[W]) {
    _Pragma("GCC unroll 4") for (int round = 1; round < W; round *= 2) {
        vf next[W];
        _Pragma("GCC unroll 8") for (int i = 0; i < W / 2; i++) {
            next[2 * i] = SHUFFLE(x[i], x[i + W / 2], INTERLEAVE_LOWER);
            next[2 * i + 1] = SHUFFLE(x[i], x[i + W / 2], INTERLEAVE_UPPER);
        }
        _Pragma("GCC unroll 16") for (int i = 0; i < W; i++) x[i] = next[i];
    }
}

/* One band of queries. Each array has BAND lanes a row. */
struct band {
    float *queries; /* a row for each number of a head, or for each pair of bfloat16 */
    float *sums;    /* a row for each dimension */
    float *maxima, *weights;
    int32_t *positions;
    int64_t rows; /* those of its lanes that are queries */
};

/* A block of keys and values, and what a band's scores over it take. */
struct key_block {
    int64_t first, count, padded;
    const char *keys[KEYS];
    char *staged;    /* the keys, where they are not as the products take them */
    float *values;   /* [keys, padded dimensions]: floats, or pairs of two keys' bfloat16 */
    float *scores;   /* [KEYS, BAND] */
    float *products; /* [keys, BAND], weights like values */
    float k_scales[KEYS], v_scales[KEYS];
};

INLINE vf multiply_lanes(vf sum, vf x, const char *number, int pairs) {
#if defined(HAS_BF16)
    if (pairs) {
        int32_t pair;
        memcpy(&pair, number, sizeof pair);
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)_mm512_set1_epi32(pair));
    }
#endif
    (void)pairs;
    float factor;
    memcpy(&factor, number, sizeof factor);
#if defined(HAS_BF16)
    return sum + x * factor;
#else
    add_product(&sum, x, splat(factor));
    return sum;
#endif
}

/* Two rows of numbers that bfloat16 holds exactly, as one of pairs. */
INLINE vf pair_up(vf first, vf second) { return (vf)((vu)first >> 16 | (vu)second); }

/* Scores of ROWS_AT_ONCE keys with a band. */
INLINE void score_keys(const struct key_block *block, int64_t from, const struct band *band,
                       int64_t numbers, int pairs) {
    vf sums[ROWS_AT_ONCE][SIDES] = {0};
    const char *keys[ROWS_AT_ONCE];
    _Pragma("GCC unroll 8") for (int k = 0; k < ROWS_AT_ONCE; k++) keys[k] = block->keys[from + k];
    for (int64_t i = 0; i < numbers; i++) {
        vf queries[SIDES];
        _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++) queries[side] =
            load(band->queries, i * BAND + side * W, F32);
        _Pragma("GCC unroll 8") for (int k = 0; k < ROWS_AT_ONCE; k++)
            _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++) sums[k][side] =
                multiply_lanes(sums[k][side], queries[side], keys[k] + 4 * i, pairs);
    }
    _Pragma("GCC unroll 8") for (int k = 0; k < ROWS_AT_ONCE; k++) {
        float scale = block->k_scales[from + k];
        _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++)
            store(block->scores, (from + k) * BAND + side * W, sums[k][side] * scale, F32);
    }
}

/* Adds weighted values to ROWS_AT_ONCE dimensions of a band's sums, of which `kept` remains. */
INLINE void add_dimensions(const struct key_block *block, int64_t rows, int64_t from,
                           const struct band *band, const vf kept[SIDES], int pairs) {
    vf sums[ROWS_AT_ONCE][SIDES];
    float *to = band->sums + from * BAND;
    _Pragma("GCC unroll 8") for (int d = 0; d < ROWS_AT_ONCE; d++)
        _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++) sums[d][side] =
            load(to, d * BAND + side * W, F32) * kept[side];
    for (int64_t k = 0; k < rows; k++) {
        const char *values = (const char *)(block->values + k * block->padded + from);
        vf weights[SIDES];
        _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++) weights[side] =
            load(block->products, k * BAND + side * W, F32);
        _Pragma("GCC unroll 8") for (int d = 0; d < ROWS_AT_ONCE; d++)
            _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++) sums[d][side] =
                multiply_lanes(sums[d][side], weights[side], values + 4 * d, pairs);
    }
    _Pragma("GCC unroll 8") for (int d = 0; d < ROWS_AT_ONCE; d++)
        _Pragma("GCC unroll 3") for (int side = 0; side < SIDES; side++)
            store(to, d * BAND + side * W, sums[d][side], F32);
}

/* Rounds weights, which are not negative, to bfloat16: the nearest, ties away from zero. */
INLINE vf round_weights(vf x) { return (vf)(((vu)x + 0x8000u) & 0xffff0000u); }

/* Hides keys that come after a query; returns the largest of what was and of what is left. */
INLINE vf hide_later(const struct key_block *block, int64_t rows, int64_t side, vi positions,
                     vf largest, int hides) {
    float *scores = block->scores + side * W;
    for (int64_t k = 0; k < rows; k++) {
        vf own = load(scores, k * BAND, F32);
        if (hides) {
            own = choose((int32_t)(block->first + k) > positions, splat(-__builtin_inff()), own);
            store(scores, k * BAND, own, F32);
        }
        largest = larger(own, largest);
    }
    return largest;
}

/* Weights of one side of a band, as the products take them; returns their sum. */
INLINE vf weigh_keys(const struct key_block *block, int64_t rows, int64_t side, vf largest,
                     int scaled, int pairs) {
    vf sum = {0};
    for (int64_t k = 0; k < rows; k += 2) {
        vf two[2];
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
            vf score = load(block->scores, (k + i) * BAND + side * W, F32);
            two[i] = exponential(score - largest);
            sum += two[i];
            if (scaled) two[i] *= block->v_scales[k + i];
        }
        float *to = block->products + (pairs ? k / 2 : k) * BAND + side * W;
        if (pairs) {
            store(to, 0, pair_up(round_weights(two[0]), round_weights(two[1])), F32);
        } else {
            store(to, 0, two[0], F32);
            store(to, BAND, two[1], F32);
        }
    }
    return sum;
}

INLINE void attend_lanes(const struct attention_arguments *a, const struct key_block *block,
                         const struct band *band, const struct next_block *next, int scaled,
                         int pairs) {
    int64_t last = band->positions[BAND - 1] - block->first + 1;
    if (last <= 0) return;
    int64_t rows = round_up(smaller_of(last, block->count), ROWS_AT_ONCE);
    int64_t numbers = divide_up(a->head_dim, pairs ? 2 : 1);
    for (int64_t k = 0; k < rows; k += ROWS_AT_ONCE) {
        score_keys(block, k, band, numbers, pairs);
        if (next != NULL) fetch_next(next, k, k + ROWS_AT_ONCE);
    }
    int hides = block->first + rows - 1 > band->positions[0];
    vf kept[SIDES];
    for (int64_t side = 0; side < SIDES; side++) {
        vi positions;
        memcpy(&positions, band->positions + side * W, sizeof positions);
        vf before = load(band->maxima, side * W, F32);
        vf largest = hides ? hide_later(block, rows, side, positions, before, 1)
                           : hide_later(block, rows, side, positions, before, 0);
        kept[side] = exponential(before - largest);
        vf sum = weigh_keys(block, rows, side, largest, scaled, pairs);
        store(band->maxima, side * W, largest, F32);
        store(band->weights, side * W, load(band->weights, side * W, F32) * kept[side] + sum, F32);
    }
    int64_t products = pairs ? rows / 2 : rows;
    for (int64_t d = 0; d < block->padded; d += ROWS_AT_ONCE)
        add_dimensions(block, products, d, band, kept, pairs);
}

/* Not inline: what is computed here depends on no more of the types than this. */
static __attribute__((noinline)) void attend_band(const struct attention_arguments *a,
                                                  const struct key_block *block,
                                                  const struct band *band,
                                                  const struct next_block *next) {
    int scaled = a->kv_dtype == I8;
    if (PAIRED(a->dtype) && scaled)
        attend_lanes(a, block, band, next, 1, 1);
    else if (PAIRED(a->dtype))
        attend_lanes(a, block, band, next, 0, 1);
    else if (scaled)
        attend_lanes(a, block, band, next, 1, 0);
    else
        attend_lanes(a, block, band, next, 0, 0);
}

/* Makes keys and values of a block ready for all bands. */
INLINE void take_block(const struct attention_arguments *a, struct key_block *block,
                       const int32_t *slots, int64_t head, enum dtype type, int pairs) {
    int64_t head_dim = a->head_dim, padded = block->padded, size = bytes_of(type);
    const char *k_cache = cache_of(a->k, head, a, type), *v_cache = cache_of(a->v, head, a, type);
    const char *values[KEYS + 1];
    for (int64_t k = 0; k < KEYS; k++) {
        int32_t slot = slots[smaller_of(k, block->count - 1)];
        block->keys[k] = k_cache + slot * a->slot_stride * size;
        values[k] = v_cache + slot * a->slot_stride * size;
        block->k_scales[k] = (float)a->scale;
        if (type != I8) continue;
        block->k_scales[k] *= scale_of(a->k_scales, slot, head, a);
        block->v_scales[k] = scale_of(a->v_scales, slot, head, a);
    }
    int64_t wanted = round_up(block->count, ROWS_AT_ONCE);
    for (int64_t k = 0; k < wanted && !(pairs && type == BF16 && head_dim % 2 == 0); k++) {
        char *copy = block->staged + k * padded * (pairs ? 2 : 4);
        for (int64_t i = 0; i < padded; i += W)
            store(copy, i, i < head_dim ? load_within(block->keys[k], i, head_dim, type) : splat(0),
                  pairs ? BF16 : F32);
        block->keys[k] = copy;
    }
    for (int64_t k = 0; k < wanted; k += pairs ? 2 : 1)
        for (int64_t i = 0; i < padded; i += W) {
            vf own = {0}, other = {0};
            if (i < head_dim) own = load_within(values[k], i, head_dim, type);
            if (i < head_dim && pairs) other = load_within(values[k + 1], i, head_dim, type);
            store(block->values, (pairs ? k / 2 : k) * padded + i,
                  pairs ? pair_up(own, other) : own, F32);
        }
}

/* W numbers of a query, or W pairs, from number or pair `i` on; zeros after its end. */
INLINE vf query_lanes(const char *query, int64_t i, int64_t head_dim, enum dtype type, int pairs) {
    if (!pairs) return i < head_dim ? load_within(query, i, head_dim, type) : splat(0);
    int64_t left = head_dim - 2 * i;
    vf lanes = {0};
    if (left > 0) memcpy(&lanes, query + 4 * i, (size_t)(2 * smaller_of(left, 2 * W)));
    return lanes;
}

/* Takes the queries of `tokens` tokens from `token` on, at `position`, of those the rows from
 * `row` on; a lane without a query gets zeros, and the last position. */
INLINE void take_band(const struct attention_arguments *a, struct band *band, int64_t token,
                      int64_t position, int64_t tokens, int64_t row, int64_t head,
                      enum dtype type, int pairs) {
    int64_t group = a->heads / a->kv_heads, numbers = divide_up(a->head_dim, pairs ? 2 : 1);
    const char *queries[BAND];
    for (int64_t r = 0; r < BAND; r++) {
        int64_t own = (row + r) / group, at = smaller_of(own, tokens - 1);
        int64_t from = (token + at) * a->q_token_stride +
                       (head * group + (row + r) % group) * a->q_head_stride;
        queries[r] = a->q + from * bytes_of(type);
        band->positions[r] = (int32_t)(position + at);
        if (own < tokens) band->rows = r + 1;
    }
    for (int64_t side = 0; side < SIDES; side++) {
        store(band->maxima, side * W, splat(-__builtin_inff()), F32);
        store(band->weights, side * W, splat(0), F32);
        for (int64_t i = 0; i < numbers; i += W) {
            vf x[W];
            for (int64_t r = 0; r < W; r++)
                x[r] = side * W + r < band->rows
                           ? query_lanes(queries[side * W + r], i, a->head_dim, type, pairs)
                           : splat(0);
            transpose(x);
            for (int64_t j = 0; j < smaller_of(W, numbers - i); j++)
                store(band->queries, (i + j) * BAND + side * W, x[j], F32);
        }
    }
}

INLINE void finish_band(const struct attention_arguments *a, const struct band *band,
                        int64_t token, int64_t row, int64_t head, enum dtype type) {
    int64_t group = a->heads / a->kv_heads, head_dim = a->head_dim;
    for (int64_t side = 0; side < SIDES; side++) {
        vf factor = 1.0f / load(band->weights, side * W, F32);
        for (int64_t i = 0; i < head_dim; i += W) {
            vf x[W];
            for (int64_t d = 0; d < W; d++)
                x[d] = load(band->sums, (i + d) * BAND + side * W, F32) * factor;
            transpose(x);
            for (int64_t r = 0; r < W && side * W + r < band->rows; r++) {
                int64_t own = row + side * W + r;
                int64_t to = (token + own / group) * a->heads + head * group + own % group;
                store_within(a->out + to * head_dim * bytes_of(type), i, head_dim, x[r], type);
            }
        }
    }
}

/* Tokens whose queries of one key/value head fill the bands of a task. */
INLINE int64_t tokens_of_task(const struct attention_arguments *a) {
    int64_t tokens = BANDS * BAND / (a->heads / a->kv_heads);
    return tokens > 1 ? tokens : 1;
}

/* A band in `room`: queries, sums, maxima, weights and positions. */
INLINE struct band band_in(float *room, int64_t padded) {
    float *sums = room + padded * BAND, *maxima = sums + padded * BAND;
    memset(sums, 0, (size_t)(padded * BAND) * sizeof *sums);
    return (struct band){room, sums, maxima, maxima + BAND, (int32_t *)(maxima + 2 * BAND), 0};
}

INLINE void attend_block(const struct attention_arguments *a, const struct attention_task *task,
                         int64_t head, enum dtype q_type, enum dtype type, int pairs) {
    int64_t chunk = task->chunk, tokens = task->past - task->first;
    int64_t start = a->q_starts[chunk], count = a->q_starts[chunk + 1] - start;
    int64_t token = start + task->first;
    int64_t position = a->kv_lengths[chunk] - count + task->first;
    const int32_t *slots = a->table + a->rows[chunk] * a->table_stride;
    struct next_block next;
    find_next(a, &next, slots, position + tokens, head, type);
    fetch_next(&next, 0, KEYS);
    int64_t bands = divide_up(tokens * (a->heads / a->kv_heads), BAND);
    int64_t padded = round_up(a->head_dim, 16);
    int64_t lanes = (2 * padded + 3) * BAND;
    float *room = ROOM(4 * bands * lanes);
    struct band *band = ROOM(bands * (int64_t)sizeof *band);
    for (int64_t b = 0; b < bands; b++) {
        band[b] = band_in(room + b * lanes, padded);
        take_band(a, &band[b], token, position, tokens, b * BAND, head, q_type, pairs);
    }
    struct key_block block = {.padded = padded};
    block.staged = ROOM(4 * KEYS * padded);
    block.values = ROOM(4 * KEYS * padded);
    block.scores = ROOM(4 * KEYS * BAND);
    block.products = ROOM(4 * KEYS * BAND);
    for (int64_t past = position + tokens; block.first < past; block.first += KEYS) {
        block.count = smaller_of(past - block.first, KEYS);
        take_block(a, &block, slots + block.first, head, type, pairs);
        int64_t follows = block.first + KEYS;
        find_next(a, &next, slots + follows, past - follows, head, type);
        for (int64_t b = 0; b < bands; b++)
            attend_band(a, &block, &band[b], b == 0 ? &next : NULL);
    }
    for (int64_t b = 0; b < bands; b++) finish_band(a, &band[b], token, b * BAND, head, q_type);
}

#define DEFINE_ATTEND_BLOCK(NAME, Q_TYPE, TYPE)                                                   \
    static void NAME(const struct attention_arguments *a, const struct attention_task *task,      \
                     int64_t head) {                                                              \
        attend_block(a, task, head, Q_TYPE, TYPE, PAIRED(Q_TYPE));                                \
    }
DEFINE_ATTEND_BLOCK(attend_block_f32, F32, F32)
DEFINE_ATTEND_BLOCK(attend_block_bf16, BF16, BF16)
DEFINE_ATTEND_BLOCK(attend_block_f16, F16, F16)
DEFINE_ATTEND_BLOCK(attend_block_f32_i8, F32, I8)
DEFINE_ATTEND_BLOCK(attend_block_bf16_i8, BF16, I8)
DEFINE_ATTEND_BLOCK(attend_block_f16_i8, F16, I8)

static void run_prefill(const struct attention_arguments *a, const struct attention_task *task,
                        int64_t head) {
    int narrow = a->kv_dtype == I8;
    if (a->dtype == BF16)
        (narrow ? attend_block_bf16_i8 : attend_block_bf16)(a, task, head);
    else if (a->dtype == F16)
        (narrow ? attend_block_f16_i8 : attend_block_f16)(a, task, head);
    else
        (narrow ? attend_block_f32_i8 : attend_block_f32)(a, task, head);
}
