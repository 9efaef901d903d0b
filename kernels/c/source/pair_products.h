/* Products by the instruction that adds up two products of 16-bit numbers in each lane, for
 * processors that cannot multiply bytes without losing the highest bits of a sum.
 *
 * Few tokens wait for weights, which are widened as they come: a lane is half of an output's quads,
 * so a vector has W / 2 outputs, and two make sums of W. Fewer tokens have more outputs at once: as
 * many as registers hold sums of. For many tokens a block of weights is spread first, so that each
 * lane has an output. */
#pragma once

#include "product_parts.h"

typedef uint8_t vub __attribute__((vector_size(2 * W)));
typedef int16_t vs __attribute__((vector_size(4 * W)));

/* As many tokens at once as registers hold two vectors of sums of, and as they hold four of beside
 * as many of weights. */
#if defined(HAS_AVX512)
enum { TOKENS_AT_ONCE = 12, TOKENS_OF_FOUR = 6 };
#else
enum { TOKENS_AT_ONCE = 6, TOKENS_OF_FOUR = 2 };
#endif
enum { MOST_PARTS = 4 };
/* From so many tokens on weights are spread; those of 4 bits are unpacked anyway. */
enum { MANY_OF_4_BITS = 2 * TOKENS_AT_ONCE, MANY_OF_8_BITS = 8 * TOKENS_AT_ONCE };
/* As many tokens as have totals at once. */
enum { TOTALS_AT_ONCE = 96 };
/* One digit is multiplied as two are. */
#define DIGITS_OF(a) 2
/* How far ahead of use weights are fetched, in bytes. */
enum { AHEAD = 2048 };

/* Sums of neighbouring lanes: those of `first`, then those of `second`. */
INLINE vi sum_neighbours(vi first, vi second) {
#if defined(HAS_AVX2)
    /* Of both vectors' lower halves, then of their upper ones. */
    __m256i sums = _mm256_hadd_epi32((__m256i)first, (__m256i)second);
    return (vi)_mm256_permute4x64_epi64(sums, 0xd8);
#elif W == 16
    return SHUFFLE(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           SHUFFLE(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    return SHUFFLE(first, second, 0, 2, 4, 6) + SHUFFLE(first, second, 1, 3, 5, 7);
#endif
}

INLINE vs widen_bytes(const uint8_t *bytes) {
#if defined(HAS_AVX512)
    return (vs)_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
#elif defined(HAS_AVX2)
    return (vs)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes));
#else
    vub own;
    memcpy(&own, bytes, sizeof own);
    return __builtin_convertvector(own, vs);
#endif
}

INLINE vs broadcast_pair(const char *codes) {
    int32_t pair;
    memcpy(&pair, codes, sizeof pair);
    return (vs)(pair - (vi){0});
}

INLINE vs broadcast_quad(const char *codes) {
    typedef int64_t quads __attribute__((vector_size(4 * W)));
    int64_t quad;
    memcpy(&quad, codes, sizeof quad);
    return (vs)(quad - (quads){0});
}

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

/* Not left to the compiler, which keeps moving the sums from register to register. */
INLINE void add_product_of_pairs(vi *sum, vs x, vs y) {
    vi product = multiply_pairs(x, y);
#if defined(HAS_AVX512)
    __asm__("vpaddd %1, %0, %0" : "+v"(*sum) : "v"(product));
#elif defined(HAS_AVX2)
    __asm__("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(product));
#else
    *sum += product;
#endif
}

enum { UNPACKED_AT_ONCE = 32 };

/* Bytes of 4 bits as bytes of units of 8: their low and their high halves. */
INLINE void unpack_some(const uint8_t *packed, uint8_t *low, uint8_t *high) {
#if defined(HAS_AVX2) || defined(HAS_AVX512)
    __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)levels));
    table = _mm256_xor_si256(table, _mm256_set1_epi8(-OFFSET));
    __m256i both = _mm256_loadu_si256((const __m256i *)packed), mask = _mm256_set1_epi8(15);
    __m256i upper = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
    __m256i lower = _mm256_shuffle_epi8(table, _mm256_and_si256(both, mask));
    _mm256_storeu_si256((__m256i *)low, lower);
    _mm256_storeu_si256((__m256i *)high, _mm256_shuffle_epi8(table, upper));
