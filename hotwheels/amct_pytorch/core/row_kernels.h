/* Functions on one row, of kernels.c and weight_kernels.c. */

#ifndef AMCT_ROW_KERNELS_H
#define AMCT_ROW_KERNELS_H

#include "kernels.h"

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

#endif
