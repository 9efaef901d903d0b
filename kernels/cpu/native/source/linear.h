/* Products of bfloat16 rows with packed weights, by the instruction that multiplies pairs.
 *
 * Weights lie in the order in which they are read. A panel has PANEL outputs; for each pair of
 * inputs it holds two vectors of 16 outputs, an output's two weights side by side. Rows are taken
 * up to TILE_ROWS at a time, with all their sums in registers. */
#pragma once

#include "vectors.h"

#if defined(HAS_BF16)

enum { PANEL = 2 * W, TILE_ROWS = 12 };

/* Fewer rows than this are computed by one thread: waking another takes as long. */
enum { ALONE_PRODUCTS = 3 << 20 };
/* What the rows of one task may take of the second cache; the next panels find them there. */
enum { BLOCK_BYTES = 640 << 10 };

/* So few rows wait for weights, which are fetched so many bytes ahead. */
enum { WAITING_ROWS = 6, AHEAD_OF_WAITING = 4096 };

/* What is fetched while a tile is computed: `step` bytes on for each pair of inputs. */
struct prefetch {
    const char *from;
    int64_t step;
};

/* One pair of inputs of `rows` rows, times the panel's weights for it. Few rows wait for weights, and
 * fetch their own. */
INLINE void multiply_pair(const int rows, const char *const *x, const char *panel, int64_t pair,
                          struct prefetch prefetch, __m512 (*sums)[2]) {
    const char *weights = panel + pair * (PANEL * 4);
    const char *next = weights + AHEAD_OF_WAITING;
    if (rows > WAITING_ROWS) next = prefetch.from + pair * prefetch.step;
    _mm_prefetch(next, _MM_HINT_T1);
    _mm_prefetch(next + 64, _MM_HINT_T1);
    __m512bh first = (__m512bh)_mm512_loadu_si512(weights);
    __m512bh second = (__m512bh)_mm512_loadu_si512(weights + 64);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++) {
        int32_t both;
        memcpy(&both, x[row] + 4 * pair, sizeof both);
        __m512bh inputs = (__m512bh)_mm512_set1_epi32(both);
        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], inputs, first);
        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], inputs, second);
    }
}

/* `rows` and `chains` are constants. Few rows leave the multipliers waiting for their own sums, so
 * they have several, `chains` each, that are added in the end. */
INLINE void multiply_rows(const int rows, const int chains, const char *const *x,
                          const char *panel, int64_t pairs, struct prefetch prefetch, vf (*out)[2]) {
    __m512 sums[4][TILE_ROWS][2];
#pragma GCC unroll 4
    for (int chain = 0; chain < chains; chain++)
#pragma GCC unroll 12
        for (int row = 0; row < rows; row++)
            sums[chain][row][0] = sums[chain][row][1] = _mm512_setzero_ps();
    int64_t pair = 0;
    for (; pair + chains <= pairs; pair += chains)
#pragma GCC unroll 4
        for (int chain = 0; chain < chains; chain++)
            multiply_pair(rows, x, panel, pair + chain, prefetch, sums[chain]);
    for (; pair < pairs; pair++) multiply_pair(rows, x, panel, pair, prefetch, sums[0]);
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            vf sum = (vf)sums[0][row][half];
#pragma GCC unroll 4
            for (int chain = 1; chain < chains; chain++) sum += (vf)sums[chain][row][half];
            out[row][half] = sum;
        }
}

/* Products of up to TILE_ROWS rows with one panel, in float. `prefetch`: see `prefetch_for`. */
static void multiply_tile(int64_t rows, const char *const *x, const char *panel, int64_t pairs,
                          struct prefetch prefetch, vf (*out)[2]) {
#define ROWS(count, chains)                                                                       \
    case count:                                                                                   \
        multiply_rows(count, chains, x, panel, pairs, prefetch, out);                             \
        return;
    switch (rows) {
        ROWS(1, 4) ROWS(2, 4) ROWS(3, 4) ROWS(4, 2) ROWS(5, 2) ROWS(6, 2)
        ROWS(7, 1) ROWS(8, 1) ROWS(9, 1) ROWS(10, 1) ROWS(11, 1) ROWS(12, 1)
    }
#undef ROWS
}

/* How many of `left` rows to take next, so that all tiles are about as high. */
INLINE int64_t tile_of(int64_t left) {
    int64_t tiles = (left + TILE_ROWS - 1) / TILE_ROWS;
    return (left + tiles - 1) / tiles;
}

/* Over so many tiles the fetching of the next panel is spread. */
enum { FETCHING_TILES = 4 };

/* What to fetch while `count` of `rows` rows, of which `left` are left, are multiplied. Tiles after
 * the first find their panel in the cache, so memory has time for the next panel; a lone tile has
 * its own to wait for. */
