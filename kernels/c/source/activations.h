/* How rows of activations become whole numbers, see quantise.h. */
#pragma once

#include "quantise.h"

struct product_arguments {
    int64_t dtype, threads;
    const char *x;
    int64_t tokens, token_stride; /* the stride in elements */
    int64_t inputs, outputs, bits;
    const uint8_t *packed;
    const char *scales; /* as pack_weights made them */
    const float *bias;  /* [outputs], or NULL for none */
    int64_t digits;     /* signed bytes that an activation becomes, 1 or 2 */
    char *out;          /* [tokens, outputs] */
    char *workspace;
};

INLINE int64_t block_size(const struct product_arguments *a) { return a->bits == 4 ? GROUP : BLOCK; }

INLINE int64_t blocks_of(const struct product_arguments *a) {
    return (padded_inputs(a->inputs) + block_size(a) - 1) / block_size(a);
}

/* A token's numbers: eight bytes for each four inputs, be they digits or int16; then a scale for
 * each block, and what the levels' offset adds to every output's sum over the block. */
INLINE int64_t bytes_per_token(const struct product_arguments *a) {
    int64_t bytes = 2 * padded_inputs(a->inputs) + 8 * blocks_of(a);
    return (bytes + 63) / 64 * 64;
}

INLINE char *codes_of(const struct product_arguments *a, int64_t token) {
    return a->workspace + token * bytes_per_token(a);
}

INLINE float *factors_of(const struct product_arguments *a, int64_t token) {
    return (float *)(codes_of(a, token) + 2 * padded_inputs(a->inputs));
}

INLINE int32_t *offsets_of(const struct product_arguments *a, int64_t token) {
    return (int32_t *)(factors_of(a, token) + blocks_of(a));
}

/* How far apart the codes of two neighbouring quads are. */
INLINE int64_t quad_bytes(int64_t digits) {
#if defined(HAS_VNNI)
    return QUAD * digits;
#else
    (void)digits;
    return 2 * QUAD;
#endif
}

INLINE void store_codes(char *to, vi codes, int64_t digits) {
#if defined(HAS_VNNI)
    int8_t lower[W], upper[W];
    vi high = (codes + 128) >> 8;
    store_bytes(lower, digits == 2 ? codes - (high << 8) : codes);
    if (digits == 2) store_bytes(upper, high);
    for (int64_t i = 0; i < W; i += QUAD) {
        if (digits == 2) memcpy(to, upper + i, QUAD), to += QUAD;
        memcpy(to, lower + i, QUAD), to += QUAD;
    }
#else
    (void)digits;
    vh halves = __builtin_convertvector(codes, vh);
    memcpy(to, &halves, sizeof halves);
#endif
}

INLINE void quantise_block(const struct product_arguments *a, int64_t token, int64_t block,
                           const int64_t digits, enum dtype type) {
    int64_t first = block * block_size(a), past = first + block_size(a);
    if (past > padded_inputs(a->inputs)) past = padded_inputs(a->inputs);
    const char *x = a->x + token * a->token_stride * bytes_of(type);
    int64_t there = past < a->inputs ? past : a->inputs;
    float limit = digits == 2 ? GREATEST_OF_TWO_DIGITS : GREATEST;
    float magnitude = greatest_of(x, first, there, type);
    float poison = poison_of(x, first, there, type);
    /* What is infinite or not a number makes the whole block no number. */
    factors_of(a, token)[block] = magnitude / limit + poison;
    float factor = magnitude > LEAST ? limit / magnitude : 0;
    vi sum = {0};
    for (int64_t i = first; i < past; i += W) {
        vf own = i < there ? load_within(x, i, there, type) : (vf){0};
        vi codes = poison == 0 ? round_to_int(own * factor) : (vi){0};
        sum += codes;
        store_codes(codes_of(a, token) + i / QUAD * quad_bytes(digits), codes, digits);
    }
    int32_t lanes[W], total = 0;
    memcpy(lanes, &sum, sizeof lanes);
    for (int i = 0; i < W; i++) total += lanes[i];
    offsets_of(a, token)[block] = -OFFSET * total;
}

INLINE void quantise_typed(const struct product_arguments *a, int64_t token, enum dtype type) {
    for (int64_t block = 0; block < blocks_of(a); block++) {
        if (a->digits == 2)
            quantise_block(a, token, block, 2, type);
        else
            quantise_block(a, token, block, 1, type);
    }
}

static void quantise_token(const void *arguments, int64_t token) {
    const struct product_arguments *a = arguments;
    BY_TYPE(quantise_typed, a->dtype, a, token);
}
