/* Heads of safetensors files from anyone: what is accepted covers the file without gaps and in its bounds. */
#include "dynamo/safetensors.h"
#include "common/common.h"

static volatile size_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_safetensors *head;
    const char *key, *value;
    /* The input is the JSON and then elements: the fuzzer need not guess sizes. The first byte says how many elements. */
    if (size < 1) return 0;
    size_t elements = data[0], json = size - 1;
    uint8_t *file = dyn__malloc(8 + json + elements);
    uint64_t stated = json;
    memcpy(file, &stated, 8);
    memcpy(file + 8, data + 1, json);
    memset(file + 8 + json, 0, elements);
    size_t whole = 8 + json + elements;
    if (dyn_safetensors_read(file, whole, whole, &head) == DYN_OK) {
        uint64_t at = 8 + json, bytes;
        for (size_t i = 0; i < dyn_safetensors_count(head); i++) {
            const dyn_safetensor *t = dyn_safetensors_at(head, i);
            if (t->begin != at || t->end < at || t->end > whole) abort();
            if (dyn_tensor_measure(t->dtype, t->ndim, t->shape, NULL, &bytes) < 0 || bytes != t->end - t->begin)
                abort();
            at = t->end;
            sink += strlen(t->name);
        }
        if (at != whole) abort();
        for (size_t i = 0; dyn_safetensors_metadata(head, i, &key, &value); i++) sink += strlen(key) + strlen(value);
        dyn_safetensors_free(head);
    }
    if (dyn_safetensors_read(data, size, size, &head) == DYN_OK) dyn_safetensors_free(head); /* any size of the head */
    dyn__free(file);
    return 0;
}
