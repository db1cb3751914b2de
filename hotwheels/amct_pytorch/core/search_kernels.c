/* The squared error of many grids on the values that calibration has seen, and the grid with the least one.
 *
 * core/statistics/grid_error.py computes the same with NumPy and says why. Sums are taken in the same order with any
 * number of threads, so they are equal bit for bit: in chunks, of each chunk LANES sums side by side.
 */

#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#define LANES 16   /* both numbers are in grid_error.py, too */
#define CHUNK 1024
#define TOGETHER 8 /* grids of a thread's turn */

/* The values seen: in a histogram with `bins` bins of the width 2^exponent, `first` is the index of the first one; atoms
 * with their counts; the values of both tails; and all values, if they are known. */
typedef struct {
    const double *counts, *atoms, *weights;
    const float *tails, *values;
    int64_t bins, first, exponent, atom_count, tail_count, value_count;
    double lowest, highest; /* no value in the histogram is beyond these */
    double narrowest, nearly_best; /* constants of the reference */
} seen_t;

typedef struct {
    double scale, inverse, low, high; /* inverse = 1 / scale */
} candidate_t;

static inline double nearest(double steps, const candidate_t *grid)
{
    double k = rint(steps);
    k = k < grid->low ? grid->low : k;
    return k > grid->high ? grid->high : k;
}

static double total_of(const double *lanes)
{
    double total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += lanes[lane];
    return total;
}

/* sum((t - k)^2) of at most CHUNK values, t = value / scale, k = clamp(rint(t), low, high). */
FOR_EACH_CPU
static double squares_of(const double *values, int64_t count, candidate_t grid)
{
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double t = values[i + lane] * grid.inverse;
            double d = t - nearest(t, &grid);
            lanes[lane] += d * d;
        }
    for (int lane = 0; i + lane < count; lane++) {
        double t = values[i + lane] * grid.inverse;
        double d = t - nearest(t, &grid);
        lanes[lane] += d * d;
    }
    return total_of(lanes);
}

static double sum_of_squares(const double *values, int64_t count, candidate_t grid)
{
    double total = 0;
    for (int64_t at = 0; at < count; at += CHUNK)
        total += squares_of(values + at, smaller(CHUNK, count - at), grid);
    return total * (grid.scale * grid.scale);
}

/* sum_of_squares of `some` grids, at most TOGETHER, chunk by chunk: all of them find a chunk in the nearest cache. */
static void sums_of_squares(const double *values, int64_t count, const candidate_t *grids, int64_t some, double *sums)
{
    for (int64_t i = 0; i < some; i++)
        sums[i] = 0;
    for (int64_t at = 0; at < count; at += CHUNK)
        for (int64_t i = 0; i < some; i++)
            sums[i] += squares_of(values + at, smaller(CHUNK, count - at), grids[i]);
    for (int64_t i = 0; i < some; i++)
        sums[i] *= grids[i].scale * grids[i].scale;
}

/* Adds the sums of drop * (t - k)^3 and drop * k of at most CHUNK edges. */
FOR_EACH_CPU
static void add_edges(const double *edges, const double *drop, int64_t count, candidate_t grid, double *sums)
{
    double cubes[LANES] = {0}, nearests[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            double t = edges[i + lane] * grid.inverse;
            double k = nearest(t, &grid);
            double d = t - k;
            cubes[lane] += d * d * d * drop[i + lane];
            nearests[lane] += k * drop[i + lane];
        }
    for (int lane = 0; i + lane < count; lane++) {
        double t = edges[i + lane] * grid.inverse;
        double k = nearest(t, &grid);
        double d = t - k;
        cubes[lane] += d * d * d * drop[i + lane];
        nearests[lane] += k * drop[i + lane];
    }
    sums[0] += total_of(cubes);
    sums[1] += total_of(nearests);
}

/* scale^3 * sum(drop * F(edge / scale)) for F(t) = (t - k)^3 / 3 + k / 12, of `some` grids as in sums_of_squares. */
static void edge_sums(const double *edges, const double *drop, int64_t count, const candidate_t *grids, int64_t some,
                      double *sums)
{
    double parts[TOGETHER][2] = {{0}};
    for (int64_t at = 0; at < count; at += CHUNK)
        for (int64_t i = 0; i < some; i++)
            add_edges(edges + at, drop + at, smaller(CHUNK, count - at), grids[i], parts[i]);
    for (int64_t i = 0; i < some; i++) {
        double scale = grids[i].scale;
        sums[i] = count ? scale * scale * scale * (parts[i][0] / 3.0 + parts[i][1] / 12.0) : 0;
    }
}

