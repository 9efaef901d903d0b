/* Many calls as one: what a step computes is taken down once, and run without coming back. */
#include "native.h"

/* Before each call's arguments, which are a structure as the function takes it. */
struct call {
    int64_t (*function)(const void *arguments);
    int64_t bytes; /* of the arguments */
};

struct calls_arguments {
    int64_t threads;
    const char *calls; /* one after the other */
    int64_t bytes;
};

struct progress {
    const struct calls_arguments *calls;
    int64_t number, refused;
};

static void run_in_order(void *pointer) {
    struct progress *progress = pointer;
    const char *next = progress->calls->calls, *past = next + progress->calls->bytes;
    while (next < past) {
        const struct call *call = (const struct call *)next;
        progress->refused = call->function(next + sizeof *call) < 0;
        if (progress->refused) return;
        next += sizeof *call + call->bytes;
        progress->number++;
    }
}

EXPORTED const int64_t call_size = sizeof(struct call);
EXPORTED const int64_t run_calls_size = sizeof(struct calls_arguments);
/* Returns -1, or the number of the call that refused its arguments; those after it did not run. */
EXPORTED int64_t run_calls(const struct calls_arguments *a) {
    struct progress progress = {a, 0, 0};
    run_in_team(run_in_order, &progress, a->threads);
    return progress.refused ? progress.number : -1;
}
