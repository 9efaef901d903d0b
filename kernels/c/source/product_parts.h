/* What all products of whole numbers share: where weights and scales lie, and how sums end. */
#pragma once

#include "activations.h"

INLINE const uint8_t *strip_of(const struct product_arguments *a, int64_t strip) {
    return a->packed + strip * STRIP * padded_inputs(a->inputs) * a->bits / 8;
}

/* Scales of a strip's outputs from `lane` on: of 4 bits for one group, of 8 for all inputs. */
INLINE vf scales_of(const struct product_arguments *a, int64_t strip, int64_t group, int64_t lane,
                    const int64_t bits) {
    if (bits == 8) return load(a->scales, strip * STRIP + lane, F32);
    int64_t groups = padded_inputs(a->inputs) / GROUP;
    return load(a->scales, (strip * groups + group) * STRIP + lane, BF16);
}

/* Takes the sums of one token's products with a strip, of 8 bits before their outputs' scales. */
typedef void (*finish_function)(const struct product_arguments *a, int64_t token, int64_t strip,
                                const float *totals);

INLINE vf scaled_total(const struct product_arguments *a, int64_t strip, int64_t lane,
                       const float *totals) {
    vf total = load(totals, lane, F32);
    return a->bits == 8 ? total * scales_of(a, strip, 0, lane, 8) : total;
}

/* Scale rows, add the bias and round: a strip's outputs of one token, `totals` their sums. */
static void finish_linear(const struct product_arguments *a, int64_t token, int64_t strip,
                          const float *totals) {
    char *out = a->out + token * a->outputs * bytes_of((enum dtype)a->dtype);
    for (int64_t lane = 0; lane < STRIP; lane += W) {
        int64_t output = strip * STRIP + lane;
        if (output >= a->outputs) return;
        vf sum = scaled_total(a, strip, lane, totals);
        if (a->bias != NULL) sum += load_within(a->bias, output, a->outputs, F32);
        BY_TYPE(store_within, a->dtype, out, output, a->outputs, sum);
    }
}
