/* Functions on one row, of kernels.c and weight_kernels.c. */

#ifndef AMCT_ROW_KERNELS_H
#define AMCT_ROW_KERNELS_H

#include "kernels.h"

typedef struct {
    float low, high;
} bounds_t;

static inline float unfolded(float x, float factor, float inverse, float step, float end)
{
    float q = rintf(x * factor / step);
    q = q < -1 - end ? -1 - end : q;
    q = q > end ? end : q;
    return q * step * inverse;
}

FOR_EACH_CPU
static void unfold_row(const float *x, float *out, int64_t count, float factor, float inverse, float step, float end)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = unfolded(x[i], factor, inverse, step, end);
}

/* Smallest and largest of the values; both are NaN if a value is NaN. */
FOR_EACH_CPU
static bounds_t extremes(const float *x, int64_t count)
{
    float low = INFINITY, high = -INFINITY;
    int has_nan = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : has_nan)
    for (int64_t i = 0; i < count; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        has_nan |= x[i] != x[i];
    }
    return has_nan ? (bounds_t){NAN, NAN} : (bounds_t){low, high};
}

#endif
