/* Fake quantization of large float32 tensors, its backward, and folded and integer weights, each in one pass over the
 * memory.
 *
 * core/native.py calls these functions. Without this library, and for other tensors, the callers compute the
 * same with torch. Rounding is rintf, half to even, and a division is never replaced by a reciprocal: with
 * contraction and fast-math off (setup.py) the values are torch's bit for bit. Sums are taken block by block, in the
 * same order for any number of threads.
 */

#include "row_kernels.h"

#include <string.h>

#define ROW 256     /* elements searched together for clipped ones: they stay in the first-level cache */
#define LANES 16    /* sums that run side by side, so that the compiler may use vectors */

/* Version of the signatures and meanings of these functions. core/native.py has the same number and refuses a library
 * with another one; raise both with each such change. */
#define ABI 5

int amct_abi(void) { return ABI; }

typedef struct {
    double inside, below, above;
} sums_t;

FOR_EACH_CPU
static int quantize(const float *x, float *out, int64_t count, float step, float low, float high)
{
    int has_nan = 0;
    for (int64_t i = 0; i < count; i++) {
        float q = rintf(x[i] / step);
        has_nan |= q != q;
        q = q < low ? low : q; /* NaN stays */
        q = q > high ? high : q;
        out[i] = q * step;
    }
    return has_nan;
}

/* out = clamp(rint(x / step), low, high) * step; out may be x. Returns whether x holds NaN. */
int amct_fake_quantize(const float *x, float *out, int64_t count, float step, float low, float high)
{
    int has_nan = 0;
#pragma omp parallel for schedule(static) reduction(| : has_nan) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK)
        has_nan |= quantize(x + at, out + at, smaller(BLOCK, count - at), step, low, high);
    return has_nan;
}

FOR_EACH_CPU
static double sum(const float *values, int64_t count)
{
    float lanes[LANES] = {0};
    double total = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += values[i + lane];
    for (; i < count; i++)
        total += values[i];
    for (int lane = 0; lane < LANES; lane++)
        total += lanes[lane];
    return total;
}

/* Adds the contribution of at most ROW elements to the sums. */
FOR_EACH_CPU
static void add_row(const float *x, const float *grad, float *out, int64_t count, float step, float bottom, float top,
                    sums_t *sums)
{
    float inside[ROW], below[ROW], above[ROW];
    int is_clipped = 0;
    for (int64_t i = 0; i < count; i++) {
        float steps = x[i] / step;
        inside[i] = (rintf(steps) - steps) * grad[i];
        is_clipped |= (x[i] < bottom) | (x[i] > top);
    }
    if (is_clipped) {
        for (int64_t i = 0; i < count; i++) {
            float g = grad[i];
            below[i] = x[i] < bottom ? g : 0;
            above[i] = x[i] > top ? g : 0;
            inside[i] = (x[i] < bottom) | (x[i] > top) ? 0 : inside[i]; /* inside[i] is NaN for infinities */
            out[i] = (x[i] < bottom) | (x[i] > top) ? 0 : g;
        }
        sums->below += sum(below, count);
        sums->above += sum(above, count);
    } else if (out != grad) {
        memcpy(out, grad, (size_t)count * sizeof *out);
    }
    sums->inside += sum(inside, count);
}

/* out = grad, but 0 where x is outside [bottom, top]; out may be grad. sums has one entry for each BLOCK elements: the
 * sum of (rint(x / step) - x / step) * grad inside, the sum of grad below, and the sum of grad above. */
void amct_learned_range(const float *x, const float *grad, float *out, int64_t count, float step, float bottom,
                        float top, sums_t *sums)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t end = smaller(at + BLOCK, count);
        sums_t total = {0, 0, 0};
        for (int64_t row = at; row < end; row += ROW)
            add_row(x + row, grad + row, out + row, smaller(ROW, end - row), step, bottom, top, &total);
        sums[at / BLOCK] = total;
    }
}

/* out = clamp(rint(x * factor / step), -1 - end, end) * step * inverse, with a factor and an inverse for each row, and a
 * step for each row or, if each_step is 0, one step for all rows. */
void amct_unfold(const float *x, float *out, int64_t rows, int64_t size, const float *factor, const float *inverse,
                 const float *step, int each_step, float end)
{
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++)
        unfold_row(x + row * size, out + row * size, size, factor[row], inverse[row], step[each_step ? row : 0], end);
}

FOR_EACH_CPU
static double dot_row(
    const float *grad, const float *x, int64_t count, float factor, float inverse, float step, float end)
{
    double total = 0;
    for (int64_t start = 0; start < count; start += ROW) {
        float products[ROW];
        int64_t size = smaller(ROW, count - start);
        for (int64_t i = 0; i < size; i++) {
            float value = x[start + i];
            products[i] = grad[start + i] * (value - unfolded(value, factor, inverse, step, end));
        }
        total += sum(products, size);
    }
    return total;
}

/* dots[row] = sum(grad * (x - out)) of each row, with the out of amct_unfold. */
void amct_unfold_backward(const float *grad, const float *x, int64_t rows, int64_t size, const float *factor,
                          const float *inverse, const float *step, int each_step, float end, float *dots)
{
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++)
        dots[row] = (float)dot_row(grad + row * size, x + row * size, size, factor[row], inverse[row],
                                   step[each_step ? row : 0], end);
}

FOR_EACH_CPU
bounds_t extremes(const float *x, int64_t count)
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

/* Smallest and largest value of each row. */
void amct_row_extremes(const float *x, int64_t rows, int64_t size, float *lows, float *highs)
{
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++) {
        bounds_t found = extremes(x + row * size, size);
        lows[row] = found.low;
        highs[row] = found.high;
    }
}

FOR_EACH_CPU
static void quantize_row(const float *x, int8_t *out, int64_t count, float step, float end)
{
    for (int64_t i = 0; i < count; i++) {
        float q = rintf(x[i] / step);
        q = q < -1 - end ? -1 - end : q;
        q = q > end ? end : q;
        out[i] = (int8_t)q;
    }
}

/* out = clamp(rint(x / step), -1 - end, end), with a step for each row or, if each_step is 0, one step for all rows. */
void amct_quantize_weight(const float *x, int8_t *out, int64_t rows, int64_t size, const float *step, int each_step,
                          float end)
{
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t row = 0; row < rows; row++)
        quantize_row(x + row * size, out + row * size, size, step[each_step ? row : 0], end);
}
