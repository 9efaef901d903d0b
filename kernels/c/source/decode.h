/* Attention of one query per sequence: each key is multiplied with all queries of its group.
 *
 * Lanes are dimensions. A task takes a range of positions, tile by tile, for some key/value heads;
 * while a tile is computed the next one's rows, which lie anywhere, are fetched. What tasks of one
 * sequence found is put together by whoever finishes last, in the order of positions. */
#include "decode_products.h"

#include <stdatomic.h>

/* What a tile is computed in. */
struct tile {
    char *staged;      /* rows of keys, then of values, where they have to be converted */
    float *scores;     /* of each query of a group, then weights */
    uint16_t *weights; /* rounded */
};

/* Turns scores of one query into weights, and what was summed before to the new maximum. */
INLINE void weigh(float *scores, int64_t count, float *state, struct decode_layout layout) {
    int64_t past = computed(count);
    for (int64_t t = count; t < past; t++) scores[t] = -__builtin_inff();
    vf largest = load(scores, 0, F32);
    for (int64_t t = W; t < past; t += W) largest = larger(load(scores, t, F32), largest);
    float before = state[layout.maximum], maximum = largest_of(largest);
    if (maximum > before) {
        float kept = exponential(splat(before - maximum))[0];
        for (int64_t i = 0; i < layout.maximum; i += W)
            store(state, i, load(state, i, F32) * kept, F32);
        state[layout.maximum] = maximum;
    } else {
        maximum = before;
    }
    vf sum = load(state, layout.padded, F32);
    for (int64_t t = 0; t < past; t += W) {
        vf weights = exponential(load(scores, t, F32) - maximum);
        store(scores, t, weights, F32);
        sum += weights;
    }
    store(state, layout.padded, sum, F32);
}

/* Which rows a tile is made of, and which come after them. */
struct unit {
    const int32_t *slots;
    const int64_t *offsets;
    int64_t count, head;
    struct ahead keys, values;
};

INLINE void attend_tile(const struct attention_arguments *a, struct unit unit,
                        const char *queries, float *state, struct tile tile, enum dtype type,
                        int pairs) {
    struct decode_layout layout = decode_layout_of(a);
    int64_t padded = layout.padded, bytes = padded * (pairs ? 2 : 4), count = unit.count;
    float k_scales[TILE], v_scales[TILE], *scores = tile.scores;
    for (int64_t t = 0; t < TILE; t++) {
        k_scales[t] = (float)a->scale;
        v_scales[t] = 0; /* past the last, a weight of zero may still be multiplied */
        if (type != I8 || t >= count) continue;
        k_scales[t] *= scale_of(a->k_scales, unit.slots[t], unit.head, a);
        v_scales[t] = scale_of(a->v_scales, unit.slots[t], unit.head, a);
    }
    const char *rows[TILE];
    take_rows(a, a->k, unit.offsets, unit.head, tile.staged, rows, type, pairs);
    score_tile(rows, count, queries, bytes, layout.group, padded, k_scales, scores, unit.keys, type,
               pairs);
    for (int64_t g = 0; g < layout.group; g++)
        weigh(scores + g * TILE, count, state + g * layout.stride, layout);
    take_rows(a, a->v, unit.offsets, unit.head, tile.staged, rows, type, pairs);
    for (int64_t g = 0; g < layout.group; g++)
        for (int64_t t = 0; t < computed(count); t += W) {
            vf weights = load(scores, g * TILE + t, F32);
            if (type == I8) weights *= load(v_scales, t, F32);
            store(scores, g * TILE + t, weights, F32);
            if (pairs) store(tile.weights, g * TILE + t, weights, BF16);
        }
    int64_t parts = divide_up(layout.group, QUERIES_AT_ONCE);
    for (int64_t part = 0; part < parts; part++) {
        int64_t first = layout.group * part / parts;
        int64_t own = layout.group * (part + 1) / parts - first;
        add_tile(rows, count, own, padded, scores + first * TILE, tile.weights + first * TILE,
                 state + first * layout.stride, layout.stride, unit.values, type, pairs);
        unit.values.bytes = 0;
    }
}

