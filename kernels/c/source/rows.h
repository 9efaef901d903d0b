/* What is computed for every token by itself: norms, rotation, gating, cache writes.
 *
 * Everything is computed in float and rounded once, but for a sum of residuals, which is rounded
 * before it is normed: the norm sees what the next layer will see. */
#include "vectors.h"

struct rms_norm_arguments {
    int64_t dtype, threads;
    const char *weight;
    char *x, *residual, *out; /* residual: NULL for none, else becomes the sum */
    int64_t tokens, hidden;
    double eps;
};

INLINE void rms_norm_typed(const struct rms_norm_arguments *a, int64_t row, enum dtype type) {
    int64_t hidden = a->hidden, skip = row * hidden * bytes_of(type);
    const char *x = a->x + skip;
    char *out = a->out + skip;
    vf squares = {0};
    if (a->residual != NULL) {
        char *sum = a->residual + skip;
        for (int64_t i = 0; i < hidden; i += W) {
            vf added = load_within(x, i, hidden, type) + load_within(sum, i, hidden, type);
            store_within(sum, i, hidden, added, type);
            added = load_within(sum, i, hidden, type);
            squares += added * added;
        }
        x = sum;
    } else {
        for (int64_t i = 0; i < hidden; i += W) {
            vf own = load_within(x, i, hidden, type);
            squares += own * own;
        }
    }
    float scale = 1.0f / __builtin_sqrtf(sum_of(squares) / (float)hidden + (float)a->eps);
    for (int64_t i = 0; i < hidden; i += W) {
        vf normed = load_within(x, i, hidden, type) * scale;
        store_within(out, i, hidden, normed * load_within(a->weight, i, hidden, type), type);
    }
}

static void rms_norm_row(const void *arguments, int64_t row) {
    const struct rms_norm_arguments *a = arguments;
    BY_TYPE(rms_norm_typed, a->dtype, a, row);
}

TAKES(rms_norm, struct rms_norm_arguments);
EXPORTED int64_t AT_LEVEL(rms_norm)(const struct rms_norm_arguments *a) {
    run_rows(rms_norm_row, a, a->tokens, a->hidden, a->threads);
    return 0;
}

/* Heads of a [tokens, heads, head_dim] tensor; strides in elements, dimensions lie together. */
struct heads {
    char *data;
    int64_t tokens, heads, head_dim, token_stride, head_stride;
};

INLINE char *head_of(const struct heads *h, int64_t token, int64_t head, enum dtype type) {
    return h->data + (token * h->token_stride + head * h->head_stride) * bytes_of(type);
}

struct norm_heads_arguments {
    int64_t dtype, threads;
    struct heads x;
    const char *weight; /* [heads, head_dim] */
    double eps;
};

INLINE void norm_heads_typed(const struct norm_heads_arguments *a, int64_t token,
                             enum dtype type) {
    int64_t head_dim = a->x.head_dim;
    for (int64_t head = 0; head < a->x.heads; head++) {
        char *x = head_of(&a->x, token, head, type);
        const char *weight = a->weight + head * head_dim * bytes_of(type);
        vf squares = {0};
        for (int64_t i = 0; i < head_dim; i += W) {
            vf own = load_within(x, i, head_dim, type);
            squares += own * own;
        }
        float scale = 1.0f / __builtin_sqrtf(sum_of(squares) / (float)head_dim + (float)a->eps);
        for (int64_t i = 0; i < head_dim; i += W) {
            vf normed = load_within(x, i, head_dim, type) * scale;
            store_within(x, i, head_dim, normed * load_within(weight, i, head_dim, type), type);
        }
    }
}

static void norm_heads_row(const void *arguments, int64_t token) {
    const struct norm_heads_arguments *a = arguments;
    BY_TYPE(norm_heads_typed, a->dtype, a, token);
}

TAKES(norm_heads, struct norm_heads_arguments);
EXPORTED int64_t AT_LEVEL(norm_heads)(const struct norm_heads_arguments *a) {
    run_rows(norm_heads_row, a, a->x.tokens, a->x.heads * a->x.head_dim, a->threads);
    return 0;
}

struct rope_arguments {
    int64_t dtype, threads;
    struct heads x;
    const float *angles; /* [tokens, head_dim], cosines then sines */
};

