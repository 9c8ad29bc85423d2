/* test.h -- the whole test harness of csrc: CHECK, and a list of functions.
 *
 *   static void what_holds(void) { CHECK_EQ(f(), 3); }
 *   TEST_MAIN(TEST(what_holds), TEST(what_else_holds))
 *
 * EACH_ALLOCATION_FAILS runs its body with the 1st, then the 2nd ... allocation failing, until the body
 * gets through; the body leaves its status in `rc`:
 *
 *   EACH_ALLOCATION_FAILS { rc = dyn_thing_new(&thing); if (rc == DYN_OK) dyn_thing_free(thing); }
 */
#ifndef DYN_TEST_H
#define DYN_TEST_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/common.h"

static int test_failures;

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            test_failures++;                                                          \
        }                                                                             \
    } while (0)
#define CHECK_EQ(got, want)                                                                           \
    do {                                                                                              \
        long long got_ = (long long)(got), want_ = (long long)(want);                                 \
        if (got_ != want_) {                                                                          \
            fprintf(stderr, "%s:%d: %s is %lld, want %lld\n", __FILE__, __LINE__, #got, got_, want_); \
            test_failures++;                                                                          \
        }                                                                                             \
    } while (0)
#define CHECK_STR(got, want)                                                                                      \
    do {                                                                                                          \
        const char *got_ = (got), *want_ = (want);                                                                \
        if (got_ == NULL || strcmp(got_, want_) != 0) {                                                           \
            fprintf(stderr, "%s:%d: %s is \"%s\", want \"%s\"\n", __FILE__, __LINE__, #got, got_ ? got_ : "NULL", \
                    want_);                                                                                       \
            test_failures++;                                                                                      \
        }                                                                                                         \
    } while (0)
#define EACH_ALLOCATION_FAILS \
    for (int rc = DYN_ENOMEM, nth_ = 0; rc == DYN_ENOMEM && (dyn__fail_after = nth_, 1); dyn__fail_after = -1, nth_++)

struct test {
    const char *name;
    void (*run)(void);
};
#define TEST(function) {#function, function}
/* argv[1], when given, runs the tests whose name contains it. */
#define TEST_MAIN(...)                                                                     \
    int main(int argc, char **argv)                                                        \
    {                                                                                      \
        static const struct test tests[] = {__VA_ARGS__};                                  \
        int ran = 0;                                                                       \
        for (size_t i = 0; i < DYN__COUNT(tests); i++) {                                   \
            if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL) continue;              \
            int before = test_failures;                                                    \
            tests[i].run();                                                                \
            dyn__fail_after = -1;                                                          \
            if (test_failures != before) fprintf(stderr, "FAILED %s\n", tests[i].name);    \
            ran++;                                                                         \
        }                                                                                  \
        const char *file = strrchr(__FILE__, '/') ? strrchr(__FILE__, '/') + 1 : __FILE__; \
        printf("%-20s %d tests, %d failed checks\n", file, ran, test_failures);            \
        return test_failures != 0 || ran == 0;                                             \
    }
#endif
