/* For x86-64 processors from 2013 (Haswell) on. */
#if defined(__x86_64__)
#include <immintrin.h>
#define LEVEL avx2
#define HAS_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include BODY
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
