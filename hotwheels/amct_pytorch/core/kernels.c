/* Fake quantization of large float32 tensors, its backward, and the statistics of calibration, each in one pass over
 * the memory.
 *
 * core/native.py calls these functions. Without this library, and for other tensors, the callers compute the
 * same with torch. Rounding is rintf, half to even, and a division is never replaced by a reciprocal: with
 * contraction and fast-math off (setup.py) the values are torch's bit for bit. Sums are taken block by block, in the
 * same order for any number of threads.
 */

#include "row_kernels.h"

#define ROW 256     /* elements searched together for clipped ones: they stay in the first-level cache */
#define LANES 16    /* sums that run side by side, so that the compiler may use vectors */

/* Version of the signatures and meanings of these functions. core/native.py has the same number and refuses a library
 * with another one; raise both with each such change. */
#define ABI 3

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
static void add_row(const float *x, float *grad, int64_t count, float step, float bottom, float top, sums_t *sums)
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
            grad[i] = (x[i] < bottom) | (x[i] > top) ? 0 : g;
        }
        sums->below += sum(below, count);
        sums->above += sum(above, count);
    }
    sums->inside += sum(inside, count);
}

/* Puts 0 into grad where x is outside [bottom, top]. sums has one entry for each BLOCK elements: the sum of
 * (rint(x / step) - x / step) * grad inside, the sum of grad below, and the sum of grad above. */
void amct_learned_range(const float *x, float *grad, int64_t count, float step, float bottom, float top, sums_t *sums)
{
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t end = smaller(at + BLOCK, count);
        sums_t total = {0, 0, 0};
        for (int64_t row = at; row < end; row += ROW)
            add_row(x + row, grad + row, smaller(ROW, end - row), step, bottom, top, &total);
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

/* The first i whose position (int64_t)(i * distance) is at or behind `start`. */
static int64_t first_sample(int64_t start, double distance)
{
    int64_t i = (int64_t)((double)start / distance);
    while (i > 0 && (int64_t)((double)(i - 1) * distance) >= start)
        i--;
    while ((int64_t)((double)i * distance) < start)
        i++;
    return i;
}

/* Smallest and largest value of each row, and the values at the positions (int64_t)(i * distance), i = 0..per_block - 1,
 * of every `block` rows. The last block may be shorter; it has as many samples as `sample` has room for. */
void amct_summarise_rows(const float *x, int64_t rows, int64_t size, int64_t block, double distance, int64_t per_block,
                         int64_t samples, float *lows, float *highs, float *sample)
{
    int64_t chunk = size < BLOCK ? BLOCK / size : 1;
    int64_t chunks = (block + chunk - 1) / chunk; /* of a block */
    int64_t blocks = (rows + block - 1) / block;
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t at = 0; at < blocks * chunks; at++) {
        int64_t start = at / chunks * block, in_block = at % chunks * chunk;
        int64_t height = smaller(block, rows - start), end = smaller(in_block + chunk, height);
        int64_t count = smaller(per_block, samples - start / block * per_block);
        for (int64_t row = start + in_block; row < start + end; row++) {
            bounds_t found = extremes(x + row * size, size);
            lows[row] = found.low;
            highs[row] = found.high;
        }
        for (int64_t i = first_sample(in_block * size, distance); i < count; i++) {
            int64_t position = (int64_t)((double)i * distance);
            if (position >= end * size)
                break;
            sample[start / block * per_block + i] = x[start * size + position];
        }
    }
}

/* Puts the values of the rows `indices` that are outside [inner_low, inner_high], but inside [low, high], into `out`.
 * Returns how many there are. */
FOR_EACH_CPU
int64_t amct_collect(const float *x, int64_t size, const int64_t *indices, int64_t rows, float inner_low,
                     float inner_high, float low, float high, float *out)
{
    int64_t found = 0;
    for (int64_t row = 0; row < rows; row++) {
        const float *values = x + indices[row] * size;
        for (int64_t start = 0; start < size; start += LANES) {
            int64_t end = smaller(start + LANES, size);
            int is_any = 0;
            for (int64_t i = start; i < end; i++)
                is_any |= (values[i] > inner_high) | (values[i] < inner_low);
            if (!is_any)
                continue;
            for (int64_t i = start; i < end; i++) {
                out[found] = values[i];
                found += ((values[i] > inner_high) | (values[i] < inner_low)) & (values[i] <= high) & (values[i] >= low);
            }
        }
    }
    return found;
}

/* Adds 1 to counts[floor(value * factor) - first] for each value. */
FOR_EACH_CPU
void amct_count(const float *values, int64_t count, float factor, int64_t first, int64_t *counts)
{
    int32_t indices[ROW];
    for (int64_t start = 0; start < count; start += ROW) {
        int64_t size = smaller(ROW, count - start);
        for (int64_t i = 0; i < size; i++)
            indices[i] = (int32_t)floorf(values[start + i] * factor);
        for (int64_t i = 0; i < size; i++)
            counts[indices[i] - first]++;
    }
}

/* scale^3 * sum(drop * F(edge / scale)) for F(t) = (t - k)^3 / 3 + k / 12, k = clamp(rint(t), low, high). */
FOR_EACH_CPU
static double edge_sum(const double *edges, const double *drop, int64_t count, double scale, double low, double high)
{
    double cubes = 0, nearest = 0;
#pragma omp simd reduction(+ : cubes, nearest)
    for (int64_t i = 0; i < count; i++) {
        double t = edges[i] / scale;
        double k = rint(t);
        k = k < low ? low : k;
        k = k > high ? high : k;
        cubes += (t - k) * (t - k) * (t - k) * drop[i];
        nearest += k * drop[i];
    }
    return scale * scale * scale * (cubes / 3.0 + nearest / 12.0);
}

/* sums[grid] = edge_sum(...) for each of the grids. */
void amct_edge_sums(const double *edges, const double *drop, int64_t count, const double *scale, const double *low,
                    const double *high, int64_t grids, double *sums)
{
#pragma omp parallel for schedule(static) if (count * grids > BLOCK)
    for (int64_t grid = 0; grid < grids; grid++)
        sums[grid] = edge_sum(edges, drop, count, scale[grid], low[grid], high[grid]);
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
