/* Mixture of experts with weights of 8 or 4 bits: each token's rows go through its experts only.
 *
 * Tokens are sorted by expert, so that an expert's weights are read once for all of its tokens.
 * Products are those of a quantised linear layer for each expert; what an expert gives is added up in
 * the order of experts, so a token's results do not depend on what else is in the step. */
#pragma once

#include "products.h"
#include "routing.h"

enum { HALF_STRIP = STRIP / 2 };

/* Of all experts, one after the other, each as pack_weights made it. */
struct expert_weights {
    const uint8_t *packed;
    const char *scales;
};

struct quantised_experts_arguments {
    int64_t dtype, threads;
    const char *x; /* [tokens, hidden] */
    char *out;     /* like x */
    int64_t hidden, intermediate;
    struct routing routing;
    const char *router;            /* [experts, hidden], of x's dtype */
    struct expert_weights gate_up; /* a strip has sixteen gates and the ups that belong to them */
    struct expert_weights down;
    int64_t bits, digits; /* as for a product */
    /* Scratch, rows as in `routing`. */
    float *gated;      /* [rows, intermediate filled up to whole strips] */
    float *sums;       /* [strips of hidden, tokens, STRIP] */
    char *codes;       /* of rows of x */
    char *gated_codes; /* of rows of `gated` */
};

INLINE int64_t gate_strips(const struct quantised_experts_arguments *a) {
    return (a->intermediate + HALF_STRIP - 1) / HALF_STRIP;
}

INLINE int64_t gated_stride(const struct quantised_experts_arguments *a) {
    return gate_strips(a) * HALF_STRIP;
}

INLINE int64_t down_strips(const struct quantised_experts_arguments *a) {
    return (a->hidden + STRIP - 1) / STRIP;
}

/* Rows of so many inputs and what they become, without weights. */
INLINE struct product_arguments rows_of_codes(const struct quantised_experts_arguments *a,
                                              int64_t inputs, char *codes) {
    return (struct product_arguments){
        .inputs = inputs, .bits = a->bits, .digits = a->digits, .workspace = codes};
}

/* One expert's product of its own rows. */
struct expert_product {
    struct product_arguments product;
    const struct quantised_experts_arguments *layer;
    int64_t row; /* its first */
};

INLINE struct expert_product product_of(const struct quantised_experts_arguments *a,
                                        int64_t expert, struct product_arguments rows,
                                        const struct expert_weights *weights, int64_t strips) {
    const int64_t *starts = a->routing.starts;
    int64_t padded = padded_inputs(rows.inputs), bits = a->bits;
    int64_t scales = bits == 8 ? 4 * STRIP : padded / GROUP * 2 * STRIP;
    rows.tokens = starts[expert + 1] - starts[expert];
    rows.workspace += starts[expert] * bytes_per_token(&rows);
    rows.packed = weights->packed + expert * strips * STRIP * padded * bits / 8;
    rows.scales = weights->scales + expert * strips * scales;
    return (struct expert_product){rows, a, starts[expert]};
}

enum { SCORED_TOGETHER = 4 };

/* The scores of some experts for one token, whose products are `logits` [SCORED_TOGETHER]. */
INLINE void score_some(const struct quantised_experts_arguments *a, const char *x, int64_t expert,
                       float *logits, enum dtype type) {
    const char *weights[SCORED_TOGETHER];
    vf sums[SCORED_TOGETHER];
    for (int64_t i = 0; i < SCORED_TOGETHER; i++) {
        int64_t own = expert + i < a->routing.experts ? expert + i : expert;
        weights[i] = a->router + own * a->hidden * bytes_of(type);
        sums[i] = (vf){0};
    }
    for (int64_t input = 0; input < a->hidden; input += W) {
        vf inputs = load_within(x, input, a->hidden, type);
#pragma GCC unroll 4
        for (int64_t i = 0; i < SCORED_TOGETHER; i++)
            sums[i] += inputs * load_within(weights[i], input, a->hidden, type);
    }
    for (int64_t i = 0; i < SCORED_TOGETHER; i++) logits[i] = sum_of(sums[i]);
}

INLINE void route_typed(const struct quantised_experts_arguments *a, int64_t token,
                        enum dtype type) {
    int64_t experts = a->routing.experts;
    float logits[(experts + W - 1) / W * W];
    for (int64_t expert = 0; expert < experts; expert += SCORED_TOGETHER)
        score_some(a, a->x + token * a->hidden * bytes_of(type), expert, logits + expert, type);
    for (int64_t i = 0; i < experts; i += W) {
        char rounded[4 * W];
        store(rounded, 0, load_within(logits, i, experts, F32), type);
        store_within(logits, i, experts, load(rounded, 0, type), F32);
    }
    choose_experts(&a->routing, token, logits);
}

static void route_quantised_task(const void *arguments, int64_t token) {
    const struct quantised_experts_arguments *a = arguments;
    BY_TYPE(route_typed, a->dtype, a, token);
}