INLINE void rope_typed(const struct rope_arguments *a, int64_t token, enum dtype type) {
    int64_t half = a->x.head_dim / 2;
    const float *cosines = a->angles + token * 2 * half, *sines = cosines + half;
    for (int64_t head = 0; head < a->x.heads; head++) {
        char *first = head_of(&a->x, token, head, type), *second = first + half * bytes_of(type);
        for (int64_t i = 0; i < half; i += W) {
            vf x = load_within(first, i, half, type), y = load_within(second, i, half, type);
            vf cosine = load_within(cosines, i, half, F32), sine = load_within(sines, i, half, F32);
            store_within(first, i, half, x * cosine - y * sine, type);
            store_within(second, i, half, y * cosine + x * sine, type);
        }
    }
}

static void rope_row(const void *arguments, int64_t token) {
    const struct rope_arguments *a = arguments;
    BY_TYPE(rope_typed, a->dtype, a, token);
}

TAKES(rope, struct rope_arguments);
EXPORTED int64_t AT_LEVEL(rope)(const struct rope_arguments *a) {
    run_rows(rope_row, a, a->x.tokens, a->x.heads * a->x.head_dim, a->threads);
    return 0;
}

struct silu_mul_arguments {
    int64_t dtype, threads;
    const char *gate_up; /* [tokens, 2 * intermediate], gate before up */
    char *out;
    int64_t tokens, intermediate;
};

INLINE void silu_mul_typed(const struct silu_mul_arguments *a, int64_t row, enum dtype type) {
    int64_t length = a->intermediate;
    const char *gate = a->gate_up + 2 * row * length * bytes_of(type);
    const char *up = gate + length * bytes_of(type);
    char *out = a->out + row * length * bytes_of(type);
    for (int64_t i = 0; i < length; i += W) {
        vf x = load_within(gate, i, length, type), y = load_within(up, i, length, type);
        store_within(out, i, length, gated_of(x, y), type);
    }
}

static void silu_mul_row(const void *arguments, int64_t row) {
    const struct silu_mul_arguments *a = arguments;
    BY_TYPE(silu_mul_typed, a->dtype, a, row);
}

TAKES(silu_mul, struct silu_mul_arguments);
EXPORTED int64_t AT_LEVEL(silu_mul)(const struct silu_mul_arguments *a) {
    run_rows(silu_mul_row, a, a->tokens, 2 * a->intermediate, a->threads);
    return 0;
}

struct store_kv_arguments {
    int64_t dtype, threads;
    struct heads k, v;
    const int64_t *slots; /* [tokens] */
    char *k_cache, *v_cache; /* rows of [slots, kv_heads, head_dim], int8 where there are scales */
    int64_t slots_there, slot_stride, head_stride; /* in elements */
    char *k_scales, *v_scales; /* [slots, kv_heads] half precision, NULL for none */
    int64_t scale_slot_stride, scale_head_stride;
};

INLINE float magnitude_of(const char *row, int64_t length, enum dtype type) {
    vf largest = {0};
    for (int64_t i = 0; i < length; i += W) {
        vf x = load_within(row, i, length, type);
        largest = larger(choose(x < 0, -x, x), largest);
    }
    return largest_of(largest);
}

/* Rounds a row by a scale of its own, a 127th of its greatest value; a scale that half precision
 * cannot tell from zero leaves zeros. */
INLINE void quantise_row(const char *row, int64_t length, char *out, char *scale,
                         enum dtype type) {
    vf scales = splat(magnitude_of(row, length, type) * (1.0f / 127));
    store_some(scale, 0, 1, scales, F16);
    float rounded = load_some(scale, 0, 1, F16)[0];
    float factor = rounded > 0 ? 1.0f / rounded : 0.0f;
    for (int64_t i = 0; i < length; i += W) {
        vf x = load_within(row, i, length, type) * factor + 0.5f;
        vf whole = __builtin_convertvector(__builtin_convertvector(x, vi), vf);
        whole -= choose(whole > x, splat(1), splat(0)); /* floor */
        whole = choose(whole > 127, splat(127), whole); /* half precision rounded the scale down */
        vb bytes = __builtin_convertvector(larger(whole, splat(-127)), vb);
        memcpy(out + i, &bytes, (size_t)(length - i < W ? length - i : W));
    }
}

