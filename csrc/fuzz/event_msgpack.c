/* event_msgpack.c -- any bytes into the readers of engine batches and of the event plane. */
#include "common/common.h"
#include "dynamo/events.h"
#include "events/plane.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int look(void *user, const dyn_event *event)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < event->count; i++) {
        sum += event->block_hashes[i];
        if (event->kind == DYN_EVENT_STORED) sum += event->tokens_hashes[i];
    }
    *(volatile uint64_t *)user = sum;
    return DYN_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_event_decoder *decoder;
    dyn_event event = {0};
    struct dyn__envelope envelope;
    dyn_load load;
    uint64_t sum;
    uint8_t *exact = malloc(size ? size : 1); /* no byte behind it */
    memcpy(exact, data, size);
    dyn_log_set_level(DYN_LOG_OFF);
    if (dyn_event_decoder_new(&decoder, 2) < 0) abort();
    dyn_event_decode(decoder, exact, size, 0, look, &sum);
    dyn_event_decode(decoder, exact, size, 0, look, &sum); /* what the first left behind */
    dyn_event_decoder_free(decoder);
    dyn__plane_events(exact, size, &event, look, &sum);
    dyn__plane_load(exact, size, &load);
    if (dyn__plane_open(exact, size, &envelope) == DYN_OK) {
        dyn__plane_events(envelope.payload, envelope.size, &event, look, &sum);
        dyn__plane_load(envelope.payload, envelope.size, &load);
    }
    dyn_event_reset(&event);
    free(exact);
    return 0;
}
