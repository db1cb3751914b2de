/* Fake quantization of large float32 tensors and its backward, each in one pass over the memory.
 *
 * core/native.py calls these functions. Their callers do the same with torch where this file is not compiled, and for
 * other tensors. Rounding is rintf, half to even, and a division is a division: with
 * contraction and fast-math off (setup.py) the values are torch's bit for bit. Sums are taken block by block, in the
 * same order for any number of threads.
 */

#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define BLOCK 32768 /* elements of a thread's turn; core/native.py has it too */
#define ROW 256     /* elements looked at together in search of clipped ones: they stay in the first cache */
#define LANES 16    /* sums that run side by side, so that the compiler may use vectors */

typedef struct {
    double inside, below, above;
} sums_t;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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

/* Adds what at most ROW elements contribute to the sums. */
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
            inside[i] = (x[i] < bottom) | (x[i] > top) ? 0 : inside[i]; /* which is NaN for infinities */
            grad[i] = (x[i] < bottom) | (x[i] > top) ? 0 : g;
        }
        sums->below += sum(below, count);
        sums->above += sum(above, count);
    }
    sums->inside += sum(inside, count);
}

/* Puts 0 into grad where x is outside [bottom, top]. sums has one entry for each BLOCK elements: the sum of
 * (rint(x / step) - x / step) * grad inside, and those of grad below and above. */
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

/* out = clamp(rint(x * factor / step), -1 - end, end) * step * inverse, with a factor and an inverse for each row, and a
 * step for each or, where each_step is 0, one for all. */
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