INLINE void clear_state(float *state, int64_t queries, struct decode_layout layout) {
    for (int64_t g = 0; g < queries; g++) {
        for (int64_t i = 0; i < layout.stride; i += W)
            store(state, g * layout.stride + i, splat(0), F32);
        state[g * layout.stride + layout.maximum] = -__builtin_inff();
    }
}

/* Divides sums of values by sums of weights, and rounds. */
INLINE void finish_typed(const struct attention_arguments *a, char *out, const float *state,
                         enum dtype type) {
    struct decode_layout layout = decode_layout_of(a);
    float factor = 1.0f / sum_of(load(state, layout.padded, F32));
    for (int64_t i = 0; i < a->head_dim; i += 2 * W) {
        vf first = load(state, i, F32), second = {0};
        if (out_of_order(a, type))
            in_order(state + i, &first, &second);
        else if (i + W < a->head_dim)
            second = load(state, i + W, F32);
        store_within(out, i, a->head_dim, first * factor, type);
        if (i + W < a->head_dim) store_within(out, i + W, a->head_dim, second * factor, type);
    }
}

static void finish_query(const struct attention_arguments *a, int64_t token, int64_t head,
                         const float *state) {
    int64_t to = (token * a->heads + head) * a->head_dim;
    BY_TYPE(finish_typed, a->dtype, a, a->out + to * bytes_of((enum dtype)a->dtype), state);
}

/* Puts together what `splits` tasks found about one query, the first of them in `state`. */
static void merge_splits(float *state, int64_t splits, int64_t between,
                         struct decode_layout layout) {
    float maximum = state[layout.maximum];
    for (int64_t s = 1; s < splits; s++) {
        float own = state[s * between + layout.maximum];
        maximum = own > maximum ? own : maximum;
    }
    for (int64_t s = 0; s < splits; s++) {
        const float *part = state + s * between;
        float factor = exponential(splat(part[layout.maximum] - maximum))[0];
        for (int64_t i = 0; i < layout.maximum; i += W) {
            vf sum = load(part, i, F32) * factor;
            store(state, i, s > 0 ? load(state, i, F32) + sum : sum, F32);
        }
    }
}

INLINE void attend_range(const struct attention_arguments *a, const int32_t *slots, int64_t count,
                         int64_t token, int64_t head, int64_t past_head, float *state,
                         enum dtype type, int pairs) {
    struct decode_layout layout = decode_layout_of(a);
    int64_t group = layout.group, heads = past_head - head;
    int64_t bytes = layout.padded * (pairs ? 2 : 4);
    char *queries = ROOM(heads * group * bytes);
    struct tile tile = {ROOM(TILE * bytes), ROOM(4 * group * TILE), ROOM(2 * group * TILE)};
    BY_TYPE(take_queries, a->dtype, a, token, head * group, heads * group, queries);
    clear_state(state, heads * group, layout);
    int64_t offsets[2][TILE], row_bytes = a->head_dim * bytes_of(type);
    find_rows(a, slots, smaller_of(count, TILE), offsets[0], type);
    for (int64_t first = 0; first < count; first += TILE) {
        int64_t left = count - first - TILE;
        const int64_t *here = offsets[first / TILE % 2];
        int64_t *next = offsets[1 - first / TILE % 2];
        if (left > 0) find_rows(a, slots + first + TILE, smaller_of(left, TILE), next, type);
        for (int64_t h = 0; h < heads; h++) {
            int last = h == heads - 1;
            int64_t to = last ? head : head + h + 1;
            const int64_t *rows = last ? next : here;
            int64_t bytes_ahead = last && left <= 0 ? 0 : row_bytes;
            struct ahead keys = {cache_of(a->k, to, a, type), rows, bytes_ahead};
            struct ahead values = {cache_of(a->v, to, a, type), rows, bytes_ahead};
            struct unit unit = {slots + first, here, smaller_of(count - first, TILE), head + h,
                                keys, values};
            attend_tile(a, unit, queries + h * group * bytes, state + h * group * layout.stride,
                        tile, type, pairs);
        }
    }
}

