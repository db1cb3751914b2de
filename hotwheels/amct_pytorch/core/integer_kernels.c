/* Integers of real_quant: from accumulators to the grid of the next layer, each in one pass over the memory.
 *
 * core/requantize.py has the formulas. Every function rounds, multiplies and divides in the types and in the order of
 * the torch calls there, so the results are equal bit for bit. Accumulators are never NaN.
 */

#include "kernels.h"

#include <stddef.h>

#define NEAR_TIE 1e-9

/* clamp(rint(real / scale), low, high) of a real value that is first clamped to [bottom, top]. `inverse` is 1 / scale.
 *
 * real * inverse differs from the rounded quotient by less than NEAR_TIE while it is below 2^21, and beyond that both
 * are clamped: low and high are below 2^18. So both round to the same integer unless a tie is near; that is added to
 * `is_near`, and the caller divides then. A division takes three times as long as all the rest. */
static inline float by_product(double real, double bottom, double top, double inverse, float low, float high,
                               int *is_near)
{
    real = real < bottom ? bottom : real;
    real = real > top ? top : real;
    double steps = real * inverse, nearest = rint(steps);
    *is_near |= fabs(fabs(steps - nearest) - 0.5) < NEAR_TIE;
    float q = (float)nearest;
    q = q < low ? low : q; /* NaN stays */
    return q > high ? high : q;
}

static inline float by_quotient(double real, double bottom, double top, double scale, float low, float high)
{
    real = real < bottom ? bottom : real;
    real = real > top ? top : real;
    float q = (float)rint(real / scale);
    q = q < low ? low : q;
    return q > high ? high : q;
}

/* The body of a kernel that rounds the double expression `real` of each element i of at most PART. */
#define ROUND_ALL(real)                                                                                                \
    double inverse = 1.0 / grid->scale;                                                                                \
    int is_near = 0;                                                                                                   \
    for (int64_t i = 0; i < count; i++)                                                                                \
        out[i] = by_product(real, grid->bottom, grid->top, inverse, grid->low, grid->high, &is_near);                  \
    for (int64_t i = 0; is_near && i < count; i++)                                                                     \
        out[i] = by_quotient(real, grid->bottom, grid->top, grid->scale, grid->low, grid->high);

/* The grid of the result, and the ends between which a value is clamped before. */
typedef struct {
    double bottom, top, scale;
    float low, high;
} grid_t;

/* Where integers go: to floats or, plus `zero`, to bytes. */
typedef struct {
    float *floats;
    uint8_t *bytes;
    float zero;
} target_t;

static target_t target_of(void *out, int is_bytes, float zero)
{
    return is_bytes ? (target_t){NULL, out, zero} : (target_t){out, NULL, 0};
}

FOR_EACH_CPU
static void to_bytes(const float *x, uint8_t *out, int64_t count, float zero)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (uint8_t)(int32_t)(x[i] + zero);
}

/* Calls `kernel`, which puts `length` floats into `to`, at most PART for each element from `start` to `end`. */
#define IN_PARTS(start, end, kernel)                                                                                   \
    for (int64_t at = (start); at < (end); at += PART) {                                                               \
        float part[PART];                                                                                              \
        int64_t length = smaller(PART, (end) - at);                                                                    \
        float *to = target.bytes ? part : target.floats + at;                                                          \
        kernel;                                                                                                        \
        if (target.bytes)                                                                                              \
            to_bytes(part, target.bytes + at, length, target.zero);                                                    \
    }

/* Returns how many columns a kernel takes at once: as many short rows as a part holds, or one long row. */
static int64_t period_of(int64_t columns) { return columns < PART ? PART / columns * columns : columns; }

/* Declares `name`, which has a value for each column of a period; those of short rows are repeated. */
#define TILED(type, name, values)                                                                                      \
    type room_of_##name[PART];                                                                                         \
    for (int64_t i = 0; columns < PART && i < period; i++)                                                             \
        room_of_##name[i] = (values)[i % columns];                                                                     \
    const type *name = columns < PART ? room_of_##name : (values);

/* The kernels of one part of a row, for accumulators of one type. */
#define REQUANTIZE_ROW(name, type)                                                                                     \
    FOR_EACH_CPU                                                                                                       \
    static void name(const type *acc, float *out, int64_t count, const float *factor, float low, float high)           \
    {                                                                                                                  \
        for (int64_t c = 0; c < count; c++) {                                                                          \
            float q = rintf((float)acc[c] * factor[c]);                                                                \
            q = q < low ? low : q;                                                                                     \
            out[c] = q > high ? high : q;                                                                              \
        }                                                                                                              \
    }

#define REQUANTIZE_REALS(name, type)                                                                                   \
    FOR_EACH_CPU                                                                                                       \
    static void name(const type *acc, float *out, int64_t count, const double *step, const double *bias,               \
                     const grid_t *grid)                                                                               \
    {                                                                                                                  \
        ROUND_ALL(acc[i] * step[i] + bias[i])                                                                          \
    }

