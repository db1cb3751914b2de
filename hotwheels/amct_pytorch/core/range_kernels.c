/* What calibration takes from one tensor, in one call: its exact tails, and counts of all other values.
 *
 * core/statistics/sampling.py and range_statistics.py compute the same with torch and NumPy and say why; their
 * constants come with each call. The results are equal bit for bit with any number of threads.
 */

#include "range_kernels.h"

#define LOOK 64 /* elements looked at together */

/* Elements of the tensor: those beyond `exact` are in `outer`, samples stand for the others. */
typedef struct {
    range_t exact;
    int is_filled[2]; /* low, high: whether at least `capacity` elements are at or beyond that bound */
    values_t outer;
    samples_t samples[2];
    float *memory[3]; /* of the samples */
    double weights[2];
    float minimum, maximum;
} summary_t;

/* Copies the values that are not in [low, high] to `outside`, which has room for all; returns their number. */
FOR_EACH_CPU
static int64_t copy_outside(const float *x, int64_t count, float low, float high, float *outside)
{
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += LOOK) {
        int64_t size = smaller(LOOK, count - start);
        const float *values = x + start;
        int is_any = 0;
        for (int64_t i = 0; i < size; i++)
            is_any |= (values[i] > high) | (values[i] < low);
        for (int64_t i = 0; is_any && i < size; i++) {
            outside[found] = values[i];
            found += (values[i] > high) | (values[i] < low);
        }
    }
    return found;
}

/* Takes the values that are not in [low, high] out of `values`; returns the number of those that stay. */
static int64_t keep_inside(float *values, int64_t count, float low, float high)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        values[found] = values[i];
        found += (values[i] >= low) & (values[i] <= high);
    }
    return found;
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

/* sample[i] = x[(int64_t)(i * distance)] for i = from..to - 1; a block of x has fewer than 2^31 elements. */
FOR_EACH_CPU
static void take_samples(const float *x, int64_t from, int64_t to, double distance, float *sample)
{
    for (int32_t i = (int32_t)from; i < (int32_t)to; i++)
        sample[i] = x[(int32_t)((double)i * distance)];
}

/* Smallest and largest value of each row, and the values at the positions (int64_t)(i * distance), i = 0..per_block - 1,
 * of every `block` rows. The last block may be shorter; it has as many samples as `sample` has room for. */
static void reduce_rows(const float *x, const plan_t *plan, float *lows, float *highs, float *sample)
{
    int64_t size = plan->length, rows = plan->whole / size, block = plan->block;
    int64_t chunk = size < BLOCK ? BLOCK / size : 1;
    int64_t chunks = (block + chunk - 1) / chunk; /* of a block */
    int64_t blocks = (rows + block - 1) / block;
#pragma omp parallel for schedule(static) if (rows * size > BLOCK)
    for (int64_t at = 0; at < blocks * chunks; at++) {
        int64_t start = at / chunks * block, in_block = at % chunks * chunk;
        int64_t end = smaller(in_block + chunk, smaller(block, rows - start));
        int64_t count = smaller(plan->per_block, plan->samples - start / block * plan->per_block);
        for (int64_t row = start + in_block; row < start + end; row++) {
            bounds_t found = extremes(x + row * size, size);
            lows[row] = found.low;
            highs[row] = found.high;
        }
        int64_t from = first_sample(in_block * size, plan->distance), to = first_sample(end * size, plan->distance);
        take_samples(x + start * size, from, smaller(to, count), plan->distance,
                     sample + start / block * plan->per_block);
    }
}

/* Smallest and largest value of each column of x [depth, width]. */
FOR_EACH_CPU
static void reduce_columns(const float *x, int64_t depth, int64_t width, float *lows, float *highs)
{
    memcpy(lows, x, (size_t)width * sizeof(float));
    memcpy(highs, x, (size_t)width * sizeof(float));
    for (int64_t row = 1; row < depth; row++)
        for (int64_t i = 0; i < width; i++) {
            float value = x[row * width + i];
            lows[i] = value < lows[i] ? value : lows[i];
            highs[i] = value > highs[i] ? value : highs[i];
        }
}

/* Sets the bounds that fewer than `capacity` of the groups, with these extremes, reach beyond. */
static void set_exact(summary_t *summary, const plan_t *plan, range_t known, const float *lows, const float *highs,
                      int64_t groups)
{
    summary->exact = known;
    summary->is_filled[0] = summary->is_filled[1] = 0;
    if (groups <= 2 * plan->capacity)
        return;
    double low = kth_lowest(lows, groups, plan->capacity), high = kth_highest(highs, groups, plan->capacity);
    summary->exact = (range_t){low < known.low ? low : known.low, high > known.high ? high : known.high};
    summary->is_filled[0] = low < known.low;
    summary->is_filled[1] = high > known.high;
}

