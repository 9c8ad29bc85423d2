/* bench_mocker.c -- what simulating costs: steps, tokens and blocks a second of real time. */
#include <stdio.h>

#include "common/common.h"
#include "dynamo/mocker.h"

enum { REQUESTS = 2000, PROMPT = 4096, OUTPUT = 64 };
static uint32_t prompt[PROMPT];

int main(void)
{
    dyn_mocker_config config;
    dyn_mocker *mocker;
    dyn_mocker_stats stats;
    double ms;

    dyn_mocker_config_init(&config);
    if (dyn_mocker_new(&mocker, &config, NULL) < 0) return 1;
    uint64_t start = dyn_now_ns();
    for (uint64_t id = 0; id < REQUESTS; id++) {
        for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = i < PROMPT / 2 ? i : (uint32_t)id * PROMPT + i;
        if (dyn_mocker_submit(mocker, id, prompt, PROMPT, OUTPUT) < 0) return 1;
    }
    uint64_t submitted = dyn_now_ns();
    while (!dyn_mocker_idle(mocker)) dyn_mocker_step(mocker, &ms);
    double submit_s = (double)(submitted - start) / 1e9, run_s = (double)(dyn_now_ns() - submitted) / 1e9;
    dyn_mocker_get_stats(mocker, &stats);
    printf("mocker submit      %8.1f Mtok/s\n", (double)REQUESTS * PROMPT / submit_s / 1e6);
    printf("mocker step        %8.2f us, %.1f running on average\n", run_s * 1e6 / (double)stats.steps,
           (double)stats.generated_tokens / (double)stats.steps);
    printf("mocker tokens      %8.2f M/s generated, %.0f %% of prompts cached\n",
           (double)stats.generated_tokens / run_s / 1e6,
           100.0 * (double)stats.cached_tokens / (double)stats.prompt_tokens);
    dyn_mocker_free(mocker);
    return 0;
}
