/* A token from anyone: read, written again as the bytes it was read from (but for unknown flags), and every cut of it refused. */
#include "common/common.h"
#include "dynamo/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dyn_token token, again;
    size_t used, encoded, end;
    if (dyn_token_decode(data, size, &token, &used) < 0) return 0;
    if (used > size || dyn_token_encoded_size(&token, &encoded) < 0 || encoded != used) abort();
    uint8_t *out = malloc(used);
    if (dyn_token_encode(&token, out) != out + used) abort();
    if (memcmp(out, data, 8) != 0 || out[8] != (data[8] & 7) || memcmp(out + 9, data + 9, used - 9) != 0) abort();
    for (size_t cut = 0; cut < used; cut += 1 + cut / 16)
        if (dyn_token_decode(out, cut, &again, NULL) != DYN_ETRUNC) abort();
    if (dyn_token_decode(out, used, &again, &end) < 0 || end != used || again.text_size != token.text_size) abort();
    free(out);
    return 0;
}
