/* The histogram and the tails of a RangeStatistics.
 *
 * core/statistics/histogram.py and tail.py compute the same with NumPy and say why. The results are equal bit for bit with
 * any number of threads: counts are integers until they are weighted, and weighted counts are added in the same order.
 */

#include "range_kernels.h"

#define STRIP 256 /* values whose bins are computed together */
#define DIGITS 2048
#define FIRST_SHIFT 21 /* of the 11 digits by which the numbers are divided first */
#define FEW 1024 /* values that are copied, so that the next steps look at them only */

/* A number whose order among such numbers is that of the float. */
static inline uint32_t ordered(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Adds up how often each digit occurs among the numbers of the values whose digits `known` are `found`. Four tables,
 * since an addition to a digit waits for the one before. */
static void count_digits(const float *values, int64_t count, uint32_t known, uint32_t found, int shift, int32_t *digits)
{
    int32_t tables[4][DIGITS] = {{0}};
    for (int64_t i = 0; i < count; i++) {
        uint32_t number = ordered(values[i]);
        if ((number & known) == found)
            tables[i & 3][number >> shift & (DIGITS - 1)]++;
    }
    for (int digit = 0; digit < DIGITS; digit++)
        digits[digit] = tables[0][digit] + tables[1][digit] + tables[2][digit] + tables[3][digit];
}

/* Copies the values whose numbers begin with `digit`, `expected` of them, to `same`. */
static void copy_beginning(const float *values, int64_t count, uint32_t digit, int64_t expected, float *same)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count && found < expected; i++) {
        same[found] = values[i];
        found += ordered(values[i]) >> FIRST_SHIFT == digit;
    }
}

/* By the digits of the numbers: no order of the values makes it slow. */
static float at_rank(const float *values, int64_t count, int64_t rank)
{
    static const int shifts[] = {FIRST_SHIFT, 10, 0};
    float few[FEW];
    uint32_t found = 0, known = 0;
    for (int step = 0; step < 3; step++) {
        int32_t digits[DIGITS];
        count_digits(values, count, known, found, shifts[step], digits);
        uint32_t digit = 0;
        while (rank > digits[digit])
            rank -= digits[digit++];
        if (step == 0 && digits[digit] <= FEW) {
            copy_beginning(values, count, digit, digits[digit], few);
            values = few;
            count = digits[digit];
        }
        found |= digit << shifts[step];
        known |= (uint32_t)(DIGITS - 1) << shifts[step];
    }
    uint32_t bits = found & 0x80000000u ? found & 0x7fffffffu : ~found;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

float kth_lowest(const float *values, int64_t count, int64_t rank)
{
    float lowest = extremes(values, count).low;
    rank = smaller(rank, count);
    if (number_in(values, count, lowest, lowest) >= rank) /* 0 of a ReLU, and other ends of activations */
        return lowest;
    return at_rank(values, count, rank);
}

float kth_highest(const float *values, int64_t count, int64_t rank)
{
    float highest = extremes(values, count).high;
    rank = smaller(rank, count);
    if (number_in(values, count, highest, highest) >= rank)
        return highest;
    return at_rank(values, count, count - rank + 1);
}

FOR_EACH_CPU
int64_t number_in(const float *values, int64_t count, float low, float high)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        found += (values[i] >= low) & (values[i] <= high);
    return found;
}

static int64_t bin_of(double value, int64_t exponent) { return (int64_t)floor(ldexp(value, -(int)exponent)); }

/* A tiny negative value times the factor may be 0, one bin above the bins that `reserve` found for it. */
static inline int32_t bin_between(float steps, float lowest, float highest)
{
    steps = floorf(steps);
    steps = steps < lowest ? lowest : steps;
    return (int32_t)(steps > highest ? highest : steps);
}

/* Number of values in each bin, added to counts[clamp(floor(value * factor), lowest, highest) - first]; two tables,
 * since an addition to a bin waits for the one before. */
