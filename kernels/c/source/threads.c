/* Work is shared out over the threads that torch has already: its OpenMP's own entry is called, so
 * that no second pool of threads competes for the cores.
 *
 * Many functions in a row are run by a team: threads that are woken once, and wait for the next
 * function's tasks where they can see them. */
#include "native.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

typedef void (*parallel_function)(void (*)(void *), void *, unsigned, unsigned);

/* Set once when the library is loaded; without it everything runs on the caller's thread. */
static parallel_function parallel = NULL;

EXPORTED void set_parallel(parallel_function function) { parallel = function; }

/* Waking a thread costs some 10 us, in which one thread gets through about so many numbers. */
enum { ALONE_ELEMENTS = 1 << 17, GRAIN_ELEMENTS = 1 << 14 };
/* A team's threads see work in a fraction of that. */
enum { AWAKE = 16 };
/* Tasks taken at a time where they lie together, if every thread has so many turns. */
enum { NEIGHBOURS = 4, TURNS = 2 };
/* How often to look before others may have the core. */
enum { LOOKS = 2000 };

struct shared_work {
    task_function work;
    const void *arguments;
    int64_t tasks, grain;
    _Atomic int64_t next;
};

struct team {
    void (*function)(void *);
    void *argument;
    struct shared_work *work;
    int64_t works;
    _Atomic int64_t open;   /* the number of the work that there is, 0 for none */
    _Atomic int64_t inside; /* threads that may be at it, besides the leader */
    _Atomic int ended;
};

/* The team that this thread leads. */
static _Thread_local struct team *led = NULL;

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

static void look_again(int64_t *looks) {
    if (++*looks % LOOKS == 0) sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* No work waits for a thread that has not come: the leader does it alone. */
static void help(struct team *team) {
    int64_t done = 0, looks = 0;
    while (!atomic_load_explicit(&team->ended, memory_order_acquire)) {
        int64_t seen = atomic_load_explicit(&team->open, memory_order_relaxed);
        if (seen == 0 || seen == done) {
            look_again(&looks);
            continue;
        }
        /* Either the leader sees this thread inside, or this thread sees the work closed. */
        atomic_fetch_add(&team->inside, 1);
        seen = atomic_load(&team->open);
        if (seen != 0) {
            take_tasks(team->work);
            done = seen;
        }
        atomic_fetch_sub(&team->inside, 1);
    }
}

static void lead(struct team *team, struct shared_work *work) {
    int64_t looks = 0;
    team->work = work;
    atomic_store(&team->open, ++team->works);
    take_tasks(work);
    atomic_store(&team->open, 0);
    while (atomic_load(&team->inside) != 0) look_again(&looks);
}

static void join_team(void *pointer) {
    struct team *team = pointer;
    if (led != team) {
        help(team);
        return;
    }
    team->function(team->argument);
    atomic_store_explicit(&team->ended, 1, memory_order_release);
}

void run_in_team(void (*function)(void *), void *argument, int64_t threads) {
    struct team team = {.function = function, .argument = argument};
    if (threads > 1 && parallel != NULL && led == NULL) {
        led = &team;
        parallel(join_team, &team, (unsigned)threads, 0);
        led = NULL;
    } else {
        function(argument);
    }
}

int64_t threads_worth(int64_t work, int64_t least, int64_t threads) {
    return work < (led == NULL ? least : least / AWAKE) ? 1 : threads;
}

void run_tasks(task_function work, const void *arguments, int64_t tasks, int64_t grain,
               int64_t threads) {
    struct shared_work shared = {work, arguments, tasks, grain, 0};
    if (threads <= 1 || tasks <= grain || parallel == NULL)
        take_tasks(&shared);
    else if (led != NULL)
        lead(led, &shared);
    else
        /* Always torch's own number: for another, OpenMP would end threads and start them anew. */
        parallel(take_tasks, &shared, (unsigned)threads, 0);
}

int64_t neighbours(int64_t tasks, int64_t threads) {
    return tasks >= NEIGHBOURS * TURNS * threads ? NEIGHBOURS : 1;
}

void run_rows(task_function work, const void *arguments, int64_t rows, int64_t elements,
              int64_t threads) {
    int64_t grain = elements < GRAIN_ELEMENTS ? GRAIN_ELEMENTS / (elements > 0 ? elements : 1) : 1;
    run_tasks(work, arguments, rows, grain, threads_worth(rows * elements, ALONE_ELEMENTS, threads));
}
