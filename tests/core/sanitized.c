/* Calls every kernel on memory of exactly the size it may touch, for sizes around its blocks. For ASan and UBSan. */

#include "byte_kernels.c"
#include "fingerprint.c"
#include "histogram_kernels.c"
#include "integer_kernels.c"
#include "kernels.c"
#include "range_kernels.c"
#include "search_kernels.c"
#include "weight_kernels.c"

#include <stdio.h>
#include <stdlib.h>

static float *floats(int64_t count)
{
    float *found = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        found[i] = (float)((i * 7919) % 2001 - 1000) / 37.0f;
    if (count > 2) {
        found[1] = INFINITY;
        found[2] = -INFINITY;
    }
    return found;
}

static void rows_of(int64_t rows, int64_t size)
{
    int64_t count = rows * size;
    float *x = floats(count), *grad = floats(count), *out = malloc((size_t)count * sizeof(float));
    float *factor = malloc((size_t)rows * sizeof(float)), *lows = malloc((size_t)rows * sizeof(float));
    float *highs = malloc((size_t)rows * sizeof(float)), *dots = malloc((size_t)rows * sizeof(float));
    int8_t *integers = malloc((size_t)count);
    float *vectors = malloc(4 * (size_t)rows * sizeof(float));
    for (int64_t row = 0; row < rows; row++)
        factor[row] = 0.5f;
    amct_fake_quantize(x, out, count, 0.1f, -128, 127);
    sums_t *sums = malloc((size_t)((count + BLOCK - 1) / BLOCK) * sizeof(sums_t));
    amct_learned_range(x, grad, out, count, 0.1f, -3, 3, sums);
    amct_learned_range(x, grad, grad, count, 0.1f, -3, 3, sums);
    for (int each = 0; each < 2; each++) {
        amct_unfold(x, out, rows, size, factor, factor, factor, each, 127);
        amct_unfold_backward(grad, x, rows, size, factor, factor, factor, each, 7, dots);
        amct_quantize_weight(x, integers, rows, size, factor, each, 127);
        for (int with = 0; with < 2; with++) {
            const float *norm = with ? factor : NULL;
            amct_round_folded(x, out, rows, size, norm, norm, factor, norm, norm, vectors, 0.1, each, 127, 1e-7f, 1e-5f, 6);
        }
    }
    amct_row_extremes(x, rows, size, lows, highs);
    double *wide = malloc((size_t)count * sizeof(double)), *steps = malloc((size_t)size * sizeof(double));
    float *factors = malloc((size_t)size * sizeof(float));
    int64_t *up = malloc((size_t)rows * sizeof(int64_t)), *down = malloc((size_t)rows * sizeof(int64_t));
    for (int64_t i = 0; i < count; i++)
        wide[i] = grad[i] = (float)(i % 201);
    for (int64_t i = 0; i < size; i++)
        steps[i] = factors[i] = 0.5f;
    for (int is_double = 0; is_double < 2; is_double++) {
        const void *sums_of = is_double ? (const void *)wide : (const void *)grad;
        for (int is_bytes = 0; is_bytes < 2; is_bytes++) {
            void *to = is_bytes ? (void *)integers : (void *)out;
            amct_requantize(sums_of, is_double, to, is_bytes, 128, rows, size, factors, -128, 127);
            amct_requantize_affine(sums_of, is_double, to, is_bytes, 128, rows, size, steps, steps, 0, 6, 0.1, -128, 127);
            amct_requantize_product(grad, 0.5, x, 0.1, to, is_bytes, 128, 1, rows, size, is_double, 0.1, -128, 127);
            amct_requantize_total(grad, 0.5, grad, 0.1, to, is_bytes, 128, count, 0, INFINITY, 0.1, -128, 127);
        }
    }
    amct_to_singles(wide, wide, count);
    amct_look_up(grad, out, 0, 0, count, factors, (int32_t)size, -3);
    float table[256] = {7};
    amct_look_up_bytes((const uint8_t *)integers, out, 0, 0, count, table);
    amct_look_up_bytes((const uint8_t *)integers, integers, 1, 3, count, table);
    for (int i = 0; i < 256; i++)
        table[i] = (float)(i - 90);
    amct_look_up_bytes((const uint8_t *)integers, out, 0, 0, count, table);
    uint8_t small[256], *fast = malloc((size_t)count), *slow = malloc((size_t)count);
    for (int i = 0; i < 256; i++)
        small[i] = (uint8_t)(i * 167 + 13);
    byte_look_up()((const uint8_t *)integers, fast, count, small);
    look_up_each((const uint8_t *)integers, slow, count, small);
    if (memcmp(fast, slow, (size_t)count) != 0)
        abort();
    free(fast), free(slow);
    int32_t *totals = malloc((size_t)size * sizeof(int32_t));
    amct_pixel_sums((const uint8_t *)integers, 1, rows, size, totals);
    free(totals);
    const void *parts[2] = {x, integers};
    int64_t bytes[2] = {count * (int64_t)sizeof(float), count};
    uint64_t digest[2];
    amct_fingerprint(parts, bytes, 2, digest);
    amct_to_bytes(grad, (uint8_t *)integers, count, 3);
    amct_row_sums(integers, rows, size, up, down);
    free(wide), free(steps), free(factors), free(up), free(down);
    free(sums), free(x), free(grad), free(out), free(factor), free(lows), free(highs), free(dots), free(integers);
    free(vectors);
}

