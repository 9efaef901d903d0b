/* How weights become 8 or 4 bits, and activations whole numbers of 8 or 16.
 *
 * A weight is a level times a scale. Of 8 bits, levels are -127 to 127 and each output has a scale;
 * of 4, they are the sixteen below and every 32 inputs of an output have one. Levels are kept with
 * 128 added, as processors multiply unsigned by signed bytes. The 32 outputs of a strip lie
 * together: four inputs of the first, the same four of the second, and so on; then the next four
 * inputs. Of 4 bits, a byte's low half belongs to one such unit and its high half to the next.
 *
 * Activations get a scale for each token and block of inputs, so that a token's numbers depend on
 * that token alone. Of 16 bits, a number is 256 times its upper digit plus its lower one, both
 * signed bytes. */
#pragma once

#include "vectors.h"

enum { STRIP = 32, QUAD = 4, UNIT = STRIP * QUAD, GROUP = 32, BLOCK = 128, OFFSET = 128 };
enum { LEVELS = 16, GREATEST = 127, GREATEST_OF_TWO_DIGITS = 127 * 256 + 127 };

/* Lloyd and Max's quantiser for groups of 32 normally distributed numbers, each divided by minus
 * the one of greatest magnitude, which thus needs no level at the other end. */
#define LEVEL_LIST -127, -102, -82, -65, -50, -37, -23, -11, 2, 14, 27, 41, 55, 71, 90, 113
static const int8_t levels[LEVELS] = {LEVEL_LIST};

INLINE vi round_to_int(vf x) { return (vi)(x + 0x1.8p23f) - 0x4b400000; }

INLINE void store_bytes(void *to, vi x) {
    vb bytes = __builtin_convertvector(x, vb);
    memcpy(to, &bytes, sizeof bytes);
}

struct pack_arguments {
    int64_t dtype, threads;
    const char *weight; /* [outputs, inputs] */
    int64_t outputs, inputs, bits;
    uint8_t *packed; /* [strips, padded / 4, 32, 4] of 8 bits, [strips, padded / 8, 32, 4] of 4 */
    float *row_scales;      /* [strips, 32], of 8 bits */
    uint16_t *group_scales; /* [strips, padded / 32, 32] bfloat16, of 4 bits */
};

INLINE int64_t padded_inputs(int64_t inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

/* What is less is taken for zero, as its inverse may be no float. */
#define LEAST 0x1p-100f

/* 0, or not a number where one of a row's numbers is infinite or none. */
INLINE float poison_of(const char *row, int64_t first, int64_t past, enum dtype type) {
    vf poison = {0};
    for (int64_t i = first; i < past; i += W) poison += load_within(row, i, past, type) * 0;
    return sum_of(poison);
}

INLINE float greatest_of(const char *row, int64_t first, int64_t past, enum dtype type) {
    vf greatest = {0};
    for (int64_t i = first; i < past; i += W) {
        vf own = load_within(row, i, past, type);
        greatest = larger(choose(own < 0, -own, own), greatest);
    }
    return largest_of(greatest);
}

/* One output of 8 bits; `to` is its place in the first unit. */
INLINE void pack_row(const char *row, int64_t inputs, uint8_t *to, float *scale,
                     enum dtype type) {
    float magnitude = greatest_of(row, 0, inputs, type);
    float factor = magnitude > LEAST ? GREATEST / magnitude : 0;
    *scale = magnitude * (1.0f / GREATEST) + poison_of(row, 0, inputs, type);
    for (int64_t i = 0; i < padded_inputs(inputs); i += W) {
        uint8_t codes[W];
        vf x = i < inputs ? load_within(row, i, inputs, type) : (vf){0};
        store_bytes(codes, round_to_int(x * factor) + OFFSET);
        for (int64_t j = 0; j < W; j += QUAD)
            memcpy(to + (i + j) / QUAD * UNIT, codes + j, QUAD);
    }
}

/* The index of the nearest level to each number, and the level. */
INLINE vi nearest_of(vf x, vf *level) {
    float between[LEVELS] = {0};
    for (int j = 0; j + 1 < LEVELS; j++)
        between[j] = 0.5f * (float)(levels[j] + levels[j + 1]);
#if defined(HAS_AVX512)
    __m512 bounds = _mm512_loadu_ps(between);
    __m512i index = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int step = LEVELS / 2; step > 0; step /= 2) {
        __m512i upper = _mm512_add_epi32(index, _mm512_set1_epi32(step));
        __m512i last = _mm512_add_epi32(index, _mm512_set1_epi32(step - 1));
        __m512 bound = _mm512_permutexvar_ps(last, bounds);
        index = _mm512_mask_mov_epi32(
            index, _mm512_cmp_ps_mask((__m512)x, bound, _CMP_GT_OQ), upper);
    }
    __m512i all = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)levels));
    *level = (vf)_mm512_permutexvar_ps(index, _mm512_cvtepi32_ps(all));
    return (vi)index;
