/* Vectors of W floats, and how numbers of each type become floats and back.
 *
 * Written with the compiler's vector extension, so that one text serves every level; intrinsics
 * only where an instruction has no spelling there. Included by each level's source. */
#pragma once

#include "native.h"

#include <string.h>

#if defined(HAS_AVX2) || defined(HAS_AVX512)
#include <immintrin.h>
#endif

#if defined(HAS_AVX512)
#define W 16
#elif defined(HAS_AVX2)
#define W 8
#else
#define W 4
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef int8_t vb __attribute__((vector_size(W)));

/* The lanes that are listed, of those of `a` and then those of `b`. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf choose(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
/* `b` where either is not a number. */
#if defined(HAS_AVX512)
INLINE vf larger(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(HAS_AVX2)
INLINE vf larger(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
#else
INLINE vf larger(vf a, vf b) { return choose(a > b, a, b); }
#endif

INLINE int64_t bytes_of(enum dtype type) { return type == F32 ? 4 : type == I8 ? 1 : 2; }

INLINE vf half_to_float(vh halves) {
    vu bits = __builtin_convertvector(halves, vu);
    vu magnitude = (bits & 0x7fff) << 13;
    /* Moves the exponent from half's bias to float's; subnormal halves come out normal. */
    vf scaled = (vf)magnitude * 0x1p112f;
    vu infinite = (vu)(magnitude >= 0x0f800000u) & 0x7f800000u;
    return (vf)((vu)scaled | infinite | (bits & 0x8000) << 16);
}

INLINE vh float_to_half(vf x) {
    vu bits = (vu)x & 0x7fffffffu, sign = ((vu)x & 0x80000000u) >> 16;
    /* Adding a half leaves a subnormal's bits at the end of the mantissa, rounded. */
    vu small = (vu)((vf)bits + 0.5f) - 0x3f000000u;
    vu normal = (bits - 0x37fff001u + ((bits >> 13) & 1)) >> 13;
    vu huge = 0x7c00u | ((vu)(bits > 0x7f800000u) & 0x200u);
    vu is_small = (vu)(bits < 0x38800000u), is_huge = (vu)(bits >= 0x47800000u);
    vu finite = (small & is_small) | (normal & ~is_small);
    return __builtin_convertvector((huge & is_huge) | (finite & ~is_huge) | sign, vh);
}

INLINE vh float_to_bf16(vf x) {
#if defined(HAS_BF16)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu bits = (vu)x;
    vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    vu nan = (vu)(x != x);
    return __builtin_convertvector((nan & 0x7fc0u) | (rounded & ~nan), vh);
#endif
}

/* Loads W numbers of `type` from `base[i]` on; `type` is a constant wherever this is used. */
INLINE vf load(const void *base, int64_t i, enum dtype type) {
    const char *from = (const char *)base + i * bytes_of(type);
    vf x;
    vh halves;
    vb bytes;
    switch (type) {
    case F32:
        memcpy(&x, from, sizeof x);
        return x;
    case BF16:
        memcpy(&halves, from, sizeof halves);
#if defined(HAS_AVX512)
        return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16);
#elif defined(HAS_AVX2)
        return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)halves), 16);
#else
        return (vf)(__builtin_convertvector(halves, vu) << 16);
#endif
    case F16:
        memcpy(&halves, from, sizeof halves);
#if defined(HAS_AVX512)
        return (vf)_mm512_cvtph_ps((__m256i)halves);
#elif defined(HAS_AVX2)
        return (vf)_mm256_cvtph_ps((__m128i)halves);
#else
        return half_to_float(halves);
#endif
    default:
        memcpy(&bytes, from, sizeof bytes);
#if defined(HAS_AVX512)
        return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)bytes));
#elif defined(HAS_AVX2)
        return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)));
#else
        return __builtin_convertvector(__builtin_convertvector(bytes, vi), vf);
#endif
    }
}

/* Rounds to the nearest, ties to even. */
INLINE void store(void *base, int64_t i, vf x, enum dtype type) {
    char *to = (char *)base + i * bytes_of(type);
    vh halves;
    switch (type) {
    case F32:
        memcpy(to, &x, sizeof x);
        return;
    case BF16:
        halves = float_to_bf16(x);
        break;
    default:
        halves = float_to_half(x);
    }
    memcpy(to, &halves, sizeof halves);
}

/* The first `count` < W numbers, and zeros after them. */
INLINE vf load_some(const void *base, int64_t i, int64_t count, enum dtype type) {
    char whole[4 * W] = {0};
    memcpy(whole, (const char *)base + i * bytes_of(type), (size_t)(count * bytes_of(type)));
    return load(whole, 0, type);
}

INLINE void store_some(void *base, int64_t i, int64_t count, vf x, enum dtype type) {
    char whole[4 * W];
    store(whole, 0, x, type);
    memcpy((char *)base + i * bytes_of(type), whole, (size_t)(count * bytes_of(type)));
}

/* W or fewer from `base[i]` on, of `length` altogether. */
INLINE vf load_within(const void *base, int64_t i, int64_t length, enum dtype type) {
    return i + W <= length ? load(base, i, type) : load_some(base, i, length - i, type);
}

INLINE void store_within(void *base, int64_t i, int64_t length, vf x, enum dtype type) {
    if (i + W <= length)
        store(base, i, x, type);
    else
        store_some(base, i, length - i, x, type);
}

#if defined(HAS_AVX512)
INLINE float sum_of(vf x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest_of(vf x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float sum_of(vf x) {
    float lanes[W];
    memcpy(lanes, &x, sizeof x);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

INLINE float largest_of(vf x) {
    float lanes[W];
    memcpy(lanes, &x, sizeof x);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}
#endif

/* e^x for x up to 88, within two units of the last place; 0 where a float would be subnormal. */
INLINE vf exponential(vf x) {
    vf bounded = larger(splat(-87.0f), x);
#if defined(HAS_AVX512)
    vf whole = (vf)_mm512_roundscale_ps((__m512)(bounded * 0x1.715476p0f), 0);
#else
    const float shift = 0x1.8p23f; /* added, it leaves a whole number in the last bits */
    vf shifted = bounded * 0x1.715476p0f + shift, whole = shifted - shift;
#endif
    vf rest = bounded - whole * 0x1.62e4p-1f;
    rest = rest - whole * 0x1.7f7d1cp-20f;
    vf sum = splat(1.0f / 720);
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
#if defined(HAS_AVX512)
    __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(above, (__m512)sum, (__m512)whole);
#else
    vf power = (vf)(((vi)shifted << 23) + 0x3f800000);
    return choose(x < splat(-87.0f), splat(0.0f), sum * power);
#endif
}

/* gate * sigmoid(gate) * up. */
INLINE vf gated_of(vf gate, vf up) {
    vf power = exponential(choose(gate < splat(-88.0f), splat(88.0f), -gate));
    return gate / (1.0f + power) * up;
}

/* Calls `function(..., type)` with the type a constant, so that each is compiled by itself. */
#define BY_TYPE(function, type, ...)                                                              \
    do {                                                                                          \
        if ((type) == BF16)                                                                       \
            function(__VA_ARGS__, BF16);                                                          \
        else if ((type) == F16)                                                                   \
            function(__VA_ARGS__, F16);                                                           \
        else                                                                                      \
            function(__VA_ARGS__, F32);                                                           \
    } while (0)
