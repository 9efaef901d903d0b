/* Products of up to TILE_ROWS rows of bfloat16 with one panel of packed weights, in float.
 *
 * A panel has PANEL outputs; for each pair of inputs it holds two vectors of outputs, an output's
 * two weights side by side. All sums of a tile stay in registers. Where an instruction multiplies
 * pairs of bfloat16, rows are read as they are; elsewhere they have been widened to float, and
 * weights are widened on their way, by a shift or a mask for each vector. */
#pragma once

#include "vectors.h"

enum { PANEL = 2 * W };

/* Of so many outputs; a `gated` panel has W of them, gates and ups for each. */
INLINE int64_t panels_of(int64_t outputs, int64_t gated) {
    int64_t each = gated ? W : PANEL;
    return (outputs + each - 1) / each;
}

#if defined(HAS_BF16)
#define INPUT_TYPE BF16
#else
#define INPUT_TYPE F32
#endif

/* Each row has two sums, which take three quarters of the registers. */
#if defined(HAS_AVX512)
enum { TILE_ROWS = 12 };
#else
enum { TILE_ROWS = 6 };
#endif

/* Up to so many rows wait for weights. */
enum { WAITING_ROWS = TILE_ROWS / 2 };
/* They are fetched so many bytes ahead. */
#if defined(HAS_AVX512)
enum { AHEAD_OF_WAITING = 4096 };
#else
enum { AHEAD_OF_WAITING = 1024 };
#endif

/* What is fetched while a tile is computed: `step` bytes on for each pair of inputs. */
struct prefetch {
    const char *from;
    int64_t step;
};

/* Few rows wait for weights, and fetch their own. */
INLINE void fetch_for(const int rows, const char *weights, int64_t pair, struct prefetch prefetch) {
    const char *next = weights + AHEAD_OF_WAITING;
    if (rows > WAITING_ROWS) next = prefetch.from + pair * prefetch.step;
    __builtin_prefetch(next, 0, 2);
    if (PANEL * 4 > 64) __builtin_prefetch(next + 64, 0, 2);
}

#if defined(HAS_BF16)

/* One pair of inputs of `rows` rows, times the panel's weights for it. */
INLINE void multiply_pair(const int rows, const char *const *x, const char *weights, int64_t pair,
                          vf (*sums)[2]) {
    __m512bh first = (__m512bh)_mm512_loadu_si512(weights);
    __m512bh second = (__m512bh)_mm512_loadu_si512(weights + 64);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++) {
        int32_t both;
        memcpy(&both, x[row] + 4 * pair, sizeof both);
        __m512bh inputs = (__m512bh)_mm512_set1_epi32(both);
        sums[row][0] = (vf)_mm512_dpbf16_ps((__m512)sums[row][0], inputs, first);
        sums[row][1] = (vf)_mm512_dpbf16_ps((__m512)sums[row][1], inputs, second);
    }
}

#else

/* Not left to the compiler, which keeps moving the sums from register to register. */
INLINE void add_product(vf *sum, vf x, vf y) {
#if defined(HAS_AVX512)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(x), "v"(y));
#elif defined(HAS_AVX2)
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*sum) : "x"(x), "x"(y));
#else
    *sum += x * y;
#endif
}

/* One pair of inputs of `rows` rows, times the panel's weights for it. */
INLINE void multiply_pair(const int rows, const char *const *x, const char *weights, int64_t pair,
                          vf (*sums)[2]) {
    vu left, right;
    memcpy(&left, weights, sizeof left);
    memcpy(&right, weights + sizeof left, sizeof right);
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
        vf first = (vf)(odd ? left & 0xffff0000u : left << 16);
        vf second = (vf)(odd ? right & 0xffff0000u : right << 16);
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++) {
            float input;
            memcpy(&input, x[row] + 8 * pair + 4 * odd, sizeof input);
            add_product(&sums[row][0], splat(input), first);
            add_product(&sums[row][1], splat(input), second);
        }
    }
}

#endif

/* `rows` and `chains` are constants. Few rows leave the multipliers waiting for their own sums, so
 * they have several, `chains` each, that are added in the end. */
