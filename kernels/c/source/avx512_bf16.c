/* For x86-64 processors with products of bfloat16, from 2020 (Cooper Lake) and 2022 (Zen 4) on. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LEVEL avx512_bf16
#define HAS_AVX512
#define HAS_BF16
#define HAS_VNNI
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,f16c")
#endif
#include BODY
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
