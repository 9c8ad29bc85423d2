/* key.c -- keys of the store and the file names that stand for them.
 *
 *   v1/instances / ns/comp/ep/1f         bucket: two plain segments, a folder
 *   v1/instances / ns%2Fcomp%2Fep%2F1f   rest: everything but [A-Za-z0-9] as %XX, one file name
 *
 * I1  decode accepts exactly what encode makes: name and key determine each other.
 */
#include "discovery/store.h"

static bool alnum(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* The length of the UTF-8 character at p, 0 for what is not one (overlong, surrogate, beyond U+10FFFF, cut). */
static int utf8(const unsigned char *p)
{
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    int length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    for (int i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0; /* also at the closing NUL */
    if (p[0] == 0xe0 && p[1] < 0xa0) return 0;
    if (p[0] == 0xed && p[1] > 0x9f) return 0;
    if (p[0] == 0xf0 && p[1] < 0x90) return 0;
    if (p[0] == 0xf4 && p[1] > 0x8f) return 0;
    return length;
}

/* What is wrong with the part behind the bucket, NULL when nothing. A prefix may end anywhere. */
static const char *rest_fault(const char *rest, bool prefix)
{
    const unsigned char *p = (const unsigned char *)rest, *segment = p;
    for (;;) {
        if (*p == '/' || (*p == '\0' && !prefix)) {
            size_t length = (size_t)(p - segment);
            if (length == 0) return "it has an empty part between slashes";
            if (segment[0] == '.' && (length == 1 || (length == 2 && segment[1] == '.')))
                return "it has a part . or ..";
            segment = p + 1;
        }
        if (*p == '\0') return NULL;
        if (*p < 0x20 || *p == 0x7f) return "it has a control character";
        int length = utf8(p);
        if (length == 0) return "it is not UTF-8";
        p += length;
    }
}

/* The length of "a/b", 0 when the text does not begin with a bucket. */
static size_t bucket_length(const char *text)
{
    const char *p = text;
    for (int segment = 0; segment < 2; segment++) {
        const char *start = p;
        if (*p == '.') return 0; /* no "..", no hidden folder */
        while (alnum((unsigned char)*p) || *p == '.' || *p == '_' || *p == '-') p++;
        if (p == start || p - start > 100) return 0;
        if (segment == 0 && *p++ != '/') return 0;
    }
    return *p == '/' || *p == '\0' ? (size_t)(p - text) : 0;
}

int dyn__key_check(const char *key, size_t *bucket)
{
    char name[DYN_KEY_MAX + 1];
    const char *fault = "it must begin with a bucket of two parts, as v1/instances/";
    size_t length = bucket_length(key);
    if (length > 0 && key[length] == '/') {
        fault = rest_fault(key + length + 1, false);
        if (fault == NULL && !dyn__name_encode(key + length + 1, name))
            fault = "it is too long, encoded over 240 bytes";
    }
    if (fault != NULL) return dyn__fail(DYN_EINVAL, "key \"%.100s\": %s", key, fault);
    *bucket = length;
    return DYN_OK;
}

int dyn__prefix_check(const char *prefix, char **out, size_t *bucket)
{
    size_t length = bucket_length(prefix), size = strlen(prefix);
    const char *fault = NULL;
    if (length == 0)
        fault = "it must begin with a bucket of two parts, as v1/instances/";
    else if (prefix[length] == '/')
        fault = rest_fault(prefix + length + 1, true);
    if (fault == NULL && size > length + 1 + DYN_KEY_MAX) fault = "it is too long";
    if (fault != NULL) return dyn__fail(DYN_EINVAL, "prefix \"%.100s\": %s", prefix, fault);
    char *copy = dyn__malloc(size + 2);
    if (copy == NULL) return DYN_ENOMEM;
    memcpy(copy, prefix, size + 1);
    if (prefix[length] == '\0') memcpy(copy + size, "/", 2);
    *out = copy;
    *bucket = length;
    return DYN_OK;
}

bool dyn__name_encode(const char *rest, char name[DYN_KEY_MAX + 1])
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)rest; *p != '\0'; p++) {
        if (n + (alnum(*p) ? 1 : 3) > DYN_KEY_MAX) return false;
        if (alnum(*p)) {
            name[n++] = (char)*p;
        } else {
            name[n++] = '%', name[n++] = digits[*p >> 4], name[n++] = digits[*p & 15];
        }
    }
    name[n] = '\0';
    return true;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10; /* lower case is not what encode makes */
    return -1;
}

bool dyn__name_decode(const char *name, char rest[DYN_KEY_MAX + 1])
{
    size_t n = 0;
    for (const char *p = name; *p != '\0'; n++) {
        if ((size_t)(p - name) >= DYN_KEY_MAX) return false;
        if (alnum((unsigned char)*p)) {
            rest[n] = *p++;
            continue;
        }
        if (*p != '%' || digit(p[1]) < 0 || digit(p[2]) < 0) return false;
        int c = digit(p[1]) * 16 + digit(p[2]);
        if (c == 0 || alnum((unsigned char)c)) return false; /* I1 */
        rest[n] = (char)c;
        p += 3;
        if ((size_t)(p - name) > DYN_KEY_MAX) return false;
    }
    rest[n] = '\0';
    return n > 0 && rest_fault(rest, false) == NULL;
}
