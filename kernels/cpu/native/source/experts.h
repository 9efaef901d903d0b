/* Mixture of experts: each token's rows go through its experts only, in bfloat16.
 *
 * Tokens are sorted by expert, so that an expert's weights are read once for all of its tokens. */
#pragma once

#include "linear.h"

#if defined(HAS_BF16)

struct experts_arguments {
    int64_t threads;
    const char *x; /* [tokens, hidden] bfloat16, hidden even */
    char *out;     /* like x */
    int64_t tokens, hidden, experts, top_k, renormalise;
    const char *router; /* packed, [experts] outputs */
    /* Packed; a panel has W gates and the W ups that they belong to. `intermediate` is filled up to
     * whole vectors, with zeros. */
    const char *gate_up;
    const char *down; /* packed */
    int64_t intermediate;
    /* Scratch. Rows are pairs of a token and one of its experts, sorted by expert. */
    float *weights;   /* [tokens, top_k] */
    int64_t *chosen;  /* [tokens, top_k] */
    int64_t *starts;  /* [experts + 1]: an expert's first row */
    int64_t *hit;     /* [experts]: those that have rows */
    int64_t *tokens_of; /* [rows] */
    float *weights_of;  /* [rows] */
    char *gated;      /* [rows, intermediate] bfloat16 */
    float *sums;      /* [panels of hidden, tokens, PANEL] */
};

/* Scores are rounded as a product's results are: `logits` [experts]. */
static void choose_experts(const struct experts_arguments *a, int64_t token, float *logits) {
    float *weights = a->weights + token * a->top_k;
    int64_t *chosen = a->chosen + token * a->top_k;
    float largest = 0, all = 0, some = 0;
    for (int64_t expert = 0; expert < a->experts; expert++)
        if (expert == 0 || logits[expert] > largest) largest = logits[expert];
    for (int64_t i = 0; i < a->experts; i += W) {
        vf powers = exponential(load_within(logits, i, a->experts, F32) - largest);
        store_within(logits, i, a->experts, powers, F32);
    }
    for (int64_t expert = 0; expert < a->experts; expert++) all += logits[expert];
    for (int64_t place = 0; place < a->top_k; place++) {
        int64_t best = -1;
        for (int64_t expert = 0; expert < a->experts; expert++) {
            int taken = 0;
            for (int64_t before = 0; before < place; before++) taken |= chosen[before] == expert;
            if (!taken && (best < 0 || logits[expert] > logits[best])) best = expert;
        }
        chosen[place] = best;
        weights[place] = logits[best];
        some += logits[best];
    }
    float total = a->renormalise ? some : all;
    for (int64_t place = 0; place < a->top_k; place++) weights[place] /= total;
}

static void route_task(const void *arguments, int64_t task) {
    const struct experts_arguments *a = arguments;
    int64_t first = task * TILE_ROWS;
    int64_t count = a->tokens - first < TILE_ROWS ? a->tokens - first : TILE_ROWS;
    int64_t panels = (a->experts + PANEL - 1) / PANEL;
    const char *x[TILE_ROWS];
    vf sums[TILE_ROWS][2];
    float logits[TILE_ROWS][panels * PANEL];
    for (int64_t i = 0; i < count; i++) x[i] = a->x + 2 * (first + i) * a->hidden;
    for (int64_t panel = 0; panel < panels; panel++) {
        multiply_tile(count, x, a->router + panel * a->hidden * (PANEL * 2), a->hidden / 2, 0, sums);
        for (int64_t i = 0; i < count; i++)
            for (int64_t half = 0; half < 2; half++) {
                char rounded[2 * W];
                store(rounded, 0, sums[i][half], BF16);
                vf logit = load(rounded, 0, BF16);
                memcpy(&logits[i][panel * PANEL + half * W], &logit, sizeof logit);
            }
    }
    for (int64_t i = 0; i < count; i++) choose_experts(a, first + i, logits[i]);
}