/* Indices of the rows that reach beyond the bounds; returns their number. */
static int64_t reaching(const float *lows, const float *highs, int64_t rows, range_t bounds, int64_t *indices)
{
    int64_t found = 0;
    float low = (float)bounds.low, high = (float)bounds.high;
    for (int64_t row = 0; row < rows; row++) {
        indices[found] = row;
        found += (highs[row] > high) | (lows[row] < low);
    }
    return found;
}

/* The values of these rows that are beyond `inner`, but not beyond `bounds`. */
static values_t collect(const float *x, int64_t size, const int64_t *indices, int64_t rows, range_t inner,
                        range_t bounds)
{
    values_t found = {room_for(rows * size), 0};
    for (int64_t at = 0; at < rows && found.values != NULL; at++) {
        float *next = found.values + found.count;
        int64_t count = copy_outside(x + indices[at] * size, size, (float)inner.low, (float)inner.high, next);
        found.count += keep_inside(next, count, (float)bounds.low, (float)bounds.high);
    }
    return found;
}

/* Returns the bounds beyond which the plain sample is too thin; the exact bounds if it suffices everywhere. `ends` are
 * the extremes of the rows at the ranks of the plan. */
static range_t tail_bounds(range_t ends, range_t exact, const float *sample, const plan_t *plan)
{
    double end = ends.high;
    if (plan->is_symmetric && -ends.low > ends.high)
        end = -ends.low;
    end *= plan->tail_start;
    if (end <= 0)
        return exact;
    float above = nextafterf((float)end, INFINITY), below = nextafterf((float)-end, -INFINITY);
    if (number_in(sample, plan->samples, above, INFINITY) < plan->plenty && end < exact.high)
        exact.high = end;
    if (plan->is_symmetric && number_in(sample, plan->samples, -INFINITY, below) < plan->plenty && -end > exact.low)
        exact.low = -end;
    return exact;
}

static void free_summary(summary_t *summary)
{
    free(summary->outer.values);
    for (int i = 0; i < 3; i++)
        free(summary->memory[i]);
}

/* Summarises the elements that are cut into rows. Returns 1 without memory. */
static int summarise_large(const float *x, const plan_t *plan, range_t known, summary_t *summary)
{
    static const range_t everything = {-INFINITY, INFINITY};
    int64_t size = plan->length, rows = plan->whole / size;
    float *lows = room_for(rows), *highs = room_for(rows), *sample = room_for(plan->samples);
    int64_t *indices = malloc((size_t)rows * sizeof(int64_t));
    float *outside = room_for(plan->samples);
    summary->memory[0] = sample;
    summary->memory[1] = outside;
    int failed = outside == NULL || lows == NULL || highs == NULL || sample == NULL || indices == NULL;
    if (!failed) {
        reduce_rows(x, plan, lows, highs, sample);
        summary->minimum = extremes(lows, rows).low;
        summary->maximum = extremes(highs, rows).high;
    }
    if (!failed && isfinite(summary->minimum) && isfinite(summary->maximum)) {
        set_exact(summary, plan, known, lows, highs, rows);
        int64_t found = reaching(lows, highs, rows, summary->exact, indices);
        summary->outer = collect(x, size, indices, found, summary->exact, everything);
        range_t ends = {kth_lowest(lows, rows, plan->low_rank), kth_highest(highs, rows, plan->high_rank)};
        range_t tails = tail_bounds(ends, summary->exact, sample, plan);
        summary->weights[0] = 1;
        found = reaching(lows, highs, rows, tails, indices);
        if (found && (tails.low != summary->exact.low || tails.high != summary->exact.high)) {
            int64_t some = smaller(found, plan->tail_rows);
            for (int64_t i = 0; i < some; i++)
                indices[i] = indices[i * found / some];
            values_t middle = collect(x, size, indices, some, tails, summary->exact);
            summary->samples[0] = (samples_t){.values = middle.values, .count = middle.count};
            summary->memory[2] = middle.values;
            summary->weights[0] = (double)found / (double)some;
            failed = middle.values == NULL;
        }
        float low = (float)tails.low, high = (float)tails.high;
        values_t others = {outside, copy_outside(sample, plan->samples, low, high, outside)};
        summary->samples[1] = (samples_t){sample, plan->samples, others, low, high};
        int64_t body = plan->samples - others.count;
        double rest = (double)(plan->whole - summary->outer.count);
        rest -= summary->weights[0] * (double)summary->samples[0].count;
        summary->weights[1] = rest / (double)(body > 1 ? body : 1);
        failed |= summary->outer.values == NULL;
    }
    free(lows);
    free(highs);
    free(indices);
    return failed;
}