FOR_EACH_CPU
static void count_into(const float *values, int64_t count, float factor, float lowest, float highest, int64_t first,
                       int64_t bins, int32_t *counts)
{
    int32_t indices[STRIP], shift = (int32_t)first;
    int32_t *other = counts + bins;
    for (int64_t start = 0; start < count; start += STRIP) {
        int64_t size = smaller(STRIP, count - start), i = 0;
        for (int64_t j = 0; j < size; j++)
            indices[j] = bin_between(values[start + j] * factor, lowest, highest) - shift;
        for (; i + 2 <= size; i += 2) {
            counts[indices[i]]++;
            other[indices[i + 1]]++;
        }
        if (i < size)
            counts[indices[i]]++;
    }
}

/* Smallest and largest of the values in [low, high]. */
FOR_EACH_CPU
static bounds_t extremes_between(const float *values, int64_t count, float low, float high)
{
    float least = INFINITY, most = -INFINITY;
#pragma omp simd reduction(min : least) reduction(max : most)
    for (int64_t i = 0; i < count; i++) {
        float from = values[i] >= low ? values[i] : INFINITY, to = values[i] <= high ? values[i] : -INFINITY;
        least = from < least ? from : least;
        most = to > most ? to : most;
    }
    return (bounds_t){least, most};
}

/* Lower edges of the first and the last bin that hold a count. */
static range_t occupied(const state_t *state)
{
    int64_t low = 0, high = state->bins - 1;
    while (low < state->bins && state->counts[low] == 0)
        low++;
    if (low == state->bins)
        return (range_t){0, 0};
    while (state->counts[high] == 0)
        high--;
    double width = ldexp(1, (int)state->exponent);
    return (range_t){(double)(state->first + low) * width, (double)(state->first + high) * width};
}

static int64_t fitting_exponent(double low, double high, int64_t exponent, int64_t bins, int64_t index_bits)
{
    int found;
    frexp(-low > high ? -low : high, &found);
    if (found - index_bits > exponent)
        exponent = found - index_bits;
    if (high > low) {
        frexp((high - low) / (double)bins, &found);
        if (found - 1 > exponent)
            exponent = found - 1;
    }
    while (bin_of(high, exponent) - bin_of(low, exponent) >= bins)
        exponent++;
    return exponent;
}

/* Makes the bins cover [low, high]; returns 1 without memory. */
static int reserve(state_t *state, const plan_t *plan, double low, double high)
{
    int64_t bins = state->bins, exponent = plan->smallest_exponent, shift = 0;
    if (!state->is_empty) {
        double scale = ldexp(1, -(int)state->exponent); /* an index may be beyond all integers, hence floating */
        if (floor(low * scale) >= (double)state->first && floor(high * scale) < (double)(state->first + bins))
            return 0;
        range_t used = occupied(state);
        low = used.low < low ? used.low : low;
        high = used.high > high ? used.high : high;
        exponent = state->exponent > exponent ? state->exponent : exponent;
    }
    exponent = fitting_exponent(low, high, exponent, bins, plan->index_bits);
    int64_t spare = bins - (bin_of(high, exponent) - bin_of(low, exponent) + 1);
    int64_t first = bin_of(low, exponent) - spare / 2;
    if (!state->is_empty) {
        double *old = malloc((size_t)bins * sizeof(double));
        if (old == NULL)
            return 1;
        memcpy(old, state->counts, (size_t)bins * sizeof(double));
        memset(state->counts, 0, (size_t)bins * sizeof(double));
        shift = smaller(exponent - state->exponent, 63); /* more would be undefined */
        for (int64_t i = 0; i < bins; i++)
            if (old[i] != 0)
                state->counts[((state->first + i) >> shift) - first] += old[i];
        free(old);
    }
    state->first = first;
    state->exponent = exponent;
    state->is_empty = 0;
    return 0;
}

/* Adds weight * (the sum of the `tables` found[.][i]) to counts[i], and clears the tables. */
FOR_EACH_CPU
static void add_weighted(double *counts, int32_t *found, int64_t bins, int64_t tables, int64_t begin, int64_t end,
                         double weight)
{
    for (int64_t table = 1; table < tables; table++)
        for (int64_t i = begin; i < end; i++) {
            found[i] += found[table * bins + i];
            found[table * bins + i] = 0;
        }
    for (int64_t i = begin; i < end; i++) {
        counts[i] += weight * (double)found[i];
        found[i] = 0;
    }
}

