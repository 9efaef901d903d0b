/* Weights of bfloat16, laid out as products read them; see tiles.h.
 *
 * A pair of inputs stays together, so what is moved are words of 32 bits. Whoever loads a model
 * waits for this: each weight is read once and written once, a cache line at a time. */
#pragma once

#include "tiles.h"

struct panel_arguments {
    int64_t threads;
    const char *weight; /* [matrices, outputs, inputs] bfloat16, an even number of inputs */
    int64_t matrices, outputs, inputs;
    int64_t gated; /* whether a panel gets W of the first half of the outputs, gates, and the W ups
                    * of the second half that belong to them */
    char *panels;  /* [matrices, panels, inputs / 2, PANEL, 2]; panels filled up with zeros */
};

/* What lies in one cache line of an output's weights. */
enum { WORDS = 64 / 4 };

INLINE int64_t panels_in(const struct panel_arguments *a) {
    return panels_of(a->gated ? a->outputs / 2 : a->outputs, a->gated);
}

/* The output that has a lane of a panel, or -1. */
INLINE int64_t output_at(const struct panel_arguments *a, int64_t panel, int64_t lane) {
    if (!a->gated) return panel * PANEL + lane < a->outputs ? panel * PANEL + lane : -1;
    int64_t gates = a->outputs / 2, gate = panel * W + lane % W;
    if (gate >= gates) return -1;
    return lane < W ? gate : gates + gate;
}

static void pack_panel(const void *arguments, int64_t task) {
    static const uint32_t zeros[WORDS];
    const struct panel_arguments *a = arguments;
    int64_t panels = panels_in(a), panel = task % panels, pairs = a->inputs / 2;
    const char *weight = a->weight + task / panels * a->outputs * a->inputs * 2;
    char *to = a->panels + task * pairs * (PANEL * 4);
    const char *rows[PANEL];
    for (int64_t lane = 0; lane < PANEL; lane++) {
        int64_t output = output_at(a, panel, lane);
        rows[lane] = output < 0 ? NULL : weight + output * pairs * 4;
    }
    for (int64_t pair = 0; pair < pairs; pair += WORDS) {
        int64_t words = pairs - pair < WORDS ? pairs - pair : WORDS;
        for (int64_t lane = 0; lane < PANEL; lane++) {
            const char *from = rows[lane] == NULL ? (const char *)zeros : rows[lane] + 4 * pair;
            for (int64_t word = 0; word < words; word++)
                memcpy(to + ((pair + word) * PANEL + lane) * 4, from + 4 * word, 4);
        }
    }
}

TAKES(pack_panels, struct panel_arguments);
EXPORTED int64_t AT_LEVEL(pack_panels)(const struct panel_arguments *a) {
    run_tasks(pack_panel, a, a->matrices * panels_in(a), 1, a->threads);
    return 0;
}