static double clipped(double value, double low, double high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* Puts the edges of the bins at which the density changes into `edges`, and how much it drops there into `drop`. Returns
 * their number. */
static int64_t find_edges(const seen_t *seen, double *edges, double *drop)
{
    int64_t begin = 0, end = seen->bins, found = 0;
    while (begin < end && seen->counts[begin] == 0)
        begin++;
    while (end > begin && seen->counts[end - 1] == 0)
        end--;
    double width = ldexp(1, (int)seen->exponent), margin = width * seen->narrowest, before = 0;
    double low = seen->lowest - margin, high = seen->highest + margin;
    double edge = clipped((double)(seen->first + begin) * width, low, high);
    for (int64_t i = begin; i <= end && begin < end; i++) {
        double next = clipped((double)(seen->first + i + 1) * width, low, high), density = 0;
        if (i < end) {
            double count = seen->counts[i] > 0 ? seen->counts[i] : 0;
            density = count / (next - edge > margin ? next - edge : margin);
        }
        edges[found] = edge;
        drop[found] = -(density - before);
        found += drop[found] != 0;
        before = density;
        edge = next;
    }
    return found;
}

static candidate_t grid_of(const double *scale, const double *low, const double *high, int64_t i)
{
    return (candidate_t){scale[i], 1 / scale[i], low[i], high[i]};
}

/* Copies the values that are not 0, which every grid holds; returns their number. */
static int64_t widen(const float *values, int64_t count, double *wide)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        wide[found] = values[i];
        found += values[i] != 0;
    }
    return found;
}

static int64_t least(const double *errors, int64_t count)
{
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (errors[i] < errors[best])
            best = i;
    return best;
}

/* Returns the first of the grids with the least error; -1 without memory. `errors` gets the expected errors; if the
 * values are known, the true errors on them decide between the grids that are nearly best. */
int64_t amct_least_error(const seen_t *seen, const double *scale, const double *low, const double *high, int64_t grids,
                         double *errors)
{
    int64_t room = seen->value_count > seen->tail_count ? seen->value_count : seen->tail_count;
    double *edges = malloc((size_t)(2 * (seen->bins + 1)) * sizeof(double)), *drop = edges + seen->bins + 1;
    double *wide = malloc((size_t)(room + 1) * sizeof(double)), *exact = malloc((size_t)grids * sizeof(double));
    int64_t *near = malloc((size_t)grids * sizeof(int64_t)), best = -1, found = 0;
    if (edges != NULL && wide != NULL && exact != NULL && near != NULL) {
        int64_t count = find_edges(seen, edges, drop);
        for (int64_t i = 0; i < seen->tail_count; i++)
            wide[i] = seen->tails[i];
#pragma omp parallel for schedule(static) if (count * grids > BLOCK)
        for (int64_t start = 0; start < grids; start += TOGETHER) {
            candidate_t some[TOGETHER];
            int64_t size = smaller(TOGETHER, grids - start);
            for (int64_t i = 0; i < size; i++)
                some[i] = grid_of(scale, low, high, start + i);
            edge_sums(edges, drop, count, some, size, errors + start);
            for (int64_t i = 0; i < size; i++) {
                double error = errors[start + i];
                for (int64_t atom = 0; atom < seen->atom_count; atom++)
                    error += sum_of_squares(seen->atoms + atom, 1, some[i]) * seen->weights[atom];
                errors[start + i] = error + sum_of_squares(wide, seen->tail_count, some[i]);
            }
        }
        best = least(errors, grids);
        if (seen->values != NULL) {
            for (int64_t i = 0; i < grids; i++)
                if (errors[i] <= seen->nearly_best * fabs(errors[best]))
                    near[found++] = i;
            count = widen(seen->values, seen->value_count, wide);
#pragma omp parallel for schedule(static) if (count * found > BLOCK)
            for (int64_t start = 0; start < found; start += TOGETHER) {
                candidate_t some[TOGETHER];
                int64_t size = smaller(TOGETHER, found - start);
                for (int64_t i = 0; i < size; i++)
                    some[i] = grid_of(scale, low, high, near[start + i]);
                sums_of_squares(wide, count, some, size, exact + start);
            }
            best = near[least(exact, found)];
        }
    }
    free(edges);
    free(wide);
    free(exact);
    free(near);
    return best;
}