INLINE void store_kv_typed(const struct store_kv_arguments *a, int64_t token, enum dtype type) {
    int64_t slot = a->slots[token], length = a->k.head_dim;
    for (int64_t head = 0; head < a->k.heads; head++) {
        const char *k = head_of(&a->k, token, head, type), *v = head_of(&a->v, token, head, type);
        int64_t to = slot * a->slot_stride + head * a->head_stride;
        if (a->k_scales == NULL) {
            memcpy(a->k_cache + to * bytes_of(type), k, (size_t)(length * bytes_of(type)));
            memcpy(a->v_cache + to * bytes_of(type), v, (size_t)(length * bytes_of(type)));
        } else {
            int64_t scale = 2 * (slot * a->scale_slot_stride + head * a->scale_head_stride);
            quantise_row(k, length, a->k_cache + to, a->k_scales + scale, type);
            quantise_row(v, length, a->v_cache + to, a->v_scales + scale, type);
        }
    }
}

static void store_kv_row(const void *arguments, int64_t token) {
    const struct store_kv_arguments *a = arguments;
    BY_TYPE(store_kv_typed, a->dtype, a, token);
}

TAKES(store_kv, struct store_kv_arguments);
/* Returns 0, or -1 and writes nothing where a slot is not in the cache. */
EXPORTED int64_t AT_LEVEL(store_kv)(const struct store_kv_arguments *a) {
    for (int64_t token = 0; token < a->k.tokens; token++)
        if (a->slots[token] < 0 || a->slots[token] >= a->slots_there) return -1;
    run_rows(store_kv_row, a, a->k.tokens, 2 * a->k.heads * a->k.head_dim, a->threads);
    return 0;
}

struct take_rows_arguments {
    int64_t threads;
    const char *table;
    int64_t table_rows, stride; /* the stride in bytes */
    const int64_t *numbers;     /* [rows] */
    char *out;                  /* [rows, row_bytes] */
    int64_t rows, row_bytes;
};

static void take_row(const void *arguments, int64_t row) {
    const struct take_rows_arguments *a = arguments;
    memcpy(a->out + row * a->row_bytes, a->table + a->numbers[row] * a->stride,
           (size_t)a->row_bytes);
}

TAKES(take_rows, struct take_rows_arguments);
/* Returns 0, or -1 and writes nothing where the table has no such row. */
EXPORTED int64_t AT_LEVEL(take_rows)(const struct take_rows_arguments *a) {
    for (int64_t row = 0; row < a->rows; row++)
        if (a->numbers[row] < 0 || a->numbers[row] >= a->table_rows) return -1;
    run_rows(take_row, a, a->rows, a->row_bytes, a->threads);
    return 0;
}

struct argmax_arguments {
    int64_t dtype, threads;
    const char *x; /* [rows, length] */
    int64_t rows, length;
    int64_t *out; /* [rows] */
};

INLINE void argmax_typed(const struct argmax_arguments *a, int64_t row, enum dtype type) {
    const char *x = a->x + row * a->length * bytes_of(type);
    vf best = splat(-__builtin_inff());
    int64_t i = 0;
    for (; i + W <= a->length; i += W) best = larger(load(x, i, type), best);
    float largest = largest_of(best);
    for (; i < a->length; i++) {
        float own = load_some(x, i, 1, type)[0];
        if (own > largest) largest = own;
    }
    a->out[row] = 0;
    if (largest == -__builtin_inff()) return;
    for (i = 0; i + W <= a->length; i += W) {
        vi equal = load(x, i, type) == largest;
        int32_t lanes[W];
        memcpy(lanes, &equal, sizeof lanes);
        int32_t any = 0;
        for (int lane = 0; lane < W; lane++) any |= lanes[lane];
        if (any) break;
    }
    while (load_some(x, i, 1, type)[0] != largest) i++;
    a->out[row] = i;
}

static void argmax_row(const void *arguments, int64_t row) {
    const struct argmax_arguments *a = arguments;
    BY_TYPE(argmax_typed, a->dtype, a, row);
}

TAKES(argmax, struct argmax_arguments);
/* The place of each row's largest number, the first among equals; what is not a number is less than
 * any, and a row of no greater ones has place 0. */
EXPORTED int64_t AT_LEVEL(argmax)(const struct argmax_arguments *a) {
    run_rows(argmax_row, a, a->rows, a->length, a->threads);
    return 0;
}
