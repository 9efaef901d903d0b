/* Work is shared out over the threads that torch has already: its OpenMP's own entry is called, so
 * that no second pool of threads competes for the cores. */
#include "native.h"

#include <stdatomic.h>
#include <stddef.h>

typedef void (*parallel_function)(void (*)(void *), void *, unsigned, unsigned);

/* Set once when the library is loaded; without it everything runs on the caller's thread. */
static parallel_function parallel = NULL;

EXPORTED void set_parallel(parallel_function function) { parallel = function; }

/* Waking a thread costs some 10 us, in which one thread gets through about so many numbers. */
enum { ALONE_ELEMENTS = 1 << 17, GRAIN_ELEMENTS = 1 << 14 };

struct shared_work {
    task_function work;
    const void *arguments;
    int64_t tasks, grain;
    _Atomic int64_t next;
};

static void take_tasks(void *pointer) {
    struct shared_work *shared = pointer;
    for (;;) {
        int64_t first = atomic_fetch_add_explicit(&shared->next, shared->grain,
                                                  memory_order_relaxed);
        if (first >= shared->tasks) return;
        int64_t past = first + shared->grain;
        if (past > shared->tasks) past = shared->tasks;
        for (int64_t task = first; task < past; task++) shared->work(shared->arguments, task);
    }
}

void run_tasks(task_function work, const void *arguments, int64_t tasks, int64_t grain,
               int64_t threads) {
    struct shared_work shared = {work, arguments, tasks, grain, 0};
    /* Always torch's own number: for another, OpenMP would end threads and start them anew. */
    if (threads > 1 && tasks > grain && parallel != NULL)
        parallel(take_tasks, &shared, (unsigned)threads, 0);
    else
        take_tasks(&shared);
}

void run_rows(task_function work, const void *arguments, int64_t rows, int64_t elements,
              int64_t threads) {
    int64_t grain = elements < GRAIN_ELEMENTS ? GRAIN_ELEMENTS / (elements > 0 ? elements : 1) : 1;
    run_tasks(work, arguments, rows, grain, rows * elements < ALONE_ELEMENTS ? 1 : threads);
}

/* The highest level that this processor and its system support; see levels in library.py. */
EXPORTED int64_t best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 1;
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") ? 3 : 2;
#else
    return 0;
#endif
}
