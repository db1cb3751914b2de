/* What range_kernels.c and histogram_kernels.c share: the state of a RangeStatistics, and what is added to it. */

#ifndef AMCT_RANGE_KERNELS_H
#define AMCT_RANGE_KERNELS_H

#include "kernels.h"

#include <stdlib.h>
#include <string.h>

/* The state of a RangeStatistics; a tail is ascending, and that of the smallest values holds them negated. */
typedef struct {
    double *counts;                                  /* [bins], without the atoms */
    double *atoms, *weights;                         /* values counted apart, and their counts; room for most_atoms */
    float *largest, *smallest;                       /* room for `capacity` */
    int64_t bins, first, exponent, is_empty;         /* of the histogram */
    int64_t atom_count, largest_count, smallest_count;
    int32_t *found; /* TABLES tables of bins, all 0 between the calls of `add` */
} state_t;

/* How the reference cuts and samples this tensor, and its constants. */
typedef struct {
    int64_t whole, length;             /* elements that are cut into rows, 0 for a small tensor; elements of a row */
    int64_t block, per_block, samples; /* rows and samples of a block, samples of the tensor */
    int64_t low_rank, high_rank, is_symmetric;
    int64_t groups, capacity, tail_rows, plenty, most_atoms, smallest_exponent, index_bits;
    double distance, tail_start;
} plan_t;

typedef struct {
    double low, high;
} range_t;

/* Values, in memory that belongs to whoever made them. */
typedef struct {
    float *values;
    int64_t count;
} values_t;

/* Those of `count` values that are in [low, high]; `outside` are the others. Unless there are others, the ends may be 0. */
typedef struct {
    const float *values;
    int64_t count;
    values_t outside;
    float low, high;
} samples_t;

#define TABLES 4

static inline float *room_for(int64_t count) { return malloc((size_t)(count > 0 ? count : 1) * sizeof(float)); }

/* The rank-th lowest and highest value, counted from 1; the last one for a rank beyond it. */
INTERNAL float kth_lowest(const float *values, int64_t count, int64_t rank);
INTERNAL float kth_highest(const float *values, int64_t count, int64_t rank);

/* Number of values in [low, high]. */
INTERNAL int64_t number_in(const float *values, int64_t count, float low, float high);

/* Counts a value apart from now on, unless too many values are. */
INTERNAL void watch(state_t *state, const plan_t *plan, double value);

/* Counts each of the samples with `weight` in the histogram. Returns 1 without memory. */
INTERNAL int add(state_t *state, const plan_t *plan, const samples_t *samples, double weight);

/* Sorts exact values into the tails; the histogram gets those that fit in neither. Returns 1 without memory. */
INTERNAL int keep(state_t *state, const plan_t *plan, const values_t *values);

#endif