INLINE struct prefetch prefetch_for(const char *panel, int64_t count, int64_t rows, int64_t left,
                                    int64_t inputs) {
    int64_t bytes = inputs * (PANEL * 2), tiles = (rows + count - 1) / count;
    int64_t to_come = (left + count - 1) / count;
    if (tiles <= 1) return (struct prefetch){panel + AHEAD_OF_WAITING, PANEL * 4};
    int64_t parts = tiles < FETCHING_TILES ? tiles : FETCHING_TILES;
    if (to_come > parts) return (struct prefetch){panel, 0};
    int64_t part = parts - to_come;
    return (struct prefetch){panel + bytes + bytes * part / parts, PANEL * 4 / parts};
}

/* How many rows make a task: whole tiles, and no block much smaller than the others. */
INLINE int64_t block_of(int64_t rows, int64_t inputs) {
    int64_t most = BLOCK_BYTES / (2 * inputs);
    if (most < 4 * TILE_ROWS) most = 4 * TILE_ROWS;
    int64_t blocks = (rows + most - 1) / most, even = (rows + blocks - 1) / blocks;
    return (even + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

struct linear_arguments {
    int64_t threads;
    const char *x;
    int64_t rows, row_stride; /* the stride in elements */
    const char *weights;
    int64_t inputs, outputs; /* inputs even; panels of outputs filled up with zeros */
    const float *bias;       /* [panels * PANEL], or NULL for none */
    int64_t gated;           /* whether a panel has W gates and the W ups that they belong to */
    char *out;               /* [rows, outputs] bfloat16 */
};

INLINE int64_t panels_of(const struct linear_arguments *a) {
    int64_t outputs = a->gated ? W : PANEL;
    return (a->outputs + outputs - 1) / outputs;
}

/* A row's outputs of one panel. */
INLINE void finish_row(const struct linear_arguments *a, int64_t row, int64_t panel,
                       const vf *sums) {
    char *out = a->out + 2 * row * a->outputs;
    if (a->gated) {
        store_within(out, panel * W, a->outputs, gated_of(sums[0], sums[1]), BF16);
        return;
    }
    for (int64_t half = 0; half < 2; half++) {
        int64_t output = panel * PANEL + half * W;
        if (output < a->outputs) store_within(out, output, a->outputs, sums[half], BF16);
    }
}

static void linear_task(const void *arguments, int64_t task) {
    const struct linear_arguments *a = arguments;
    int64_t panels = panels_of(a), panel = task % panels;
    int64_t block = block_of(a->rows, a->inputs);
    int64_t row = task / panels * block, past = row + block;
    if (past > a->rows) past = a->rows;
    int64_t rows = past - row;
    const char *weights = a->weights + panel * a->inputs * (PANEL * 2);
    vf bias[2] = {{0}, {0}};
    if (a->bias != NULL) memcpy(bias, a->bias + panel * PANEL, sizeof bias);
    while (row < past) {
        int64_t count = tile_of(past - row);
        const char *x[TILE_ROWS];
        vf sums[TILE_ROWS][2];
        for (int64_t i = 0; i < count; i++) x[i] = a->x + 2 * (row + i) * a->row_stride;
        struct prefetch prefetch = prefetch_for(weights, count, rows, past - row, a->inputs);
        multiply_tile(count, x, weights, a->inputs / 2, prefetch, sums);
        for (int64_t i = 0; i < count; i++) {
            vf biased[2] = {sums[i][0] + bias[0], sums[i][1] + bias[1]};
            finish_row(a, row + i, panel, biased);
        }
        row += count;
    }
}

/* Threads for a product of so many rows, inputs and outputs; few rows wait for weights. */
INLINE int64_t threads_for(int64_t rows, int64_t inputs, int64_t outputs, int64_t threads) {
    int64_t products = (rows < TILE_ROWS / 2 ? TILE_ROWS / 2 : rows) * inputs * outputs;
    return threads_worth(products, ALONE_PRODUCTS, threads);
}

TAKES(linear, struct linear_arguments);
EXPORTED int64_t AT_LEVEL(linear)(const struct linear_arguments *a) {
    int64_t panels = panels_of(a);
    if (a->rows == 0) return 0;
    int64_t block = block_of(a->rows, a->inputs), blocks = (a->rows + block - 1) / block;
    int64_t threads = threads_for(a->rows, a->inputs, panels * PANEL, a->threads);
    int64_t grain = a->rows <= TILE_ROWS ? neighbours(panels, threads) : 1;
    run_tasks(linear_task, a, panels * blocks, grain, threads);
    return 0;
}

#endif