/* A token's codes serve all of its rows. */
static void quantise_rows_task(const void *arguments, int64_t token) {
    const struct quantised_experts_arguments *a = arguments;
    const int64_t *rows_of = a->routing.rows_of + token * a->routing.top_k;
    struct product_arguments rows = rows_of_codes(a, a->hidden, a->codes);
    rows.dtype = a->dtype;
    rows.x = a->x + token * a->hidden * bytes_of((enum dtype)a->dtype);
    rows.workspace = codes_of(&rows, rows_of[0]);
    quantise_token(&rows, 0);
    for (int64_t i = 1; i < a->routing.top_k; i++)
        memcpy(a->codes + rows_of[i] * bytes_per_token(&rows), rows.workspace,
               (size_t)bytes_per_token(&rows));
}

static void finish_gates(const struct product_arguments *product, int64_t token, int64_t strip,
                         const float *totals) {
    const struct expert_product *own = (const struct expert_product *)product;
    const struct quantised_experts_arguments *a = own->layer;
    float *gated = a->gated + (own->row + token) * gated_stride(a) + strip * HALF_STRIP;
    for (int64_t lane = 0; lane < HALF_STRIP; lane += W) {
        vf gate = scaled_total(product, strip, lane, totals);
        vf up = scaled_total(product, strip, lane + HALF_STRIP, totals);
        store(gated, lane, gated_of(gate, up), F32);
    }
}

/* One expert's gates and ups of one strip, for all of its rows. */
static void gate_quantised_task(const void *arguments, int64_t task) {
    const struct quantised_experts_arguments *a = arguments;
    int64_t strips = gate_strips(a), expert = a->routing.hit[task / strips];
    struct product_arguments rows = rows_of_codes(a, a->hidden, a->codes);
    struct expert_product own = product_of(a, expert, rows, &a->gate_up, strips);
    multiply_strip(&own.product, task % strips, finish_gates);
}

static void finish_down(const struct product_arguments *product, int64_t token, int64_t strip,
                        const float *totals) {
    const struct expert_product *own = (const struct expert_product *)product;
    const struct routing *r = &own->layer->routing;
    int64_t row = own->row + token;
    float *sums = own->layer->sums + (strip * r->tokens + r->tokens_of[row]) * STRIP;
    for (int64_t lane = 0; lane < STRIP; lane += W) {
        vf weighted = scaled_total(product, strip, lane, totals) * r->weights_of[row];
        store(sums, lane, load(sums, lane, F32) + weighted, F32);
    }
}

/* One strip of the outputs, for all rows of all experts. */
static void down_quantised_task(const void *arguments, int64_t strip) {
    const struct quantised_experts_arguments *a = arguments;
    const struct routing *r = &a->routing;
    struct product_arguments rows = rows_of_codes(a, a->intermediate, a->gated_codes);
    float *sums = a->sums + strip * r->tokens * STRIP;
    memset(sums, 0, (size_t)(r->tokens * STRIP) * sizeof *sums);
    for (int64_t expert = 0; expert < r->experts; expert++) {
        struct expert_product own = product_of(a, expert, rows, &a->down, down_strips(a));
        if (own.product.tokens > 0) multiply_strip(&own.product, strip, finish_down);
    }
    for (int64_t token = 0; token < r->tokens; token++) {
        char *out = a->out + token * a->hidden * bytes_of((enum dtype)a->dtype);
        for (int64_t lane = 0; lane < STRIP && strip * STRIP + lane < a->hidden; lane += W) {
            vf sum = load(sums + token * STRIP, lane, F32);
            BY_TYPE(store_within, a->dtype, out, strip * STRIP + lane, a->hidden, sum);
        }
    }
}

TAKES(quantised_experts, struct quantised_experts_arguments);
EXPORTED int64_t AT_LEVEL(quantised_experts)(const struct quantised_experts_arguments *a) {
    const struct routing *r = &a->routing;
    int64_t tokens = r->tokens, rows = tokens * r->top_k, products = rows * a->hidden;
    run_rows(route_quantised_task, a, tokens, a->hidden * r->experts, a->threads);
    int64_t hit = sort_rows(r);
    run_rows(quantise_rows_task, a, tokens, a->hidden, a->threads);
    /* An expert's rows are few even where tokens are many. */
    run_strips(gate_quantised_task, a, hit * gate_strips(a), hit > 0 ? rows / hit : 0,
               2 * products * a->intermediate, a->threads);
    struct product_arguments gated = rows_of_codes(a, a->intermediate, a->gated_codes);
    gated.dtype = F32;
    gated.x = (const char *)a->gated;
    gated.token_stride = gated_stride(a);
    run_rows(quantise_token, &gated, rows, a->intermediate, a->threads);
    run_strips(down_quantised_task, a, down_strips(a), hit > 0 ? rows / hit : 0,
               products * a->intermediate, a->threads);
    return 0;
}
