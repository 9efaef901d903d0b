/* Products of bfloat16 rows with packed weights.
 *
 * Weights lie in the order in which they are read, see tiles.h. */
#pragma once

#include "tiles.h"

/* Fewer products than this are computed by one thread: waking another takes as long. */
#if defined(HAS_BF16)
enum { ALONE_PRODUCTS = 3 << 20 };
#else
enum { ALONE_PRODUCTS = 3 << 18 };
#endif
/* What the rows of one task may take of the second cache; the next panels find them there. */
enum { BLOCK_BYTES = 640 << 10 };

/* How many rows make a task: whole tiles, and no block much smaller than the others. */
INLINE int64_t block_of(int64_t rows, int64_t inputs) {
    int64_t most = BLOCK_BYTES / (bytes_of(INPUT_TYPE) * inputs);
    if (most < 4 * TILE_ROWS) most = 4 * TILE_ROWS;
    int64_t blocks = (rows + most - 1) / most, even = (rows + blocks - 1) / blocks;
    return (even + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

struct linear_arguments {
    int64_t threads;
    struct input_rows in;
    const char *weights;
    int64_t outputs;   /* panels of them filled up with zeros */
    const float *bias; /* [panels * PANEL], or NULL for none */
    int64_t gated;     /* whether a panel has W gates and the W ups that they belong to */
    char *out;         /* [rows, outputs] bfloat16 */
};

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
    int64_t panels = panels_of(a->outputs, a->gated), panel = task % panels, inputs = a->in.width;
    int64_t block = block_of(a->in.rows, inputs);
    int64_t row = task / panels * block, past = row + block;
    if (past > a->in.rows) past = a->in.rows;
    int64_t rows = past - row;
    const char *weights = a->weights + panel * inputs * (PANEL * 2);
    vf bias[2] = {{0}, {0}};
    if (a->bias != NULL) memcpy(bias, a->bias + panel * PANEL, sizeof bias);
    while (row < past) {
        int64_t count = evenly(past - row, TILE_ROWS);
        const char *x[TILE_ROWS];
        vf sums[TILE_ROWS][2];
        for (int64_t i = 0; i < count; i++) x[i] = input_row(&a->in, row + i);
        struct prefetch prefetch =
            prefetch_for(weights, count, rows, past - row, inputs, a->threads);
        multiply_tile(count, x, weights, inputs / 2, prefetch, sums);
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

/* Bytes of a number in the rows that are multiplied. */
EXPORTED const int64_t AT_LEVEL(input_bytes) = INPUT_TYPE == BF16 ? 2 : 4;
/* Outputs of half a panel. */
EXPORTED const int64_t AT_LEVEL(lanes) = W;

TAKES(linear, struct linear_arguments);
EXPORTED int64_t AT_LEVEL(linear)(const struct linear_arguments *a) {
    int64_t rows = a->in.rows, panels = panels_of(a->outputs, a->gated);
    if (rows == 0) return 0;
    int64_t block = block_of(rows, a->in.width), blocks = (rows + block - 1) / block;
    int64_t threads = threads_for(rows, a->in.width, panels * PANEL, a->threads);
    widen(&a->in, a->threads);
    int64_t grain = rows <= TILE_ROWS ? neighbours(panels, threads) : 1;
    run_tasks(linear_task, a, panels * blocks, grain, threads);
    return 0;
}
