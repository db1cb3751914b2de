/* What the files of kernels share. */

#ifndef AMCT_KERNELS_H
#define AMCT_KERNELS_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__GNUC__)
#define INTERNAL __attribute__((visibility("hidden"))) /* shared by the files, no function of the library */
#else
#define INTERNAL
#endif

#define BLOCK 32768 /* elements of a thread's turn; core/native.py has this number too */

#define PART 1024 /* elements that stay in the first-level cache between two steps */

typedef struct {
    float low, high;
} bounds_t;

/* Smallest and largest of the values; both are NaN if a value is NaN. In kernels.c. */
INTERNAL bounds_t extremes(const float *x, int64_t count);

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
