/* What all products of whole numbers share: where weights and scales lie, and how sums end. */
#pragma once

#include "activations.h"

INLINE const uint8_t *block_of_weights(const struct product_arguments *a, int64_t block) {
    return a->packed + block * OUTPUTS * padded_inputs(a->inputs) * a->bits / 8;
}

/* Scales of 16 outputs: of 4 bits for one group, of 8 for the row. */
INLINE vf scales_of(const struct product_arguments *a, int64_t block, int64_t group, int64_t lane,
                    const int64_t bits) {
    if (bits == 8) return load(a->scales, block * OUTPUTS + lane, F32);
    int64_t groups = padded_inputs(a->inputs) / GROUP;
    return load(a->scales, (block * groups + group) * OUTPUTS + lane, BF16);
}

/* Scale rows, add the bias and round: 16 outputs of one token, `totals` their sums. */
INLINE void finish(const struct product_arguments *a, int64_t token, int64_t block,
                   const float *totals) {
    for (int64_t lane = 0; lane < OUTPUTS; lane += W) {
        int64_t output = block * OUTPUTS + lane;
        if (output >= a->outputs) return;
        vf sum = load(totals, lane, F32);
        if (a->bits == 8) sum *= scales_of(a, block, 0, lane, 8);
        if (a->bias != NULL) sum += load_within(a->bias, output, a->outputs, F32);
        char *out = a->out + token * a->outputs * bytes_of((enum dtype)a->dtype);
        BY_TYPE(store_within, a->dtype, out, output, a->outputs, sum);
    }
}
