/* Frames from anyone: read them all, then every reader on every frame; what is valid is written again and must be the
 * same bytes when its varints were minimal. */
#include "common/common.h"
#include "dynamo/wire.h"

static volatile size_t sink;

static void eat(dyn_slice slice)
{
    for (size_t i = 0; i < slice.size; i++) sink += slice.data[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_frame frame;
    size_t used;
    while (dyn_frame_read(data, size, 1 << 16, &frame, &used) == DYN_OK) {
        if (used > size || frame.body + frame.size != data + used) abort();
        dyn_pair headers[DYN_WIRE_MAX_HEADERS];
        dyn_request_frame request;
        dyn_error_frame error;
        uint64_t number;
        dyn_slice rest = {frame.body, frame.size}, item;
        eat(rest);
        if (dyn_request_read(&frame, headers, &request) == DYN_OK) {
            eat(request.path), eat(request.payload);
            for (size_t i = 0; i < request.header_count; i++) eat(headers[i].key), eat(headers[i].value);
            dyn_bytes out = {0};
            dyn_frame again;
            size_t end;
            dyn_pair headers_again[DYN_WIRE_MAX_HEADERS];
            dyn_request_frame request_again;
            if (dyn_request_write(&out, frame.stream, &request) < 0) abort();
            if (dyn_frame_read(out.data, out.size, SIZE_MAX, &again, &end) != DYN_OK || end != out.size) abort();
            if (dyn_request_read(&again, headers_again, &request_again) != DYN_OK) abort();
            if (request_again.payload.size != request.payload.size || request_again.window != request.window) abort();
            dyn_bytes_free(&out);
        }
        if (dyn_error_read(&frame, &error) == DYN_OK) eat(error.type), eat(error.text), eat(error.trace);
        dyn_credit_read(&frame, &number);
        dyn_hello_read(&frame, &number);
        bool valid = dyn_items_valid(rest);
        while (dyn_items_next(&rest, &item)) eat(item);
        if (valid != (frame.size > 0 && rest.size == 0)) abort();
        data += used, size -= used;
    }
    return 0;
}