INLINE void multiply_rows(const int rows, const int chains, const char *const *x,
                          const char *panel, int64_t pairs, struct prefetch prefetch,
                          vf (*out)[2]) {
    vf sums[4][TILE_ROWS][2];
#pragma GCC unroll 4
    for (int chain = 0; chain < chains; chain++)
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++) sums[chain][row][0] = sums[chain][row][1] = (vf){0};
    int64_t pair = 0;
    for (; pair + chains <= pairs; pair += chains)
#pragma GCC unroll 4
        for (int chain = 0; chain < chains; chain++) {
            const char *weights = panel + (pair + chain) * (PANEL * 4);
            fetch_for(rows, weights, pair + chain, prefetch);
            multiply_pair(rows, x, weights, pair + chain, sums[chain]);
        }
    for (; pair < pairs; pair++)
        multiply_pair(rows, x, panel + pair * (PANEL * 4), pair, sums[0]);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            vf sum = sums[0][row][half];
#pragma GCC unroll 4
            for (int chain = 1; chain < chains; chain++) sum += sums[chain][row][half];
            out[row][half] = sum;
        }
}

/* `prefetch`: see `prefetch_for`. Not every body multiplies. */
static __attribute__((unused)) void multiply_tile(int64_t rows, const char *const *x,
                                                  const char *panel, int64_t pairs,
                                                  struct prefetch prefetch, vf (*out)[2]) {
#define ROWS(count, chains)                                                                       \
    case count:                                                                                   \
        multiply_rows(count, chains, x, panel, pairs, prefetch, out);                             \
        return;
    switch (rows) {
#if defined(HAS_AVX512)
        ROWS(1, 4) ROWS(2, 4) ROWS(3, 4) ROWS(4, 2) ROWS(5, 2) ROWS(6, 2)
        ROWS(7, 1) ROWS(8, 1) ROWS(9, 1) ROWS(10, 1) ROWS(11, 1) ROWS(12, 1)
#else
        ROWS(1, 4) ROWS(2, 2) ROWS(3, 2) ROWS(4, 1) ROWS(5, 1) ROWS(6, 1)
#endif
    }
#undef ROWS
}

/* Over so many tiles the fetching of the next panel is spread. */
enum { FETCHING_TILES = 4 };

/* What to fetch while `count` of `rows` rows, of which `left` are left, are multiplied. Tiles after
 * the first find their panel in the cache, so memory has time for the thread's next panel, which is
 * `threads` on, since the others take those between; a lone tile has its own to wait for. */
INLINE struct prefetch prefetch_for(const char *panel, int64_t count, int64_t rows, int64_t left,
                                    int64_t inputs, int64_t threads) {
    int64_t bytes = inputs * (PANEL * 2), tiles = (rows + count - 1) / count;
    int64_t to_come = (left + count - 1) / count;
    if (tiles <= 1) return (struct prefetch){panel + AHEAD_OF_WAITING, PANEL * 4};
    int64_t parts = tiles < FETCHING_TILES ? tiles : FETCHING_TILES;
    if (to_come > parts) return (struct prefetch){panel, 0};
    int64_t part = parts - to_come;
    return (struct prefetch){panel + threads * bytes + bytes * part / parts, PANEL * 4 / parts};
}

struct input_rows {
    const char *x; /* [rows, width] bfloat16 */
    int64_t rows, stride, width; /* the stride in elements; width even */
    char *inputs; /* [rows, width] of INPUT_TYPE; not used where that is bfloat16 */
};

INLINE const char *input_row(const struct input_rows *rows, int64_t row) {
    if (INPUT_TYPE == BF16) return rows->x + 2 * row * rows->stride;
    return rows->inputs + row * rows->width * bytes_of(INPUT_TYPE);
}

static void widen_row(const void *pointer, int64_t row) {
    const struct input_rows *rows = pointer;
    char *to = rows->inputs + row * rows->width * bytes_of(INPUT_TYPE);
    const char *from = rows->x + 2 * row * rows->stride;
    for (int64_t i = 0; i < rows->width; i += W)
        store_within(to, i, rows->width, load_within(from, i, rows->width, BF16), INPUT_TYPE);
}

/* To be called before `input_row`. */
INLINE void widen(const struct input_rows *rows, int64_t threads) {
    if (INPUT_TYPE != BF16) run_rows(widen_row, rows, rows->rows, rows->width, threads);
}
