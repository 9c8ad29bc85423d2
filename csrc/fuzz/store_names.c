/* store_names.c -- file names of a shared folder and keys of callers: any bytes. */
#include <stdio.h>

#include "discovery/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[DYN_KEY_MAX + 1], rest[DYN_KEY_MAX + 1], key[DYN_KEY_MAX + 16], *prefix = NULL;
    char *text = malloc(size + 1); /* exactly as long, so that a step over the end is seen */
    size_t bucket = 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (dyn__name_decode(text, rest)) { /* name and key determine each other */
        if (!dyn__name_encode(rest, name) || strcmp(name, text) != 0) abort();
        snprintf(key, sizeof(key), "v1/mdc/%s", rest);
        if (dyn__key_check(key, &bucket) != DYN_OK || bucket != 6) abort();
        if (strstr(key, "/../") != NULL || key[strlen(key) - 1] == '/') abort();
    }
    if (dyn__key_check(text, &bucket) == DYN_OK) {
        if (bucket < 3 || text[bucket] != '/' || text[0] == '.') abort();
        if (!dyn__name_encode(text + bucket + 1, name) || strchr(name, '/') != NULL || name[0] == '.') abort();
        if (!dyn__name_decode(name, rest) || strcmp(rest, text + bucket + 1) != 0) abort();
    }
    if (dyn__prefix_check(text, &prefix, &bucket) == DYN_OK) {
        if (prefix[bucket] != '/') abort();
        dyn__free(prefix);
    }
    free(text);
    return 0;
}
