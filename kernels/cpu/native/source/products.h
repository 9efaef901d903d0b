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

static void multiply_task(const void *arguments, int64_t strip) {
    const struct product_arguments *a = arguments;
    if (a->bits == 4)
        multiply_strip(a, strip, 4, 2);
    else if (a->digits == 2)
        multiply_strip(a, strip, 8, 2);
    else
        multiply_strip(a, strip, 8, 1);
}

/* Fewer products than this are computed before a second thread has woken. */
enum { ALONE_BYTE_PRODUCTS = 1 << 19 };
/* Where few tokens wait for weights, a thread takes strips that lie together, as they are fetched
 * ahead of their use. */
enum { TOKENS_THAT_WAIT = 16, STRIPS_TOGETHER = 4, TASKS_PER_THREAD = 16 };

TAKES(multiply_quantised, struct product_arguments);
/* Returns the bytes that the workspace has to have; multiplies, if it is given. */
EXPORTED int64_t AT_LEVEL(multiply_quantised)(const struct product_arguments *a) {
    if (a->workspace == NULL) return a->tokens * bytes_per_token(a);
    int64_t strips = (a->outputs + STRIP - 1) / STRIP;
    int64_t products = a->tokens * a->inputs * a->outputs;
    int64_t few = a->tokens <= TOKENS_THAT_WAIT;
    int64_t many = strips >= STRIPS_TOGETHER * TASKS_PER_THREAD * a->threads;
    run_rows(quantise_token, a, a->tokens, a->inputs, a->threads);
    run_tasks(multiply_task, a, strips, few && many ? STRIPS_TOGETHER : 1,
              threads_worth(products, ALONE_BYTE_PRODUCTS, a->threads));
    return 0;
}
