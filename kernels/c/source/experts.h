/* Mixture of experts: each token's rows go through its experts only, in bfloat16.
 *
 * Tokens are sorted by expert, so that an expert's weights are read once for all of its tokens. */
#pragma once

#include "linear.h"
#include "routing.h"

struct experts_arguments {
    int64_t threads;
    struct input_rows in; /* of all tokens */
    char *out;            /* like x, without gaps */
    struct routing routing;
    const char *router; /* packed, [experts] outputs */
    /* Packed; a panel has W gates and the W ups that they belong to. `intermediate` is filled up to
     * whole vectors, with zeros. */
    const char *gate_up;
    const char *down; /* packed */
    int64_t intermediate;
    /* Scratch, rows as in `routing`. */
    char *gated; /* [rows, intermediate] of INPUT_TYPE */
    float *sums; /* [panels of hidden, tokens, PANEL] */
};

INLINE char *gated_row(const struct experts_arguments *a, int64_t row) {
    return a->gated + row * a->intermediate * bytes_of(INPUT_TYPE);
}

static void route_task(const void *arguments, int64_t task) {
    const struct experts_arguments *a = arguments;
    const struct routing *r = &a->routing;
    int64_t first = task * TILE_ROWS;
    int64_t count = r->tokens - first < TILE_ROWS ? r->tokens - first : TILE_ROWS;
    int64_t panels = panels_of(r->experts, 0);
    const char *x[TILE_ROWS];
    vf sums[TILE_ROWS][2];
    float logits[TILE_ROWS][panels * PANEL];
    for (int64_t i = 0; i < count; i++) x[i] = input_row(&a->in, first + i);
    for (int64_t panel = 0; panel < panels; panel++) {
        const char *weights = a->router + panel * a->in.width * (PANEL * 2);
        multiply_tile(count, x, weights, a->in.width / 2, (struct prefetch){weights, 0}, sums);
        for (int64_t i = 0; i < count; i++)
            for (int64_t half = 0; half < 2; half++) {
                char rounded[2 * W];
                store(rounded, 0, sums[i][half], BF16);
                vf logit = load(rounded, 0, BF16);
                memcpy(&logits[i][panel * PANEL + half * W], &logit, sizeof logit);
            }
    }
    for (int64_t i = 0; i < count; i++) choose_experts(r, first + i, logits[i]);
}

/* One expert's gates and ups of one panel, for all of its rows. */
static void gate_task(const void *arguments, int64_t task) {
    const struct experts_arguments *a = arguments;
    const struct routing *r = &a->routing;
    int64_t panels = panels_of(a->intermediate, 1), panel = task % panels;
    int64_t expert = r->hit[task / panels];
    const char *weights = a->gate_up + (expert * panels + panel) * a->in.width * (PANEL * 2);
    int64_t row = r->starts[expert], past = r->starts[expert + 1], rows = past - row;
    while (row < past) {
        int64_t count = evenly(past - row, TILE_ROWS);
        const char *x[TILE_ROWS];
        vf sums[TILE_ROWS][2];
        for (int64_t i = 0; i < count; i++) x[i] = input_row(&a->in, r->tokens_of[row + i]);
        struct prefetch prefetch =
            prefetch_for(weights, count, rows, past - row, a->in.width, a->threads);
        multiply_tile(count, x, weights, a->in.width / 2, prefetch, sums);
        for (int64_t i = 0; i < count; i++) {
            vf gated = gated_of(sums[i][0], sums[i][1]);
            store(gated_row(a, row + i), panel * W, gated, INPUT_TYPE);
        }
        row += count;
    }
}

/* One panel of the outputs, for all rows of all experts. */
static void down_task(const void *arguments, int64_t panel) {
    const struct experts_arguments *a = arguments;
    const struct routing *r = &a->routing;
    int64_t panels = panels_of(a->in.width, 0);
    float *sums_of = a->sums + panel * r->tokens * PANEL;
    memset(sums_of, 0, (size_t)(r->tokens * PANEL) * sizeof *sums_of);
    for (int64_t expert = 0; expert < r->experts; expert++) {
        const char *weights = a->down + (expert * panels + panel) * a->intermediate * (PANEL * 2);
        int64_t row = r->starts[expert], past = r->starts[expert + 1];
        while (row < past) {
            int64_t count = evenly(past - row, TILE_ROWS);
            const char *x[TILE_ROWS];
            vf sums[TILE_ROWS][2];
            for (int64_t i = 0; i < count; i++) x[i] = gated_row(a, row + i);
            struct prefetch prefetch = {weights + AHEAD_OF_WAITING, PANEL * 4};
            multiply_tile(count, x, weights, a->intermediate / 2, prefetch, sums);
            for (int64_t i = 0; i < count; i++)
                for (int64_t half = 0; half < 2; half++) {
                    float *sum = sums_of + r->tokens_of[row + i] * PANEL + half * W;
                    vf weighted = load(sum, 0, F32) + sums[i][half] * r->weights_of[row + i];
                    store(sum, 0, weighted, F32);
                }
            row += count;
        }
    }
    for (int64_t token = 0; token < r->tokens; token++)
        for (int64_t half = 0; half < 2; half++) {
            int64_t output = panel * PANEL + half * W;
            vf sum = load(sums_of + token * PANEL + half * W, 0, F32);
            if (output < a->in.width)
                store_within(a->out + 2 * token * a->in.width, output, a->in.width, sum, BF16);
        }
}

TAKES(experts, struct experts_arguments);
EXPORTED int64_t AT_LEVEL(experts)(const struct experts_arguments *a) {
    const struct routing *r = &a->routing;
    int64_t tiles = (r->tokens + TILE_ROWS - 1) / TILE_ROWS, rows = r->tokens * r->top_k;
    int64_t panels = panels_of(a->in.width, 0);
    widen(&a->in, a->threads);
    run_tasks(route_task, a, tiles, 1,
              threads_for(r->tokens, a->in.width, r->experts, a->threads));
    int64_t hit = sort_rows(r);
    /* An expert's rows are few even where tokens are many: it waits for weights. */
    int64_t threads = threads_for(rows, a->in.width, a->intermediate, a->threads);
    int64_t gates = hit * panels_of(a->intermediate, 1);
    int few = rows <= hit * TILE_ROWS;
    run_tasks(gate_task, a, gates, few ? neighbours(gates, threads) : 1, threads);
    run_tasks(down_task, a, panels, few ? neighbours(panels, threads) : 1, threads);
    return 0;
}