/* A function for each type of a cache, whose end gives its room back. */
#define DEFINE_ATTEND(NAME, TYPE, PAIRS)                                                          \
    static void NAME(const struct attention_arguments *a, const int32_t *slots, int64_t count,    \
                     int64_t token, int64_t head, int64_t past_head, float *state) {              \
        attend_range(a, slots, count, token, head, past_head, state, TYPE, PAIRS);                \
    }
DEFINE_ATTEND(attend_f32, F32, 0)
DEFINE_ATTEND(attend_bf16, BF16, PAIRED(BF16))
DEFINE_ATTEND(attend_f16, F16, 0)
DEFINE_ATTEND(attend_i8, I8, 0)
#if defined(HAS_BF16)
DEFINE_ATTEND(attend_i8_paired, I8, 1)
#else
#define attend_i8_paired attend_i8
#endif

static void attend_decode(const struct attention_arguments *a, const struct attention_task *task,
                          int64_t head, int64_t past_head, float *state) {
    int64_t token = a->q_starts[task->chunk], count = task->past - task->first;
    const int32_t *slots = a->table + a->rows[task->chunk] * a->table_stride + task->first;
    if (a->kv_dtype == BF16)
        attend_bf16(a, slots, count, token, head, past_head, state);
    else if (a->kv_dtype == F16)
        attend_f16(a, slots, count, token, head, past_head, state);
    else if (a->kv_dtype == F32)
        attend_f32(a, slots, count, token, head, past_head, state);
    else
        (PAIRED(a->dtype) ? attend_i8_paired : attend_i8)(a, slots, count, token, head, past_head,
                                                          state);
}

/* What the workspace begins with; then come the tasks (of prompts, then of decodes), how many have
 * been finished for each decode and part of its heads, and what the tasks of sequences that have
 * several found. */
struct attention_plan {
    int64_t decode_tasks, prefill_tasks, partials, parts;
    int64_t tasks_at, finished_at, partials_at, bytes;
};

INLINE struct attention_task *tasks_of(const struct attention_arguments *a) {
    const struct attention_plan *plan = (const struct attention_plan *)a->workspace;
    return (struct attention_task *)(a->workspace + plan->tasks_at);
}

static void run_decode(const struct attention_arguments *a, int64_t number, int64_t part) {
    const struct attention_plan *plan = (const struct attention_plan *)a->workspace;
    struct decode_layout layout = decode_layout_of(a);
    const struct attention_task *task = tasks_of(a) + plan->prefill_tasks + number;
    int64_t head = a->kv_heads * part / plan->parts;
    int64_t past_head = a->kv_heads * (part + 1) / plan->parts;
    int64_t queries = (past_head - head) * layout.group, first = head * layout.group;
    int64_t token = a->q_starts[task->chunk], between = a->heads * layout.stride;
    if (task->partial < 0) {
        float *state = ROOM(4 * queries * layout.stride);
        attend_decode(a, task, head, past_head, state);
        for (int64_t g = 0; g < queries; g++)
            finish_query(a, token, first + g, state + g * layout.stride);
        return;
    }
    float *partials = (float *)(a->workspace + plan->partials_at) + first * layout.stride;
    attend_decode(a, task, head, past_head, partials + task->partial * between);
    _Atomic int32_t *finished = (_Atomic int32_t *)(a->workspace + plan->finished_at) +
                                (int64_t)task->chunk * a->kv_heads + part;
    int32_t splits = (int32_t)divide_up(a->kv_lengths[task->chunk], SPLIT);
    if (atomic_fetch_add_explicit(finished, 1, memory_order_acq_rel) < splits - 1) return;
    atomic_store_explicit(finished, 0, memory_order_relaxed); /* for the next layer */
    int64_t start = task->partial - task->first / SPLIT;
    for (int64_t g = 0; g < queries; g++) {
        float *state = partials + start * between + g * layout.stride;
        merge_splits(state, splits, between, layout);
        finish_query(a, token, first + g, state);
    }
}
