/* timing.c -- see dynamo/mocker.h for the contract. */
#include "common/common.h"
#include "dynamo/mocker.h"

struct polynomial {
    double square, linear, constant;
};
static const struct {
    struct polynomial prefill, decode;
} fits[] = {
    [DYN_MOCKER_2025] = {{1.25e-6, 7.41e-2, 26.2}, {-5.47, 43.88, 19.44}},
    [DYN_MOCKER_2026] = {{4.209989e-07, 1.518344e-02, 16.50142}, {-25.74, 54.01, 5.74}},
};

static double at(const struct polynomial *fit, double x)
{
    return (fit->square * x + fit->linear) * x + fit->constant;
}

double dyn_mocker_prefill_ms(enum dyn_mocker_timing timing, size_t new_tokens)
{
    return new_tokens == 0 ? 0.0 : at(&fits[timing].prefill, (double)new_tokens);
}

double dyn_mocker_decode_ms(enum dyn_mocker_timing timing, double active_fraction)
{
    double ms = at(&fits[timing].decode, active_fraction);
    return ms < 1.0 ? 1.0 : ms;
}
