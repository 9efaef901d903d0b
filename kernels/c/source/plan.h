/* How a step's attention is cut into tasks, once for all of its layers. */
#include "prefill.h"

static struct attention_plan measure_plan(const struct attention_arguments *a) {
    struct attention_plan plan = {0};
    for (int64_t chunk = 0; chunk < a->decodes; chunk++) {
        int64_t splits = divide_up(a->kv_lengths[chunk], SPLIT);
        plan.decode_tasks += splits;
        if (splits > 1) plan.partials += splits;
    }
    for (int64_t chunk = a->decodes; chunk < a->chunks; chunk++)
        plan.prefill_tasks +=
            divide_up(a->q_starts[chunk + 1] - a->q_starts[chunk], tokens_of_task(a));
    /* Heads lie together, and are computed so where there are tasks enough for all threads. */
    int64_t wanted = plan.decode_tasks > 0 ? divide_up(4 * a->threads, plan.decode_tasks) : 1;
    plan.parts = a->threads > 1 ? smaller_of(wanted, a->kv_heads) : 1;
    int64_t tasks = plan.prefill_tasks + plan.decode_tasks;
    plan.tasks_at = round_up(sizeof plan, LINE);
    plan.finished_at =
        plan.tasks_at + round_up(tasks * (int64_t)sizeof(struct attention_task), LINE);
    plan.partials_at = plan.finished_at + round_up(4 * a->decodes * a->kv_heads, LINE);
    plan.bytes = plan.partials_at + 4 * plan.partials * a->heads * decode_layout_of(a).stride;
    return plan;
}

/* Prompts come first, and of each the last tokens, which see most: whoever is idle at the end has
 * little to wait for. */
static struct attention_task *cut_prompts(const struct attention_arguments *a,
                                          struct attention_task *task) {
    int32_t most = (int32_t)tokens_of_task(a);
    for (int32_t chunk = (int32_t)a->decodes; chunk < a->chunks; chunk++) {
        int32_t count = (int32_t)(a->q_starts[chunk + 1] - a->q_starts[chunk]);
        for (int32_t past = count; past > 0; past -= most)
            *task++ = (struct attention_task){chunk, past > most ? past - most : 0, past, -1};
    }
    return task;
}

static void cut_decodes(const struct attention_arguments *a, struct attention_task *task) {
    int32_t partial = 0;
    for (int32_t chunk = 0; chunk < a->decodes; chunk++) {
        int32_t length = (int32_t)a->kv_lengths[chunk];
        for (int32_t first = 0; first < length; first += SPLIT) {
            int32_t past = length - first < SPLIT ? length : first + SPLIT;
            *task++ = (struct attention_task){chunk, first, past, length > SPLIT ? partial++ : -1};
        }
    }
}

TAKES(plan_attention, struct attention_arguments);
/* Returns the bytes that the workspace has to have, and fills it, if it is given; -1 where it is
 * too small. */
EXPORTED int64_t AT_LEVEL(plan_attention)(const struct attention_arguments *a) {
    struct attention_plan plan = measure_plan(a);
    if (a->workspace == NULL) return plan.bytes;
    if (a->workspace_bytes < plan.bytes) return -1;
    memcpy(a->workspace, &plan, sizeof plan);
    memset(a->workspace + plan.finished_at, 0, (size_t)(plan.partials_at - plan.finished_at));
    cut_decodes(a, cut_prompts(a, tasks_of(a)));
    return plan.bytes;
}

static void run_attention_task(const void *arguments, int64_t number) {
    const struct attention_arguments *a = arguments;
    const struct attention_plan *plan = (const struct attention_plan *)a->workspace;
    int64_t prefills = plan->prefill_tasks * a->kv_heads;
    if (number < prefills)
        run_prefill(a, tasks_of(a) + number / a->kv_heads, number % a->kv_heads);
    else
        run_decode(a, (number - prefills) / plan->parts, (number - prefills) % plan->parts);
}

TAKES(attention, struct attention_arguments);
EXPORTED int64_t AT_LEVEL(attention)(const struct attention_arguments *a) {
    const struct attention_plan *plan = (const struct attention_plan *)a->workspace;
    int64_t tasks = plan->prefill_tasks * a->kv_heads + plan->decode_tasks * plan->parts;
    run_tasks(run_attention_task, a, tasks, 1, a->threads);
    return 0;
}