/* Observes three tensors of so many elements, the second one not finite, and searches the best of some grids. */
static void ranges_of(int64_t count, int64_t whole, int64_t length)
{
    enum { BINS = 512, CAPACITY = 8, ATOMS = 5, GRIDS = 7 };
    double *counts = calloc(BINS, sizeof(double)), *atoms = calloc(ATOMS, sizeof(double));
    double *weights = calloc(ATOMS, sizeof(double)), *scale = malloc(GRIDS * sizeof(double));
    double *low = malloc(GRIDS * sizeof(double)), *errors = malloc(GRIDS * sizeof(double));
    float *largest = malloc(CAPACITY * sizeof(float)), *smallest = malloc(CAPACITY * sizeof(float)), ends[2];
    state_t state = {counts, atoms, weights, largest, smallest, BINS, 0, 0, 1, 1, 0, 0, NULL};
    plan_t plan = {whole, length, 3, 5, 0, 2, 3, count % 2, 40, CAPACITY, 4, 8, ATOMS, -120, 22, 0, 0.5};
    plan.distance = (double)(3 * length) / 5.0;
    for (int64_t row = 0; whole && row < whole / length; row += 3)
        plan.samples += (int64_t)((double)(smaller(3, whole / length - row) * length) / plan.distance);
    for (int part = 0; part < 3; part++) {
        float *x = floats(count);
        for (int64_t i = 0; i < count && part != 1; i++)
            x[i] = isfinite(x[i]) ? x[i] * (part ? 1e38f : 1.0f) / 30.0f : (float)(i % 3);
        amct_observe(x, count, &plan, &state, ends);
        free(x);
    }
    for (int64_t i = 0; i < GRIDS; i++) {
        scale[i] = (double)(i + 1) * 1e35;
        low[i] = -5;
        errors[i] = 5;
    }
    float *values = malloc((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)i;
    double *high = malloc(GRIDS * sizeof(double));
    memcpy(high, errors, GRIDS * sizeof(double));
    for (int knows = 0; knows < 2; knows++) {
        seen_t seen = {counts, atoms, weights, largest, knows ? values : NULL, BINS, state.first, state.exponent,
                       state.atom_count, state.largest_count, knows ? count : 0, -1e38, 1e38, 1e-6, 1.1};
        amct_least_error(&seen, scale, low, high, GRIDS, errors);
    }
    free(counts), free(atoms), free(weights), free(scale), free(low), free(high), free(errors), free(largest);
    free(smallest), free(values);
}

int main(void)
{
    static const int64_t sizes[] = {1, 2, 3, 15, 16, 17, 255, 256, 257, BLOCK - 1, BLOCK, BLOCK + 1};
    for (size_t at = 0; at < sizeof(sizes) / sizeof(*sizes); at++)
        for (int64_t rows = 1; rows <= 5; rows += 2) {
            rows_of(rows, sizes[at]);
            ranges_of(sizes[at], 0, 1);
            ranges_of(sizes[at] + rows * 40, rows * 40, 8);
        }
    puts("done");
    return 0;
}
