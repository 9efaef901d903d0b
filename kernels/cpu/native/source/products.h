/* Products of activations and weights that are both whole numbers.
 *
 * Sums over a block of inputs are exact, and scaled blocks are added in the order of inputs: an
 * output is the same whatever other tokens are multiplied with it. */
#pragma once

#if defined(HAS_VNNI)
#include "byte_products.h"
#else
#include "pair_products.h"
#endif

static void multiply_task(const void *arguments, int64_t pair) {
    const struct product_arguments *a = arguments;
    if (a->bits == 4)
        multiply_blocks(a, pair, 4, 2);
    else if (a->digits == 2)
        multiply_blocks(a, pair, 8, 2);
    else
        multiply_blocks(a, pair, 8, 1);
}

/* Fewer products than this are computed before a second thread has woken. */
enum { ALONE_BYTE_PRODUCTS = 1 << 19 };

TAKES(multiply_quantised, struct product_arguments);
/* Returns the bytes that the workspace has to have; multiplies, if it is given. */
EXPORTED int64_t AT_LEVEL(multiply_quantised)(const struct product_arguments *a) {
    if (a->workspace == NULL) return a->tokens * bytes_per_token(a);
    int64_t pairs = (a->outputs + 2 * OUTPUTS - 1) / (2 * OUTPUTS);
    int64_t products = a->tokens * a->inputs * a->outputs;
    run_rows(quantise_token, a, a->tokens, a->inputs, a->threads);
    run_tasks(multiply_task, a, pairs, 1, products < ALONE_BYTE_PRODUCTS ? 1 : a->threads);
    return 0;
}