#else
    for (int i = 0; i < UNPACKED_AT_ONCE; i++) {
        low[i] = (uint8_t)(levels[packed[i] & 15] + OFFSET);
        high[i] = (uint8_t)(levels[packed[i] >> 4] + OFFSET);
    }
#endif
}

/* A strip's group of 4 bits as units of 8. */
INLINE void unpack_group(const uint8_t *packed, uint8_t *units) {
    for (int64_t unit = 0; unit < GROUP / QUAD; unit += 2, packed += UNIT)
        for (int64_t i = 0; i < UNIT; i += UNPACKED_AT_ONCE) {
            __builtin_prefetch(packed + i + AHEAD, 0, 3);
            unpack_some(packed + i, units + unit * UNIT + i, units + (unit + 1) * UNIT + i);
        }
}

/* Units of 8 bits as pairs of inputs of 16, without the offset: [2 * units, STRIP, 2]. */
INLINE void spread_units(const uint8_t *units, int64_t count, uint8_t *pairs) {
    for (int64_t unit = 0; unit < count; unit++, units += UNIT, pairs += 2 * UNIT)
        for (int64_t i = 0; i < UNIT; i += 4 * W) {
            vu quads;
            memcpy(&quads, units + i, sizeof quads);
            vu first = (quads & 0xff) | (quads & 0xff00) << 8;
            vu second = (quads >> 16 & 0xff) | (quads >> 8 & 0xff0000);
            first = (vu)((vs)first - OFFSET), second = (vu)((vs)second - OFFSET);
            memcpy(pairs + i, &first, sizeof first);
            memcpy(pairs + UNIT + i, &second, sizeof second);
        }
}

/* What a block of inputs takes part in. */
struct unit_block {
    const struct product_arguments *product;
    int64_t strip, block;
    const uint8_t *weights; /* units of 8 bits, or what they were spread to */
    int64_t units;
};

INLINE const char *block_codes(const struct unit_block *b, int64_t token) {
    return codes_of(b->product, token) + b->block * block_size(b->product) * 2;
}

/* Adds whole sums over a block to the totals of W outputs of one token. */
INLINE void add_sums(const struct unit_block *b, int64_t token, int64_t lane, vi whole,
                     float *totals, const int64_t bits) {
    const struct product_arguments *a = b->product;
    vf scale = splat(factors_of(a, token)[b->block]);
    if (bits == 4) scale *= scales_of(a, b->strip, b->block, lane, 4);
    vf total = load(totals, lane, F32) + __builtin_convertvector(whole, vf) * scale;
    store(totals, lane, total, F32);
}

/* Adds products of a block's spread weights with 2 * W outputs from `output` on. What is const is a
 * constant wherever this is used. */
INLINE void add_spread(const struct unit_block *b, int64_t output, int64_t token,
                       const int tokens, float (*totals)[STRIP], const int64_t bits) {
    const char *codes = block_codes(b, token);
    const int64_t stride = bytes_per_token(b->product);
    const uint8_t *weights = b->weights + output * QUAD;
    vi sums[TOKENS_AT_ONCE][2];
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++) sums[t][0] = sums[t][1] = (vi){0};
    for (int64_t pair = 0; pair < 2 * b->units; pair++, weights += UNIT) {
        vs first, second;
        memcpy(&first, weights, sizeof first);
        memcpy(&second, weights + sizeof first, sizeof second);
#pragma GCC unroll 12
        for (int t = 0; t < tokens; t++) {
            vs x = broadcast_pair(codes + t * stride + pair * QUAD);
            add_product_of_pairs(&sums[t][0], first, x);
            add_product_of_pairs(&sums[t][1], second, x);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++)
            add_sums(b, token + t, output + half * W, sums[t][half], totals[t], bits);
}

/* The same of weights that are widened here, with `parts` * W / 2 outputs. */
INLINE void add_outputs(const struct unit_block *b, int64_t output, int64_t token,
                        const int tokens, const int parts, float (*totals)[STRIP],
                        const int64_t bits) {
    const char *codes = block_codes(b, token);
    const int64_t stride = bytes_per_token(b->product);
    vi sums[TOKENS_AT_ONCE][MOST_PARTS];
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) sums[t][part] = (vi){0};
    const uint8_t *weights = b->weights + output * QUAD;
    for (int64_t unit = 0; unit < b->units; unit++, weights += UNIT) {
        vs wide[MOST_PARTS];
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) {
            wide[part] = widen_bytes(weights + part * 2 * W);
            if (bits == 8 && part * 2 * W % 64 == 0)
                __builtin_prefetch(weights + part * 2 * W + AHEAD, 0, 3);
        }
