/* For x86-64 processors with AVX-512, from 2017 (Skylake) on. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LEVEL avx512
#define HAS_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#include BODY
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