int add(state_t *state, const plan_t *plan, const samples_t *samples, double weight)
{
    const float *values = samples->values;
    int64_t count = samples->count, bins = state->bins;
    if (count == samples->outside.count)
        return 0;
    bounds_t ends = samples->outside.count ? extremes_between(values, count, samples->low, samples->high)
                                           : extremes(values, count);
    double low = ends.low, high = ends.high;
    for (int64_t i = 0; i < state->atom_count; i++)
        if (low == high && low == state->atoms[i]) {
            state->weights[i] += weight * (double)(count - samples->outside.count);
            return 0;
        }
    if (reserve(state, plan, low, high))
        return 1;
    int64_t parts = count > BLOCK ? 2 : 1, half = count / parts, first = state->first;
    float factor = (float)ldexp(1, -(int)state->exponent);
    /* Not bin_of: in single precision, as in count_into, a tiny value times the factor may be 0. Those outside are
     * counted in the bins of the ends, and then taken out. */
    float whole[] = {(float)first, (float)(first + bins - 1)};
    float lowest = (float)bin_between(ends.low * factor, whole[0], whole[1]);
    float highest = (float)bin_between(ends.high * factor, whole[0], whole[1]);
#pragma omp parallel for schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        count_into(values + part * half, part + 1 < parts ? half : count - part * half, factor, lowest, highest, first,
                   bins, state->found + 2 * bins * part);
    for (int64_t i = 0; i < samples->outside.count; i++)
        state->found[bin_between(samples->outside.values[i] * factor, lowest, highest) - first]--;
    int64_t begin = (int64_t)lowest - first, end = (int64_t)highest - first + 1;
    add_weighted(state->counts, state->found, bins, 2 * parts, begin, end, weight);
    for (int64_t i = 0; i < state->atom_count; i++)
        if (low <= state->atoms[i] && state->atoms[i] <= high) {
            double same = weight * (double)number_in(values, count, (float)state->atoms[i], (float)state->atoms[i]);
            state->counts[bin_of(state->atoms[i], state->exponent) - first] -= same;
            state->weights[i] += same;
        }
    return 0;
}

static int ascending(const void *one, const void *other)
{
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

/* Adds the values to a tail; `rest` gets the new and old values that are not among the largest ones. Returns their
 * number. */
static int64_t push(float *tail, int64_t *size, int64_t capacity, const float *values, int64_t count, float *rest)
{
    int64_t pool = *size + count, kept = 0, left = 0;
    memcpy(rest, tail, (size_t)*size * sizeof(float));
    memcpy(rest + *size, values, (size_t)count * sizeof(float));
    *size = smaller(pool, capacity);
    float least = pool > capacity ? kth_highest(rest, pool, capacity) : -INFINITY;
    for (int64_t i = 0; i < pool; i++)
        if (rest[i] > least)
            tail[kept++] = rest[i];
        else
            rest[left++] = rest[i];
    int64_t others = left;
    left = 0;
    for (int64_t i = 0; i < others; i++) /* of those equal to the least one that is kept, some are kept */
        if (kept < *size && rest[i] == least)
            tail[kept++] = rest[i];
        else
            rest[left++] = rest[i];
    qsort(tail, (size_t)kept, sizeof(float), ascending);
    return left;
}

void watch(state_t *state, const plan_t *plan, double value)
{
    for (int64_t i = 0; i < state->atom_count; i++)
        if (state->atoms[i] == value)
            return;
    if (state->atom_count < plan->most_atoms) {
        state->atoms[state->atom_count] = value;
        state->weights[state->atom_count++] = 0;
    }
}

int keep(state_t *state, const plan_t *plan, const values_t *values)
{
    int64_t most = values->count + 2 * plan->capacity;
    float *rest = room_for(most), *last = room_for(most);
    int failed = rest == NULL || last == NULL;
    if (!failed) {
        int64_t left = push(state->largest, &state->largest_count, plan->capacity, values->values, values->count, rest);
        for (int64_t i = 0; i < left; i++)
            rest[i] = -rest[i];
        left = push(state->smallest, &state->smallest_count, plan->capacity, rest, left, last);
        for (int64_t i = 0; i < left; i++)
            last[i] = -last[i];
        failed = add(state, plan, &(samples_t){.values = last, .count = left}, 1);
    }
    free(rest);
    free(last);
    return failed;
}
