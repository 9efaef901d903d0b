/* Products by the instruction that adds up four products of bytes in each lane.
 *
 * A lane is an output. The upper and the lower digits of activations have sums of their own. */
#pragma once

#include "product_parts.h"

/* Vectors that hold a strip's outputs. */
enum { HALVES = 2 };

/* As many tokens at once as registers hold sums of, by the digits of an activation. */
enum { MOST_OF_ONE_DIGIT = 12, MOST_OF_TWO = 6 };
/* Each digit is multiplied by itself. */
#define DIGITS_OF(a) ((a)->digits)
/* How far ahead of use weights are fetched, in bytes. */
enum { AHEAD = 4096 };

struct vnni_sums {
    __m512i digit[2][HALVES]; /* of the lower digit, then of the upper */
};

/* Not the intrinsic: compilers keep moving the sums from register to register around it. */
INLINE void add_bytes(__m512i *sum, __m512i weights, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(x));
}

INLINE void add_unit(const char *codes, const __m512i *weights, const int digits,
                     struct vnni_sums *sums) {
#pragma GCC unroll 2
    for (int digit = 0; digit < digits; digit++) {
        int32_t quad; /* upper digits lie before lower ones */
        memcpy(&quad, codes + (digits - 1 - digit) * QUAD, sizeof quad);
        __m512i x = _mm512_set1_epi32(quad);
#pragma GCC unroll 2
        for (int i = 0; i < HALVES; i++)
            add_bytes(&sums->digit[digit][i], weights[i], x);
    }
}

/* Tokens `token` to `token + tokens - 1`; what is const is a constant wherever this is used. */
INLINE void multiply_tokens(const struct product_arguments *a, int64_t strip, int64_t token,
                            finish_function finish, const int tokens, const int64_t bits,
                            const int digits) {
    int64_t padded = padded_inputs(a->inputs), blocks = blocks_of(a), stride = bytes_per_token(a);
    const uint8_t *from = strip_of(a, strip);
    vf totals[MOST_OF_ONE_DIGIT][HALVES];
    const char *codes = codes_of(a, token);
    const char *factors = (const char *)factors_of(a, token);
    const char *offsets = (const char *)offsets_of(a, token);
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i table = _mm512_xor_si512(
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)levels)), _mm512_set1_epi8(-128));
    for (int t = 0; t < tokens; t++) totals[t][0] = totals[t][1] = splat(0);
    for (int64_t block = 0; block < blocks; block++) {
        struct vnni_sums sums[MOST_OF_ONE_DIGIT];
        int64_t first = block * (bits == 4 ? GROUP : BLOCK);
        int64_t units = (padded - first < BLOCK ? padded - first : BLOCK) / QUAD;
        if (bits == 4) units = GROUP / QUAD;
#pragma GCC unroll 12
        for (int t = 0; t < tokens; t++)
            for (int i = 0; i < HALVES; i++) {
                int32_t offset;
                memcpy(&offset, offsets + t * stride + 4 * block, sizeof offset);
                sums[t].digit[0][i] = _mm512_set1_epi32(offset);
                sums[t].digit[1][i] = _mm512_setzero_si512();
            }
        if (bits == 4) {
            const uint8_t *scale = (const uint8_t *)a->scales + (strip * blocks + block) * 2 * STRIP;
            _mm_prefetch((const char *)scale + AHEAD / GROUP * 4, _MM_HINT_T1);
#pragma GCC unroll 4
            for (int64_t unit = 0; unit < GROUP / QUAD; unit += 2) {
                __m512i even[HALVES], odd[HALVES];
#pragma GCC unroll 2
                for (int i = 0; i < HALVES; i++) {
                    __m512i both = _mm512_loadu_si512(from + i * UNIT / 2);
                    _mm_prefetch((const char *)from + i * UNIT / 2 + AHEAD, _MM_HINT_T1);
                    even[i] = _mm512_shuffle_epi8(table, _mm512_and_si512(both, low));
                    odd[i] = _mm512_shuffle_epi8(
                        table, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
                }
                from += UNIT;
#pragma GCC unroll 12
                for (int t = 0; t < tokens; t++) {
                    const char *x = codes + t * stride + unit * QUAD * digits;
                    add_unit(x, even, digits, &sums[t]);
                    add_unit(x + QUAD * digits, odd, digits, &sums[t]);
                }
            }
        } else {
            for (int64_t unit = 0; unit < units; unit++) {
                __m512i weights[HALVES];
#pragma GCC unroll 2
                for (int i = 0; i < HALVES; i++) {
                    weights[i] = _mm512_loadu_si512(from + i * UNIT / 2);
                    /* Read once: the compiler would read it again for each digit. */
                    __asm__("" : "+v"(weights[i]));
                    _mm_prefetch((const char *)from + i * UNIT / 2 + AHEAD, _MM_HINT_T1);
                }
                from += UNIT;
#pragma GCC unroll 12
                for (int t = 0; t < tokens; t++)
                    add_unit(codes + t * stride + unit * QUAD * digits, weights, digits, &sums[t]);
            }
        }
        codes += units * QUAD * digits;
#pragma GCC unroll 12
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 2
            for (int i = 0; i < HALVES; i++) {
                __m512i whole = sums[t].digit[0][i];
                if (digits == 2)
                    whole = _mm512_add_epi32(whole, _mm512_slli_epi32(sums[t].digit[1][i], 8));
                float factor;
                memcpy(&factor, factors + t * stride + 4 * block, sizeof factor);
                vf scale = splat(factor);
                if (bits == 4) scale *= scales_of(a, strip, block, i * W, 4);
                totals[t][i] += (vf)_mm512_cvtepi32_ps(whole) * scale;
            }
    }
    for (int t = 0; t < tokens; t++) {
        float sums[STRIP];
        for (int i = 0; i < HALVES; i++) store(sums, i * W, totals[t][i], F32);
        finish(a, token + t, strip, sums);
    }
}

INLINE void multiply_some(const struct product_arguments *a, int64_t strip, int64_t token,
                          int64_t tokens, finish_function finish, const int64_t bits,
                          const int digits) {
#define TOKENS(count)                                                                             \
    case count:                                                                                   \
        multiply_tokens(a, strip, token, finish, count, bits, digits);                            \
        return;
    switch (tokens) {
        TOKENS(1) TOKENS(2) TOKENS(3) TOKENS(4) TOKENS(5) TOKENS(6)
    }
    if (digits == 2) return;
    switch (tokens) {
        TOKENS(7) TOKENS(8) TOKENS(9) TOKENS(10) TOKENS(11) TOKENS(12)
    }
#undef TOKENS
}

INLINE void multiply_typed(const struct product_arguments *a, int64_t strip,
                           finish_function finish, const int64_t bits, const int digits) {
    const int64_t most = digits == 2 ? MOST_OF_TWO : MOST_OF_ONE_DIGIT;
    for (int64_t token = 0; token < a->tokens;) {
        int64_t tokens = evenly(a->tokens - token, most);
        multiply_some(a, strip, token, tokens, finish, bits, digits);
        token += tokens;
    }
}