/* Sort (token, expert) pairs by expert; returns how many experts are hit. */
static int64_t sort_rows(const struct experts_arguments *a) {
    int64_t rows = a->tokens * a->top_k, hit = 0;
    memset(a->starts, 0, (size_t)(a->experts + 1) * sizeof *a->starts);
    for (int64_t i = 0; i < rows; i++) a->starts[a->chosen[i] + 1]++;
    for (int64_t expert = 0; expert < a->experts; expert++) {
        if (a->starts[expert + 1] > 0) a->hit[hit++] = expert;
        a->starts[expert + 1] += a->starts[expert];
    }
    int64_t next[a->experts];
    memcpy(next, a->starts, sizeof next);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = next[a->chosen[i]]++;
        a->tokens_of[row] = i / a->top_k;
        a->weights_of[row] = a->weights[i];
    }
    return hit;
}

/* One expert's gates and ups of one panel, for all of its rows. */
static void gate_task(const void *arguments, int64_t task) {
    const struct experts_arguments *a = arguments;
    int64_t panels = a->intermediate / W, panel = task % panels, expert = a->hit[task / panels];
    const char *weights = a->gate_up + (expert * panels + panel) * a->hidden * (PANEL * 2);
    int64_t row = a->starts[expert], past = a->starts[expert + 1], rows = past - row;
    while (row < past) {
        int64_t count = tile_of(past - row);
        const char *x[TILE_ROWS];
        vf sums[TILE_ROWS][2];
        for (int64_t i = 0; i < count; i++) x[i] = a->x + 2 * a->tokens_of[row + i] * a->hidden;
        int64_t ahead = ahead_of(count, rows, past - row, a->hidden);
        multiply_tile(count, x, weights, a->hidden / 2, ahead, sums);
        for (int64_t i = 0; i < count; i++) {
            vf gate = sums[i][0], gated = gate / (1.0f + exponential(-gate)) * sums[i][1];
            store(a->gated + 2 * (row + i) * a->intermediate, panel * W, gated, BF16);
        }
        row += count;
    }
}

/* One panel of the outputs, for all rows of all experts. */
static void down_task(const void *arguments, int64_t panel) {
    const struct experts_arguments *a = arguments;
    int64_t panels = (a->hidden + PANEL - 1) / PANEL;
    float *sums_of = a->sums + panel * a->tokens * PANEL;
    memset(sums_of, 0, (size_t)(a->tokens * PANEL) * sizeof *sums_of);
    for (int64_t expert = 0; expert < a->experts; expert++) {
        const char *weights = a->down + (expert * panels + panel) * a->intermediate * (PANEL * 2);
        int64_t row = a->starts[expert], past = a->starts[expert + 1];
        while (row < past) {
            int64_t count = tile_of(past - row);
            const char *x[TILE_ROWS];
            vf sums[TILE_ROWS][2];
            for (int64_t i = 0; i < count; i++) x[i] = a->gated + 2 * (row + i) * a->intermediate;
            multiply_tile(count, x, weights, a->intermediate / 2, 0, sums);
            for (int64_t i = 0; i < count; i++)
                for (int64_t half = 0; half < 2; half++) {
                    float *sum = sums_of + a->tokens_of[row + i] * PANEL + half * W;
                    vf weighted = load(sum, 0, F32) + sums[i][half] * a->weights_of[row + i];
                    store(sum, 0, weighted, F32);
                }
            row += count;
        }
    }
    for (int64_t token = 0; token < a->tokens; token++)
        for (int64_t half = 0; half < 2; half++) {
            int64_t output = panel * PANEL + half * W;
            vf sum = load(sums_of + token * PANEL + half * W, 0, F32);
            if (output < a->hidden)
                store_within(a->out + 2 * token * a->hidden, output, a->hidden, sum, BF16);
        }
}

TAKES(experts, struct experts_arguments);
EXPORTED int64_t AT_LEVEL(experts)(const struct experts_arguments *a) {
    int64_t tiles = (a->tokens + TILE_ROWS - 1) / TILE_ROWS, rows = a->tokens * a->top_k;
    int64_t panels = (a->hidden + PANEL - 1) / PANEL;
    run_tasks(route_task, a, tiles, 1,
              threads_for(a->tokens, a->hidden, a->experts, a->threads));
    int64_t hit = sort_rows(a);
    /* An expert's rows are few even where tokens are many: it waits for weights. */
    int64_t threads = threads_for(rows, a->hidden, a->intermediate, a->threads);
    run_tasks(gate_task, a, hit * (a->intermediate / W), 1, threads);
    run_tasks(down_task, a, panels, 1, threads);
    return 0;
}

#endif
