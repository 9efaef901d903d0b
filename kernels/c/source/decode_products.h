/* The products of decodes: a group's queries with keys, and weights with values, in registers. Here
 * is what those of floats and those of pairs of bfloat16 share; a level has one of the two. */
#include "attention.h"

/* As many queries at once as registers hold sums of. */
enum { TILE = 32, QUERIES_AT_ONCE = 5 };

/* Whether a lane multiplies two bfloat16 at once, of keys and of values. */
#if defined(HAS_BF16)
#define PAIRED(type) ((type) == BF16)
#else
#define PAIRED(type) 0
#endif

/* So many dimensions are multiplied at a time; rows of other lengths get zeros after their last. */
enum { STEP = 2 * W };

/* What is known of one query so far, in floats: sums of values, W sums of weights, the largest
 * score. Sums may lie in the order in which their products come, see `in_order`. */
struct decode_layout {
    int64_t group, padded, maximum, stride;
};

INLINE struct decode_layout decode_layout_of(const struct attention_arguments *a) {
    int64_t padded = round_up(a->head_dim, STEP);
    return (struct decode_layout){a->heads / a->kv_heads, padded, padded + W, padded + 2 * W};
}

/* A range of a sequence's positions, or of a chunk's tokens. */
struct attention_task {
    int32_t chunk, first, past, partial; /* partial: its place in the workspace, -1 for none */
};

/* Where the rows of a tile begin, in bytes after those of slot 0; the last one's repeated to its
 * end. */
INLINE void find_rows(const struct attention_arguments *a, const int32_t *slots, int64_t count,
                      int64_t *offsets, enum dtype type) {
    for (int64_t t = 0; t < TILE; t++)
        offsets[t] = slots[t < count ? t : count - 1] * a->slot_stride * bytes_of(type);
}

INLINE const char *cache_of(const char *cache, int64_t head, const struct attention_arguments *a,
                            enum dtype type) {
    return cache + head * a->head_stride * bytes_of(type);
}

/* Rows to be fetched while others are computed with, one by one: many at once would only wait. */
struct ahead {
    const char *from;
    const int64_t *offsets;
    int64_t bytes;
};

INLINE void fetch(struct ahead ahead, int64_t row) {
    for (int64_t i = 0; i < ahead.bytes; i += LINE)
        __builtin_prefetch(ahead.from + ahead.offsets[row] + i, 0, 3);
}

INLINE float scale_of(const char *scales, int64_t slot, int64_t head,
                      const struct attention_arguments *a) {
    int64_t at = slot * a->scale_slot_stride + head * a->scale_head_stride;
#if defined(HAS_BF16)
    return load_some(scales, at, 1, F16)[0];
#else
    /* Not through memory, where a wide load would wait for the narrow store before it. */
    uint16_t half;
    memcpy(&half, scales + 2 * at, sizeof half);
    vh halves = {half};
    return load(&halves, 0, F16)[0];
#endif
}

#if defined(HAS_BF16)
#include "decode_pairs.h"
#else
#include "decode_floats.h"
#endif