/* Summarises a few elements: all of them are samples, but for the outer ones. Returns 1 without memory. */
static int summarise_small(const float *x, int64_t count, const plan_t *plan, range_t known, summary_t *summary)
{
    int64_t depth = count / plan->groups > 1 ? count / plan->groups : 1, width = count / depth;
    bounds_t ends = extremes(x, count);
    summary->minimum = ends.low;
    summary->maximum = ends.high;
    if (!isfinite(ends.low) || !isfinite(ends.high))
        return 0;
    float *lows = room_for(width), *highs = room_for(width);
    summary->outer.values = room_for(count);
    int failed = lows == NULL || highs == NULL || summary->outer.values == NULL;
    if (!failed) {
        reduce_columns(x, depth, width, lows, highs);
        set_exact(summary, plan, known, lows, highs, width);
        float low = (float)summary->exact.low, high = (float)summary->exact.high;
        summary->outer.count = copy_outside(x, count, low, high, summary->outer.values);
        summary->samples[0] = (samples_t){x, count, summary->outer, low, high};
        summary->weights[0] = 1;
    }
    free(lows);
    free(highs);
    return failed;
}

/* Takes the elements of a summary into the state. Returns 1 without memory. */
static int take(state_t *state, const plan_t *plan, summary_t *summary)
{
    if (summary->exact.high == summary->maximum)
        watch(state, plan, summary->maximum);
    if (summary->exact.low == summary->minimum)
        watch(state, plan, summary->minimum);
    int failed = 0;
    for (int i = 0; i < 2; i++)
        failed |= add(state, plan, &summary->samples[i], summary->weights[i]);
    values_t *outer = &summary->outer;
    float *all = realloc(outer->values, (size_t)(outer->count + 2 * plan->capacity) * sizeof(float));
    if (all == NULL)
        return 1;
    outer->values = all;
    float bounds[] = {(float)summary->exact.low, (float)summary->exact.high};
    int64_t found = outer->count, inside = number_in(all, found, bounds[0], INFINITY);
    int64_t beyond[] = {found - inside, found - number_in(all, found, -INFINITY, bounds[1])};
    for (int side = 0; side < 2; side++) {
        int64_t ties = summary->is_filled[side] && beyond[side] < plan->capacity ? plan->capacity - beyond[side] : 0;
        for (int64_t i = 0; i < ties; i++)
            all[outer->count + i] = bounds[side];
        failed |= add(state, plan, &(samples_t){.values = all + outer->count, .count = ties}, -1);
        outer->count += ties;
    }
    return failed || keep(state, plan, outer);
}

/* Takes in the elements of x. Puts their smallest and largest value into `ends`; NaN if an element is NaN or infinite:
 * then nothing is taken. Returns 1 without memory: then the state is spoiled. */
int amct_observe(const float *x, int64_t count, const plan_t *plan, state_t *state, float *ends)
{
    range_t known = {INFINITY, -INFINITY};
    if (state->smallest_count == plan->capacity)
        known.low = -(double)state->smallest[0];
    if (state->largest_count == plan->capacity)
        known.high = state->largest[0];
    summary_t parts[2] = {{{0, 0}}};
    state->found = calloc((size_t)(TABLES * state->bins), sizeof(int32_t));
    int64_t used = 0, failed = state->found == NULL;
    if (plan->whole && !failed)
        failed |= summarise_large(x, plan, known, &parts[used++]);
    if (plan->whole < count && !failed)
        failed |= summarise_small(x + plan->whole, count - plan->whole, plan, known, &parts[used++]);
    ends[0] = INFINITY;
    ends[1] = -INFINITY;
    int is_finite = 1;
    for (int64_t i = 0; i < used && !failed; i++) {
        is_finite &= isfinite(parts[i].minimum) && isfinite(parts[i].maximum);
        ends[0] = parts[i].minimum < ends[0] ? parts[i].minimum : ends[0];
        ends[1] = parts[i].maximum > ends[1] ? parts[i].maximum : ends[1];
    }
    if (!is_finite)
        ends[0] = ends[1] = NAN;
    for (int64_t i = 0; i < used; i++) {
        if (!failed && is_finite)
            failed |= take(state, plan, &parts[i]);
        free_summary(&parts[i]);
    }
    free(state->found);
    return (int)failed;
}
