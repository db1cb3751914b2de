/* Integers of real_quant: from accumulators to the grid of the next layer, each in one pass over the memory.
 *
 * core/requantize.py has the formulas. Every function rounds, multiplies and divides in the types and in the order of
 * the torch calls there, so the results are equal bit for bit. Accumulators are never NaN.
 */

#include "kernels.h"

/* clamp(rint(real / scale), low, high) of a real value that is first clamped to [bottom, top]. */
static inline float on_grid(double real, double bottom, double top, double scale, float low, float high)
{
    real = real < bottom ? bottom : real;
    real = real > top ? top : real;
    float q = (float)rint(real / scale);
    q = q < low ? low : q;
    return q > high ? high : q;
}

/* The kernels of one row, for accumulators of one type. */
#define REQUANTIZE_ROW(name, type)                                                                                     \
    FOR_EACH_CPU                                                                                                       \
    static void name(const type *acc, float *out, int64_t columns, const float *factor, float low, float high)         \
    {                                                                                                                  \
        for (int64_t c = 0; c < columns; c++) {                                                                        \
            float q = rintf((float)acc[c] * factor[c]);                                                                \
            q = q < low ? low : q;                                                                                     \
            out[c] = q > high ? high : q;                                                                              \
        }                                                                                                              \
    }

#define REQUANTIZE_REALS(name, type)                                                                                   \
    FOR_EACH_CPU                                                                                                       \
    static void name(const type *acc, float *out, int64_t columns, const double *step, const double *bias,            \
                     double bottom, double top, double scale, float low, float high)                                   \
    {                                                                                                                  \
        for (int64_t c = 0; c < columns; c++) {                                                                        \
            double real = acc[c] * step[c] + bias[c];                                                                  \
            out[c] = on_grid(real, bottom, top, scale, low, high);                                                     \
        }                                                                                                              \
    }

REQUANTIZE_ROW(requantize_row, float)
REQUANTIZE_ROW(requantize_wide_row, double)
REQUANTIZE_REALS(requantize_reals, float)
REQUANTIZE_REALS(requantize_wide_reals, double)

/* out = clamp(rint((float)acc * factor), low, high) of rows of accumulators, float or double, with a factor for each
 * column. No accumulator is NaN. */
void amct_requantize(const void *acc, int is_double, float *out, int64_t rows, int64_t columns, const float *factor,
                     float low, float high)
{
#pragma omp parallel for schedule(static) if (rows * columns > BLOCK)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * columns;
        if (is_double)
            requantize_wide_row((const double *)acc + at, out + at, columns, factor, low, high);
        else
            requantize_row((const float *)acc + at, out + at, columns, factor, low, high);
    }
}

/* out = clamp(rint(real / scale), low, high) with real = acc * step + bias, in double, clamped to [bottom, top]. Rows and
 * columns are those of amct_requantize. */
void amct_requantize_affine(const void *acc, int is_double, float *out, int64_t rows, int64_t columns,
                            const double *step, const double *bias, double bottom, double top, double scale, float low,
                            float high)
{
#pragma omp parallel for schedule(static) if (rows * columns > BLOCK)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * columns;
        if (is_double)
            requantize_wide_reals((const double *)acc + at, out + at, columns, step, bias, bottom, top, scale, low, high);
        else
            requantize_reals((const float *)acc + at, out + at, columns, step, bias, bottom, top, scale, low, high);
    }
}

FOR_EACH_CPU
static void requantize_total(const float *a, double step_a, const float *b, double step_b, float *out, int64_t count,
                             double bottom, double top, double scale, float low, float high)
{
    for (int64_t i = 0; i < count; i++) {
        double real = a[i] * step_a + b[i] * step_b;
        out[i] = on_grid(real, bottom, top, scale, low, high);
    }
}

/* The same with real = a * step_a + b * step_b. */
void amct_requantize_total(const float *a, double step_a, const float *b, double step_b, float *out, int64_t count,
                           double bottom, double top, double scale, float low, float high)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK)
        requantize_total(a + at, step_a, b + at, step_b, out + at, smaller(BLOCK, count - at), bottom, top, scale, low,
                         high);
}

FOR_EACH_CPU
static void requantize_product(const float *a, double step_a, const float *b, double step_b, float *out, int64_t count,
                               double scale, float low, float high)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = on_grid(a[i] * step_a * (b[i] * step_b), -INFINITY, INFINITY, scale, low, high);
}

FOR_EACH_CPU
static void requantize_multiple(const float *a, double step_a, double factor, float *out, int64_t count, double scale,
                                float low, float high)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = on_grid(a[i] * step_a * factor, -INFINITY, INFINITY, scale, low, high);
}

/* out = clamp(rint(a * step_a * (b * step_b) / scale), low, high) of a [blocks, rows, columns]; b is [blocks, columns],
 * one value for each row and column if is_row is 0: [blocks, rows]. */
void amct_requantize_product(const float *a, double step_a, const float *b, double step_b, float *out, int64_t blocks,
                             int64_t rows, int64_t columns, int is_row, double scale, float low, float high)
{
#pragma omp parallel for schedule(static) if (blocks * rows * columns > BLOCK)
    for (int64_t row = 0; row < blocks * rows; row++) {
        int64_t at = row * columns;
        if (is_row)
            requantize_product(a + at, step_a, b + row / rows * columns, step_b, out + at, columns, scale, low, high);
        else
            requantize_multiple(a + at, step_a, b[row] * step_b, out + at, columns, scale, low, high);
    }
}

FOR_EACH_CPU
static void look_up(const float *x, float *out, int64_t count, const float *table, int32_t size, float first)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t at = (int32_t)(x[i] - first);
        at = at < 0 ? 0 : at;
        out[i] = table[at < size ? at : size - 1];
    }
}

/* out = table[x - first] of integers x in [first, first + size). */
void amct_look_up(const float *x, float *out, int64_t count, const float *table, int32_t size, float first)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK)
        look_up(x + at, out + at, smaller(BLOCK, count - at), table, size, first);
}

FOR_EACH_CPU
static void to_bytes(const float *x, uint8_t *out, int64_t count, float zero)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (uint8_t)(int32_t)(x[i] + zero);
}

/* out = x + zero, integers in [0, 255]. */
void amct_to_bytes(const float *x, uint8_t *out, int64_t count, float zero)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK)
        to_bytes(x + at, out + at, smaller(BLOCK, count - at), zero);
}

FOR_EACH_CPU
static void row_sums(const int8_t *x, int64_t count, int64_t *positive, int64_t *negative)
{
    int64_t up = 0, down = 0;
    for (int64_t at = 0; at < count; at += BLOCK) {
        int32_t total = 0, magnitude = 0; /* BLOCK * 128 fits */
        int64_t end = smaller(at + BLOCK, count);
        for (int64_t i = at; i < end; i++) {
            total += x[i];
            magnitude += x[i] < 0 ? -x[i] : x[i];
        }
        up += (magnitude + total) / 2;
        down += (magnitude - total) / 2;
    }
    *positive = up;
    *negative = down;
}

/* The sums of the positive and of the negated negative integers of each row. */
void amct_row_sums(const int8_t *x, int64_t rows, int64_t size, int64_t *positive, int64_t *negative)
{
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++)
        row_sums(x + row * size, size, positive + row, negative + row);
}
