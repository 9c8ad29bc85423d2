/* event_json.c -- any bytes into the JSON reader; what it accepts must survive a round trip. */
#include "common/common.h"
#include "dynamo/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_event event = {0}, again = {0};
    char *exact = malloc(size ? size : 1); /* no byte behind it */
    memcpy(exact, data, size);
    for (int form = DYN_EVENT_INNER; form <= DYN_EVENT_ROUTER; form++) {
        if (dyn_event_read_json(&event, form, exact, size) < 0) continue;
        char *text = malloc(dyn_event_json_bound(&event));
        size_t n = dyn_event_write_json(&event, form, text);
        if (n > dyn_event_json_bound(&event) || dyn_event_read_json(&again, form, text, n) < 0) abort();
        if (again.count != event.count || again.kind != event.kind || again.event_id != event.event_id ||
            again.dp_rank != event.dp_rank || again.tier != event.tier || again.has_parent != event.has_parent ||
            again.parent != event.parent) {
            abort();
        }
        if (event.count > 0 && memcmp(again.block_hashes, event.block_hashes, event.count * 8) != 0) abort();
        free(text);
    }
    dyn_event_reset(&event);
    dyn_event_reset(&again);
    free(exact);
    return 0;
}