REQUANTIZE_ROW(requantize_row, float)
REQUANTIZE_ROW(requantize_wide_row, double)
REQUANTIZE_REALS(requantize_reals, float)
REQUANTIZE_REALS(requantize_wide_reals, double)

/* out = clamp(rint((float)acc * factor), low, high) of rows of accumulators, float or double, with a factor for each
 * column. No accumulator is NaN. */
void amct_requantize(const void *acc, int is_double, void *out, int is_bytes, float zero, int64_t rows, int64_t columns,
                     const float *factor, float low, float high)
{
    target_t target = target_of(out, is_bytes, zero);
    int64_t count = rows * columns, period = period_of(columns);
    TILED(float, factors, factor)
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t start = 0; start < count; start += period) {
        int64_t end = smaller(start + period, count);
        if (is_double)
            IN_PARTS(start, end,
                     requantize_wide_row((const double *)acc + at, to, length, factors + (at - start), low, high))
        else
            IN_PARTS(start, end, requantize_row((const float *)acc + at, to, length, factors + (at - start), low, high))
    }
}

/* out = clamp(rint(real / scale), low, high) with real = acc * step + bias, in double, clamped to [bottom, top]. Rows and
 * columns are those of amct_requantize. */
void amct_requantize_affine(const void *acc, int is_double, void *out, int is_bytes, float zero, int64_t rows,
                            int64_t columns, const double *step, const double *bias, double bottom, double top,
                            double scale, float low, float high)
{
    target_t target = target_of(out, is_bytes, zero);
    grid_t grid = {bottom, top, scale, low, high};
    int64_t count = rows * columns, period = period_of(columns);
    TILED(double, steps, step)
    TILED(double, biases, bias)
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t start = 0; start < count; start += period) {
        int64_t end = smaller(start + period, count);
        if (is_double)
            IN_PARTS(start, end,
                     requantize_wide_reals((const double *)acc + at, to, length, steps + (at - start),
                                           biases + (at - start), &grid))
        else
            IN_PARTS(start, end,
                     requantize_reals((const float *)acc + at, to, length, steps + (at - start), biases + (at - start),
                                      &grid))
    }
}

FOR_EACH_CPU
static void requantize_total(const float *a, double step_a, const float *b, double step_b, float *out, int64_t count,
                             const grid_t *grid)
{
    ROUND_ALL(a[i] * step_a + b[i] * step_b)
}

/* The same with real = a * step_a + b * step_b. */
void amct_requantize_total(const float *a, double step_a, const float *b, double step_b, void *out, int is_bytes,
                           float zero, int64_t count, double bottom, double top, double scale, float low, float high)
{
    target_t target = target_of(out, is_bytes, zero);
    grid_t grid = {bottom, top, scale, low, high};
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t start = 0; start < count; start += BLOCK)
        IN_PARTS(start, smaller(start + BLOCK, count), requantize_total(a + at, step_a, b + at, step_b, to, length, &grid))
}

FOR_EACH_CPU
static void requantize_product(const float *a, double step_a, const float *b, double step_b, float *out, int64_t count,
                               const grid_t *grid)
{
    ROUND_ALL(a[i] * step_a * (b[i] * step_b))
}

FOR_EACH_CPU
static void requantize_multiple(const float *a, double step_a, double factor, float *out, int64_t count,
                                const grid_t *grid)
{
    ROUND_ALL(a[i] * step_a * factor)
}

/* out = clamp(rint(a * step_a * (b * step_b) / scale), low, high) of a [blocks, rows, columns]; b is [blocks, columns],
 * one value for each row and column if is_row is 0: [blocks, rows]. */
void amct_requantize_product(const float *a, double step_a, const float *b, double step_b, void *out, int is_bytes,
                             float zero, int64_t blocks, int64_t rows, int64_t columns, int is_row, double scale,
                             float low, float high)
{
    target_t target = target_of(out, is_bytes, zero);
    grid_t grid = {-INFINITY, INFINITY, scale, low, high};
#pragma omp parallel for schedule(static) if (blocks * rows * columns > BLOCK)
    for (int64_t row = 0; row < blocks * rows; row++) {
        int64_t start = row * columns;
        const float *factors = b + row / rows * columns;
        if (is_row)
            IN_PARTS(start, start + columns,
                     requantize_product(a + at, step_a, factors + (at - start), step_b, to, length, &grid))
        else
            IN_PARTS(start, start + columns, requantize_multiple(a + at, step_a, b[row] * step_b, to, length, &grid))
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
void amct_look_up(const float *x, void *out, int is_bytes, float zero, int64_t count, const float *table, int32_t size,
                  float first)
{
    target_t target = target_of(out, is_bytes, zero);
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t start = 0; start < count; start += BLOCK)
        IN_PARTS(start, smaller(start + BLOCK, count), look_up(x + at, to, length, table, size, first))
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

FOR_EACH_CPU
static void to_singles(const double *x, double *out, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (double)(float)x[i];
}

/* out = x rounded to float; out may be x. */
void amct_to_singles(const double *x, double *out, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK)
        to_singles(x + at, out + at, smaller(BLOCK, count - at));
}
