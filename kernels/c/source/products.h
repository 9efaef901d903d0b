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

/* All tokens with one strip. Not inline: what comes of the sums is computed by one code only. */
static __attribute__((noinline)) void multiply_strip(const struct product_arguments *a,
                                                     int64_t strip, finish_function finish) {
    if (a->bits == 4)
        multiply_typed(a, strip, finish, 4, 2);
    else if (DIGITS_OF(a) == 2)
        multiply_typed(a, strip, finish, 8, 2);
    else
        multiply_typed(a, strip, finish, 8, 1);
}

static void multiply_task(const void *arguments, int64_t strip) {
    multiply_strip(arguments, strip, finish_linear);
}

/* Fewer products than this are computed before a second thread has woken. */
enum { ALONE_BYTE_PRODUCTS = 1 << 19 };
/* So few tokens wait for weights. */
enum { WAITING_TOKENS = 16 };

/* Runs `work` for strips, for so many products of so many tokens. */
INLINE void run_strips(task_function work, const void *arguments, int64_t strips, int64_t tokens,
                       int64_t products, int64_t threads) {
    run_tasks(work, arguments, strips, tokens <= WAITING_TOKENS ? neighbours(strips, threads) : 1,
              threads_worth(products, ALONE_BYTE_PRODUCTS, threads));
}

TAKES(multiply_quantised, struct product_arguments);
/* Returns the bytes that the workspace has to have; multiplies, if it is given. */
EXPORTED int64_t AT_LEVEL(multiply_quantised)(const struct product_arguments *a) {
    if (a->workspace == NULL) return a->tokens * bytes_per_token(a);
    if (a->tokens == 0) return 0;
    int64_t strips = (a->outputs + STRIP - 1) / STRIP;
    int64_t products = a->tokens * a->inputs * a->outputs;
    run_rows(quantise_token, a, a->tokens, a->inputs, a->threads);
    run_strips(multiply_task, a, strips, a->tokens, products, a->threads);
    return 0;
}
