/* How tokens choose their experts, and are sorted by them.
 *
 * What a token chooses depends on its own scores alone. */
#pragma once

#include "vectors.h"

struct routing {
    int64_t tokens, experts, top_k, renormalise;
    /* Scratch. Rows are pairs of a token and one of its experts, sorted by expert. */
    float *weights;     /* [tokens, top_k] */
    int64_t *chosen;    /* [tokens, top_k] */
    int64_t *starts;    /* [experts + 1]: an expert's first row */
    int64_t *hit;       /* [experts]: those that have rows */
    int64_t *rows_of;   /* [tokens, top_k] */
    int64_t *tokens_of; /* [rows] */
    float *weights_of;  /* [rows] */
};

/* Scores are rounded as a product's results are: `logits` [experts], which become powers. */
static void choose_experts(const struct routing *r, int64_t token, float *logits) {
    float *weights = r->weights + token * r->top_k;
    int64_t *chosen = r->chosen + token * r->top_k;
    float largest = 0, all = 0, some = 0;
    for (int64_t expert = 0; expert < r->experts; expert++)
        if (expert == 0 || logits[expert] > largest) largest = logits[expert];
    for (int64_t i = 0; i < r->experts; i += W) {
        /* Lanes past the last expert may lie anywhere. */
        vf below = load_within(logits, i, r->experts, F32) - largest;
        vf powers = exponential(choose(below > 0, splat(0), below));
        store_within(logits, i, r->experts, powers, F32);
    }
    for (int64_t expert = 0; expert < r->experts; expert++) all += logits[expert];
    for (int64_t place = 0; place < r->top_k; place++) {
        int64_t best = -1;
        for (int64_t expert = 0; expert < r->experts; expert++) {
            int taken = 0;
            for (int64_t before = 0; before < place; before++) taken |= chosen[before] == expert;
            if (!taken && (best < 0 || logits[expert] > logits[best])) best = expert;
        }
        chosen[place] = best;
        weights[place] = logits[best];
        some += logits[best];
    }
    float total = r->renormalise ? some : all;
    for (int64_t place = 0; place < r->top_k; place++) weights[place] /= total;
}

/* Sort (token, expert) pairs by expert; returns how many experts are hit. */
static int64_t sort_rows(const struct routing *r) {
    int64_t rows = r->tokens * r->top_k, hit = 0;
    memset(r->starts, 0, (size_t)(r->experts + 1) * sizeof *r->starts);
    for (int64_t i = 0; i < rows; i++) r->starts[r->chosen[i] + 1]++;
    for (int64_t expert = 0; expert < r->experts; expert++) {
        if (r->starts[expert + 1] > 0) r->hit[hit++] = expert;
        r->starts[expert + 1] += r->starts[expert];
    }
    int64_t next[r->experts];
    memcpy(next, r->starts, sizeof next);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = next[r->chosen[i]]++;
        r->rows_of[i] = row;
        r->tokens_of[row] = i / r->top_k;
        r->weights_of[row] = r->weights[i];
    }
    return hit;
}
