/* Which levels of instructions this processor has, and at which it is fastest: places in levels.py. */
#include "native.h"

/* The highest level that this processor and its system support; see levels.py. */
EXPORTED int64_t best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 1;
    if (!__builtin_cpu_supports("avx512vnni")) return 2;
    return __builtin_cpu_supports("avx512bf16") ? 4 : 3;
#else
    return 0;
#endif
}

/* The fastest of them. Intel's processors multiply a vector of pairs of bfloat16 in the time of four
 * vectors of floats (measured on Emerald Rapids): floats are twice as fast there. */
EXPORTED int64_t fastest_level(void) {
    int64_t best = best_level();
#if defined(__x86_64__)
    if (best == 4 && __builtin_cpu_is("intel")) return 3;
#endif
    return best;
}
