/* Products by the instruction that adds up two products of 16-bit numbers in each lane, for
 * processors that cannot multiply bytes without losing the highest bits of a sum.
 *
 * A lane is half of an output's quads. Sixteen outputs of a strip are computed at a time: PARTS
 * vectors make their sums. */
#pragma once

#include "product_parts.h"

typedef uint8_t vub __attribute__((vector_size(2 * W)));
typedef int16_t vs __attribute__((vector_size(4 * W)));

/* As many tokens at once as registers hold sums of, and as many as have totals at once. */
enum { OUTPUTS = 16, PARTS = OUTPUTS * QUAD / (2 * W), TOKENS_AT_ONCE = W / 4, TOTALS_AT_ONCE = 32 };

INLINE vi multiply_pairs(vs x, vs y) {
#if defined(HAS_AVX512)
    return (vi)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(HAS_AVX2)
    return (vi)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#else
    int16_t left[2 * W], right[2 * W];
    int32_t sums[W];
    vi out;
    memcpy(left, &x, sizeof left);
    memcpy(right, &y, sizeof right);
    for (int i = 0; i < W; i++)
        sums[i] = left[2 * i] * right[2 * i] + left[2 * i + 1] * right[2 * i + 1];
    memcpy(&out, sums, sizeof out);
    return out;
#endif
}

/* One group of 4 bits as units of 8, of the sixteen outputs at whose place `packed` begins. */
INLINE void unpack_group(const uint8_t *packed, uint8_t *units) {
    for (int64_t unit = 0; unit < GROUP / QUAD; unit += 2, packed += UNIT)
        for (int i = 0; i < OUTPUTS * QUAD; i++) {
            units[unit * UNIT + i] = (uint8_t)(levels[packed[i] & 15] + OFFSET);
            units[(unit + 1) * UNIT + i] = (uint8_t)(levels[packed[i] >> 4] + OFFSET);
        }
}

/* Sums of 16 outputs over some units, of `tokens` tokens whose codes lie `stride` bytes apart. */
INLINE void sum_units(const uint8_t *weights, int64_t units, const char *codes, int64_t stride,
                      const int tokens, int32_t (*sums)[OUTPUTS]) {
    vi parts[TOKENS_AT_ONCE][PARTS];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) parts[t][part] = (vi){0};
    for (int64_t unit = 0; unit < units; unit++) {
        vs wide[PARTS];
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) {
            vub bytes;
            memcpy(&bytes, weights + unit * UNIT + part * 2 * W, sizeof bytes);
            wide[part] = __builtin_convertvector(bytes, vs);
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            int64_t quad;
            memcpy(&quad, codes + t * stride + unit * 2 * QUAD, sizeof quad);
            typedef int64_t quads __attribute__((vector_size(4 * W)));
            vs x = (vs)(quad - (quads){0});
#pragma GCC unroll 8
            for (int part = 0; part < PARTS; part++)
                parts[t][part] += multiply_pairs(wide[part], x);
        }
    }
    for (int t = 0; t < tokens; t++) {
        int32_t halves[2 * OUTPUTS];
        memcpy(halves, parts[t], sizeof halves);
        for (int i = 0; i < OUTPUTS; i++) sums[t][i] = halves[2 * i] + halves[2 * i + 1];
    }
}

INLINE void add_block(const struct product_arguments *a, int64_t output, int64_t token,
                      int64_t block, const int tokens, const uint8_t *weights, int64_t units,
                      float (*totals)[STRIP]) {
    int32_t sums[TOKENS_AT_ONCE][OUTPUTS];
    const char *codes = codes_of(a, token) + block * block_size(a) * 2;
    sum_units(weights, units, codes, bytes_per_token(a), tokens, sums);
    for (int t = 0; t < tokens; t++) {
        float factor = factors_of(a, token + t)[block];
        int32_t offset = offsets_of(a, token + t)[block];
        for (int64_t i = 0; i < OUTPUTS; i += W) {
            int64_t lane = output % STRIP + i;
            vi whole;
            memcpy(&whole, sums[t] + i, sizeof whole);
            vf scale = splat(factor), total = load(totals[t], lane, F32);
            if (a->bits == 4) scale *= scales_of(a, output / STRIP, block, lane, 4);
            total += __builtin_convertvector(whole + offset, vf) * scale;
            store(totals[t], lane, total, F32);
        }
    }
}

/* A strip's outputs of up to TOTALS_AT_ONCE tokens. */
INLINE void multiply_some(const struct product_arguments *a, int64_t strip, int64_t token,
                          int64_t tokens, finish_function finish, const int64_t bits) {
    int64_t padded = padded_inputs(a->inputs), size = bits == 4 ? GROUP : BLOCK;
    float totals[TOTALS_AT_ONCE][STRIP];
    memset(totals, 0, sizeof totals);
    for (int64_t half = 0; half < STRIP; half += OUTPUTS)
        for (int64_t block = 0; block * size < padded; block++) {
            uint8_t unpacked[GROUP / QUAD * UNIT];
            int64_t left = padded - block * size, inputs = left < size ? left : size;
            const uint8_t *units = strip_of(a, strip) + block * size * STRIP * bits / 8;
            units += half * QUAD;
            if (bits == 4) {
                unpack_group(units, unpacked);
                units = unpacked;
            }
            int64_t t = 0, output = strip * STRIP + half;
            for (; t + TOKENS_AT_ONCE <= tokens; t += TOKENS_AT_ONCE)
                add_block(a, output, token + t, block, TOKENS_AT_ONCE, units, inputs / QUAD,
                          totals + t);
            for (; t < tokens; t++)
                add_block(a, output, token + t, block, 1, units, inputs / QUAD, totals + t);
        }
    for (int64_t t = 0; t < tokens; t++) finish(a, token + t, strip, totals[t]);
}

INLINE void multiply_typed(const struct product_arguments *a, int64_t strip,
                           finish_function finish, const int64_t bits, const int digits) {
    (void)digits;
    for (int64_t token = 0; token < a->tokens; token += TOTALS_AT_ONCE) {
        int64_t left = a->tokens - token, tokens = left < TOTALS_AT_ONCE ? left : TOTALS_AT_ONCE;
        multiply_some(a, strip, token, tokens, finish, bits);
    }
}
