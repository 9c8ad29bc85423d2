/* Varints from anyone; and the number that the first 8 bytes are, there and back, with every cut of it. */
#include "common/common.h"
#include "dynamo/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t value = 0, back;
    uint8_t bytes[DYN_WIRE_VARINT_MAX];
    size_t n = dyn_varint_read(data, size, &value);
    if (n > size || n > DYN_WIRE_VARINT_MAX) abort();
    if (n > 0) {
        size_t again = dyn_varint_write(bytes, value);
        if (again > n || dyn_varint_read(bytes, again, &back) != again || back != value) abort();
    } else if (size < DYN_WIRE_VARINT_MAX) {
        for (size_t i = 0; i < size; i++)
            if (data[i] < 0x80) abort(); /* it had an end */
    }
    if (size < 8) return 0;
    memcpy(&value, data, 8);
    n = dyn_varint_write(bytes, value);
    if (dyn_varint_read(bytes, n, &back) != n || back != value) abort();
    for (size_t cut = 0; cut < n; cut++)
        if (dyn_varint_read(bytes, cut, &back) != 0) abort();
    return 0;
}