#else
    vi index = {0};
    *level = splat(levels[0]);
    for (int j = 0; j + 1 < LEVELS; j++) {
        vi above = x > splat(between[j]);
        index -= above;
        *level += (vf)((vi)splat((float)(levels[j + 1] - levels[j])) & above);
    }
    return index;
#endif
}

/* Finds the nearest levels; returns the products that tell how well they fit: x with level, level
 * with level. */
INLINE void find_levels(const float *x, float factor, int32_t *nearest, float *mixed,
                        float *squared) {
    vf with_x = {0}, with_itself = {0};
    for (int64_t i = 0; i < GROUP; i += W) {
        vf own = load(x, i, F32), level;
        vi index = nearest_of(own * factor, &level);
        memcpy(nearest + i, &index, sizeof index);
        with_x += own * level;
        with_itself += level * level;
    }
    *mixed = sum_of(with_x);
    *squared = sum_of(with_itself);
}

/* Returns the scale with which levels come nearest to x, and those levels. The first guess puts the
 * number of greatest magnitude at either end; a least-squares fit to the levels found follows. */
INLINE float fit_group(const float *x, int32_t *best) {
    float best_gain = -1, best_scale = 0;
    vf above = {0}, below = {0};
    for (int64_t i = 0; i < GROUP; i += W) {
        vf own = load(x, i, F32);
        above = larger(own, above);
        below = larger(-own, below);
    }
    float greatest = largest_of(above), least = -largest_of(below);
    float top = greatest >= -least ? greatest : least;
    for (int i = 0; i < GROUP; i++) best[i] = LEVELS / 2;
    float poison = poison_of((const char *)x, 0, GROUP, F32);
    if (poison != 0 || __builtin_fabsf(top) < LEAST) return poison;
    for (float end = -GREATEST; end <= GREATEST; end += 2 * GREATEST) {
        int32_t nearest[GROUP];
        float mixed, squared, scale;
        find_levels(x, end / top, nearest, &mixed, &squared);
        store_some(&scale, 0, 1, splat(mixed / squared), BF16);
        scale = load_some(&scale, 0, 1, BF16)[0];
        find_levels(x, scale != 0 ? 1 / scale : 0, nearest, &mixed, &squared);
        /* What the levels take off the sum of squares. */
        float gain = scale * (2 * mixed - scale * squared);
        if (!(gain > best_gain)) continue;
        best_gain = gain;
        best_scale = scale;
        memcpy(best, nearest, sizeof nearest);
    }
    return best_scale;
}

/* One output's group of 4 bits; `to` is its place in the group's first unit. */
INLINE void pack_group(const char *row, int64_t first, int64_t inputs, uint8_t *to,
                       uint16_t *scale, enum dtype type) {
    float x[GROUP];
    int32_t best[GROUP];
    for (int64_t i = 0; i < GROUP; i += W) {
        int64_t at = first + i;
        store(x, i, at < inputs ? load_within(row, at, inputs, type) : (vf){0}, F32);
    }
    store_some(scale, 0, 1, splat(fit_group(x, best)), BF16);
    for (int64_t i = 0; i < GROUP; i += 2 * QUAD, to += UNIT)
        for (int64_t j = 0; j < QUAD; j++)
            to[j] = (uint8_t)(best[i + j] | best[i + QUAD + j] << 4);
}

INLINE void pack_typed(const struct pack_arguments *a, int64_t strip, enum dtype type) {
    int64_t padded = padded_inputs(a->inputs), groups = padded / GROUP;
    uint8_t *packed = a->packed + strip * STRIP * padded * a->bits / 8;
    for (int64_t i = 0; i < STRIP; i++) {
        int64_t output = strip * STRIP + i, inputs = output < a->outputs ? a->inputs : 0;
        const char *row = a->weight + (inputs ? output * inputs * bytes_of(type) : 0);
        uint8_t *to = packed + i * QUAD;
        if (a->bits == 8) {
            pack_row(row, inputs, to, a->row_scales + output, type);
            for (int64_t k = inputs ? padded : 0; k < padded; k += QUAD)
                memset(to + k / QUAD * UNIT, OFFSET, QUAD);
            continue;
        }
        for (int64_t group = 0; group < groups; group++)
            pack_group(row, group * GROUP, inputs, to + group * GROUP / 2 * STRIP,
                       a->group_scales + (strip * groups + group) * STRIP + i, type);
    }
}

static void pack_strip(const void *arguments, int64_t strip) {
    const struct pack_arguments *a = arguments;
    BY_TYPE(pack_typed, a->dtype, a, strip);
}

TAKES(pack_weights, struct pack_arguments);
/* The last strip is filled up with empty outputs. */
EXPORTED int64_t AT_LEVEL(pack_weights)(const struct pack_arguments *a) {
    run_tasks(pack_strip, a, (a->outputs + STRIP - 1) / STRIP, 1, a->threads);
    return 0;
}
