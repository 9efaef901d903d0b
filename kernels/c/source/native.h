/* What all sources share: types of numbers, how functions are named, and the threads.
 *
 * A body (rows.h, ...) is compiled once for each level of instructions: portable.c, avx2.c,
 * avx512.c, avx512_vnni.c and avx512_bf16.c define LEVEL and include the BODY that setup.py names. A
 * function `name` of a body is exported as `name_LEVEL` and takes one pointer to a structure of
 * 8-byte fields. */
#pragma once

#include <stdint.h>

_Static_assert(sizeof(void *) == 8, "structures are packed by the caller as 8-byte fields");

#define INLINE static inline __attribute__((always_inline))
#define EXPORTED __attribute__((visibility("default")))
#define JOIN_NAMES(name, level) name##_##level
#define NAME_AT(name, level) JOIN_NAMES(name, level)
#define AT_LEVEL(name) NAME_AT(name, LEVEL)

/* Lets the caller see that both mean the same structure. */
#define TAKES(name, type) EXPORTED const int64_t AT_LEVEL(name##_size) = sizeof(type)

/* How many of `left` to take next, at most `most`, so that all turns take about as many. */
INLINE int64_t evenly(int64_t left, int64_t most) {
    int64_t turns = (left + most - 1) / most;
    return (left + turns - 1) / turns;
}

enum dtype { F32 = 0, BF16 = 1, F16 = 2, I8 = 3 };

/* Runs `work(arguments, i)` for every i < tasks, on up to `threads` threads, each of which takes
 * `grain` tasks at a time. Returns when all are done. A task runs no tasks of its own. */
typedef void (*task_function)(const void *arguments, int64_t task);
void run_tasks(task_function work, const void *arguments, int64_t tasks, int64_t grain,
               int64_t threads);

/* The same over rows of `elements` numbers each: alone where they are few. */
void run_rows(task_function work, const void *arguments, int64_t rows, int64_t elements,
              int64_t threads);

/* How many tasks of `tasks` to take at a time where each waits for weights that lie behind those of
 * the one before: they are fetched ahead of their use. One, where there are not many. */
int64_t neighbours(int64_t tasks, int64_t threads);

/* `threads` for so much work, or one where it is less than what waking another is worth. */
int64_t threads_worth(int64_t work, int64_t least, int64_t threads);

/* Runs `function(argument)` on the caller's thread, with others awake for the tasks that it runs. */
void run_in_team(void (*function)(void *), void *argument, int64_t threads);
