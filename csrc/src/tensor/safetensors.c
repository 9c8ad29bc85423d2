/* safetensors.c -- see dynamo/safetensors.h for the contract. jansson reads the JSON; names and texts point into its objects. */
#include <jansson.h>

#include "common/common.h"
#include "dynamo/safetensors.h"

struct dyn_safetensors {
    json_t *root;
    size_t count, pairs;
    dyn_safetensor *tensors;
    int64_t *dims;
    const char **texts; /* key, value, key, value ... */
};

void dyn_safetensors_free(dyn_safetensors *self)
{
    if (self == NULL) return;
    json_decref(self->root);
    dyn__free(self->tensors);
    dyn__free(self->dims);
    dyn__free(self->texts);
    dyn__free(self);
}

size_t dyn_safetensors_count(const dyn_safetensors *self)
{
    return self->count;
}

const dyn_safetensor *dyn_safetensors_at(const dyn_safetensors *self, size_t at)
{
    return &self->tensors[at];
}

bool dyn_safetensors_metadata(const dyn_safetensors *self, size_t at, const char **key, const char **value)
{
    if (at >= self->pairs) return false;
    *key = self->texts[2 * at];
    *value = self->texts[2 * at + 1];
    return true;
}

static int read_metadata(dyn_safetensors *self, json_t *object)
{
    const char *key;
    json_t *value;
    if (object == NULL) return DYN_OK;
    if (!json_is_object(object)) return dyn__fail(DYN_EPROTO, "__metadata__ is no object");
    self->texts = dyn__malloc(2 * json_object_size(object) * sizeof(*self->texts));
    if (self->texts == NULL) return DYN_ENOMEM;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value)) return dyn__fail(DYN_EPROTO, "__metadata__ \"%.100s\" is no text", key);
        self->texts[2 * self->pairs] = key;
        self->texts[2 * self->pairs++ + 1] = json_string_value(value);
    }
    return DYN_OK;
}

static int dtype_called(const char *name)
{
    for (int code = 1; code < DYN_DTYPE_COUNT; code++)
        if (strcmp(dyn_dtype(code)->safetensors, name) == 0) return code;
    return 0;
}

static bool place_of(json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* dims  room for the sizes of this tensor, whose number is known. */
static int read_tensor(const char *name, json_t *entry, uint64_t data, int64_t *dims, dyn_safetensor *out)
{
    json_t *shape = json_object_get(entry, "shape"), *places = json_object_get(entry, "data_offsets");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    uint64_t bytes, begin, end;
    if (type == NULL || !json_is_array(shape) || !json_is_array(places) || json_array_size(places) != 2 ||
        json_object_size(entry) != 3)
        return dyn__fail(DYN_EPROTO, "tensor \"%.100s\": must have dtype, shape and two data_offsets", name);
    out->name = name;
    out->ndim = (int32_t)json_array_size(shape);
    out->shape = dims;
    if ((out->dtype = dtype_called(type)) == 0)
        return dyn__fail(DYN_ENOTSUP, "tensor \"%.100s\": element type \"%.20s\" is not known here", name, type);
    for (int i = 0; i < out->ndim; i++) {
        json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size)) return dyn__fail(DYN_EPROTO, "tensor \"%.100s\": size %d is no integer", name, i);
        dims[i] = json_integer_value(size);
    }
    int rc = dyn_tensor_measure(out->dtype, out->ndim, dims, NULL, &bytes);
    if (rc < 0) return rc;
    if (!place_of(json_array_get(places, 0), &begin) || !place_of(json_array_get(places, 1), &end) || end < begin ||
        end - begin != bytes)
        return dyn__fail(DYN_EPROTO, "tensor \"%.100s\": its data_offsets do not span the %llu bytes of its shape",
                         name, (unsigned long long)bytes);
    if (end > (uint64_t)INT64_MAX - data)
        return dyn__fail(DYN_ERANGE, "tensor \"%.100s\": its place does not fit", name);
    out->begin = data + begin;
    out->end = data + end;
    return DYN_OK;
}

static int by_place(const void *a, const void *b)
{
    const dyn_safetensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end; /* empty ones first */
}

static int read_all(dyn_safetensors *self, uint64_t data, uint64_t file_size)
{
    const char *name;
    json_t *entry;
    size_t dims = 0;
    int rc = read_metadata(self, json_object_get(self->root, "__metadata__"));
    if (rc < 0) return rc;
    json_object_foreach(self->root, name, entry)
    {
        size_t ndim = json_array_size(json_object_get(entry, "shape"));
        if (ndim > DYN_TENSOR_MAX_DIMS)
            return dyn__fail(DYN_EPROTO, "tensor \"%.100s\": %zu dimensions, at most %d", name, ndim,
                             DYN_TENSOR_MAX_DIMS);
        dims += ndim;
    }
    self->tensors = dyn__calloc(json_object_size(self->root), sizeof(*self->tensors));
    self->dims = dyn__malloc(dims * sizeof(*self->dims));
    if (self->tensors == NULL || self->dims == NULL) return DYN_ENOMEM;
    dims = 0;
    json_object_foreach(self->root, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        if ((rc = read_tensor(name, entry, data, self->dims + dims, &self->tensors[self->count])) < 0) return rc;
        dims += (size_t)self->tensors[self->count++].ndim;
    }
    if (self->count > 0) qsort(self->tensors, self->count, sizeof(*self->tensors), by_place);
    uint64_t at = data;
    for (size_t i = 0; i < self->count; i++) {
        if (self->tensors[i].begin != at)
            return dyn__fail(DYN_EPROTO, "tensor \"%.100s\" begins at byte %llu, and what is before it ends at %llu",
                             self->tensors[i].name, (unsigned long long)self->tensors[i].begin, (unsigned long long)at);
        at = self->tensors[i].end;
    }
    if (at != file_size)
        return dyn__fail(DYN_EPROTO, "the tensors end at byte %llu, the file at %llu", (unsigned long long)at,
                         (unsigned long long)file_size);
    return DYN_OK;
}

int dyn_safetensors_read(const uint8_t *bytes, size_t size, uint64_t file_size, dyn_safetensors **out)
{
    uint64_t head;
    json_error_t error;
    if (size < 8)
        return dyn__fail(DYN_EPROTO, "a file of %zu bytes: safetensors begin with 8 for the size of the head", size);
    memcpy(&head, bytes, 8); /* little-endian, as this machine is */
    if (head > DYN_SAFETENSORS_MAX_HEAD)
        return dyn__fail(DYN_ELIMIT, "a head of %llu bytes: at most %llu are read", (unsigned long long)head,
                         (unsigned long long)DYN_SAFETENSORS_MAX_HEAD);
    if (head > size - 8)
        return dyn__fail(DYN_EPROTO, "a head of %llu bytes in a file of %llu", (unsigned long long)head,
                         (unsigned long long)file_size);
    dyn_safetensors *self = dyn__calloc(1, sizeof(*self));
    if (self == NULL) return DYN_ENOMEM;
    int rc;
    self->root = json_loadb((const char *)bytes + 8, (size_t)head, JSON_REJECT_DUPLICATES, &error);
    if (self->root == NULL)
        rc = dyn__fail(DYN_EPROTO, "the head is no JSON: %.120s at byte %d", error.text, error.position);
    else if (!json_is_object(self->root))
        rc = dyn__fail(DYN_EPROTO, "the head is no JSON object");
    else
        rc = read_all(self, 8 + head, file_size);
    if (rc < 0)
        dyn_safetensors_free(self);
    else
        *out = self;
    return rc;
}
