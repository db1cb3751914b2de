/* Folds a BatchNorm into a weight and rounds the result, with its bias, in one pass over the memory. See kernels.c for the
 * rules of rounding; core/folded_rounding.py calls this function. */

#include "row_kernels.h"

/* gamma / deviation of each channel; 1 without a norm (deviation is NULL). */
FOR_EACH_CPU
static void channel_factors(const float *deviation, const float *gamma, float *factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        factor[i] = deviation ? (gamma ? gamma[i] : 1.0f) / deviation[i] : 1.0f;
}

/* The largest absolute value of a row times its factor; NaN if a value or a product is not finite. The rounded products
 * of the extremes are the extremes of the rounded products. */
static float peak_of(const float *x, int64_t size, float factor)
{
    bounds_t found = extremes(x, size);
    float low = fabsf(found.low * factor), high = fabsf(found.high * factor);
    return low <= FLT_MAX && high <= FLT_MAX ? (low > high ? low : high) : NAN;
}

/* The scale 1 / (1 / max(peak / end, least)), a fixed point of double reciprocation. */
static float scale_of(float peak, float end, float least)
{
    float scale = peak / end;
    scale = scale < least ? least : scale; /* NaN stays */
    return 1.0f / (1.0f / scale);
}

/* Folds a BatchNorm with constant statistics into a weight and bias and rounds both to their grids, as LayerWeight does
 * with torch: the grid ends at the largest absolute weight of a row or, without each_row, of all rows.
 *
 * deviation is sqrt(var + eps), from torch, whose square root need not be the nearest number; NULL without a norm.
 * gamma, beta and bias may be NULL. vectors has four rows of `rows` elements: the factors,
 * the folded bias, the scales (one without each_row) and the rounded bias. data_scale is the scale of the layer's
 * input. A scale is at least `least`, or `least_for_large` if an absolute bias exceeds large_bias.
 *
 * Returns 0; or 1 if the caller has to compute the result, because a scale is not finite, or the bias needs a larger
 * scale to fit into int32. */
int amct_round_folded(const float *x, float *out, int64_t rows, int64_t size, const float *deviation,
                      const float *gamma, const float *mean, const float *beta, const float *bias, float *vectors,
                      double data_scale, int each_row, float end, float least, float least_for_large, float large_bias)
{
    float *factor = vectors, *folded = factor + rows, *scale = folded + rows, *rounded = scale + rows;
    int has_bias = deviation || bias, is_unusual = 0;
    channel_factors(deviation, gamma, factor, rows);
    for (int64_t i = 0; has_bias && i < rows; i++) {
        float start = bias ? bias[i] : 0.0f;
        folded[i] = deviation ? (bias ? start - mean[i] : -mean[i]) * factor[i] + (beta ? beta[i] : 0.0f) : start;
        least = fabsf(folded[i]) > large_bias ? least_for_large : least;
    }
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++) {
        float peak = peak_of(x + row * size, size, factor[row]);
        scale[row] = each_row ? scale_of(peak, end, least) : peak;
        if (each_row)
            unfold_row(x + row * size, out + row * size, size, factor[row], 1.0f, scale[row], end);
    }
    if (!each_row) {
        float peak = scale[0];
        for (int64_t row = 1; row < rows; row++)
            peak = scale[row] > peak || scale[row] != scale[row] ? scale[row] : peak;
        float one = scale_of(peak, end, least);
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
        for (int64_t row = 0; row < rows; row++)
            unfold_row(x + row * size, out + row * size, size, factor[row], 1.0f, one, end);
        for (int64_t row = 0; row < rows; row++)
            scale[row] = one;
    }
    for (int64_t i = 0; i < rows; i++) {
        is_unusual |= !(scale[i] <= FLT_MAX);
        if (has_bias) {
            double step = data_scale * (double)scale[i];
            is_unusual |= !(fabs((double)folded[i]) / ((double)INT32_MAX * data_scale) <= (double)scale[i]);
            rounded[i] = (float)rint((double)folded[i] / step) * ((float)data_scale * scale[i]);
        }
    }
    return is_unusual;
}