#pragma GCC unroll 12
        for (int t = 0; t < tokens; t++) {
            vs x = broadcast_quad(codes + t * stride + unit * 2 * QUAD);
#pragma GCC unroll 4
            for (int part = 0; part < parts; part++)
                add_product_of_pairs(&sums[t][part], wide[part], x);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int part = 0; part < parts; part += 2) {
            vi whole = sum_neighbours(sums[t][part], sums[t][part + 1]);
            whole += offsets_of(b->product, token + t)[b->block];
            add_sums(b, token + t, output + part * W / 2, whole, totals[t], bits);
        }
}

INLINE void add_tokens(const struct unit_block *b, int64_t token, const int tokens,
                       float (*totals)[STRIP], const int64_t bits, const int spread) {
    const int parts = tokens <= TOKENS_OF_FOUR ? 4 : 2;
    if (spread) {
        for (int64_t output = 0; output < STRIP; output += 2 * W)
            add_spread(b, output, token, tokens, totals, bits);
        return;
    }
    for (int64_t output = 0; output < STRIP; output += parts * W / 2)
        add_outputs(b, output, token, tokens, parts, totals, bits);
}

INLINE void add_block(const struct unit_block *b, int64_t token, int64_t tokens,
                      float (*totals)[STRIP], const int64_t bits, const int spread) {
#define TOKENS(count)                                                                             \
    case count:                                                                                   \
        add_tokens(b, token, count, totals, bits, spread);                                        \
        return;
    switch (tokens) {
        TOKENS(1) TOKENS(2) TOKENS(3) TOKENS(4) TOKENS(5) TOKENS(6)
#if defined(HAS_AVX512)
        TOKENS(7) TOKENS(8) TOKENS(9) TOKENS(10) TOKENS(11) TOKENS(12)
#endif
    }
#undef TOKENS
}

/* A strip's outputs of up to TOTALS_AT_ONCE tokens. */
INLINE void multiply_some(const struct product_arguments *a, int64_t strip, int64_t token,
                          int64_t tokens, finish_function finish, const int64_t bits,
                          const int spread) {
    int64_t padded = padded_inputs(a->inputs), size = bits == 4 ? GROUP : BLOCK;
    int64_t at_once = evenly(tokens, TOKENS_AT_ONCE);
    float totals[TOTALS_AT_ONCE][STRIP];
    memset(totals, 0, (size_t)tokens * sizeof *totals);
    for (int64_t block = 0; block * size < padded; block++) {
        uint8_t unpacked[GROUP / QUAD * UNIT], pairs[BLOCK / QUAD * 2 * UNIT];
        int64_t left = padded - block * size, inputs = left < size ? left : size;
        const uint8_t *units = strip_of(a, strip) + block * size * STRIP * bits / 8;
        if (bits == 4) {
            unpack_group(units, unpacked);
            units = unpacked;
        }
        if (spread) {
            spread_units(units, inputs / QUAD, pairs);
            units = pairs;
        }
        struct unit_block b = {a, strip, block, units, inputs / QUAD};
        for (int64_t t = 0; t < tokens; t += at_once) {
            int64_t count = tokens - t < at_once ? tokens - t : at_once;
            add_block(&b, token + t, count, totals + t, bits, spread);
        }
    }
    for (int64_t t = 0; t < tokens; t++) finish(a, token + t, strip, totals[t]);
}

INLINE void multiply_typed(const struct product_arguments *a, int64_t strip,
                           finish_function finish, const int64_t bits, const int digits) {
    (void)digits;
    /* Whole turns of as many as are computed at once, but for the last one's. */
    int64_t turns = evenly(a->tokens, TOTALS_AT_ONCE) + TOKENS_AT_ONCE - 1;
    int64_t most = turns / TOKENS_AT_ONCE * TOKENS_AT_ONCE;
    for (int64_t token = 0; token < a->tokens; token += most) {
        int64_t left = a->tokens - token, tokens = left < most ? left : most;
        if (tokens >= (bits == 4 ? MANY_OF_4_BITS : MANY_OF_8_BITS))
            multiply_some(a, strip, token, tokens, finish, bits, 1);
        else
            multiply_some(a, strip, token, tokens, finish, bits, 0);
    }
}
