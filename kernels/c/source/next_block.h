/* The rows of a prompt's block of keys, which are fetched while the one before is computed with.
 * Where pairs of bfloat16 are multiplied that has not been measured, and is not done. */
#include "decode.h"

enum { KEYS = 64 };

struct next_block {
#if !defined(HAS_BF16)
    int64_t offsets[KEYS];
    struct ahead keys, values;
#endif
};

INLINE void find_next(const struct attention_arguments *a, struct next_block *next,
                      const int32_t *slots, int64_t count, int64_t head, enum dtype type) {
#if defined(HAS_BF16)
    (void)a, (void)next, (void)slots, (void)count, (void)head, (void)type;
#else
    int64_t size = bytes_of(type), bytes = count > 0 ? a->head_dim * size : 0;
    for (int64_t k = 0; k < KEYS && count > 0; k++)
        next->offsets[k] = slots[smaller_of(k, count - 1)] * a->slot_stride * size;
    next->keys = (struct ahead){cache_of(a->k, head, a, type), next->offsets, bytes};
    next->values = (struct ahead){cache_of(a->v, head, a, type), next->offsets, bytes};
#endif
}

INLINE void fetch_next(const struct next_block *next, int64_t first, int64_t past) {
#if defined(HAS_BF16)
    (void)next, (void)first, (void)past;
#else
    for (int64_t k = first; k < past; k++) {
        fetch(next->keys, k);
        fetch(next->values, k);
    }
#endif
}
