/* Kernels of real_quant that read integers as bytes: tables of 256 results, sums over the pixels of an image. */

#include "kernels.h"

#include <string.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_PERMUTATIONS 1
#include <immintrin.h>
#else
#define HAS_PERMUTATIONS 0
#endif

FOR_EACH_CPU
static void look_up_floats(const uint8_t *x, float *out, int64_t count, const float *table)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = table[x[i]];
}

static void look_up_each(const uint8_t *x, uint8_t *out, int64_t count, const uint8_t *table)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = table[x[i]];
}

#if HAS_PERMUTATIONS
/* The same for 64 bytes at a time: the table is four registers, a permutation of two of them looks up 7 bits, and the
 * highest bit says in which two. */
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) static void look_up_64(const uint8_t *x, uint8_t *out,
                                                                              int64_t count, const uint8_t *table)
{
    __m512i a = _mm512_loadu_si512(table), b = _mm512_loadu_si512(table + 64);
    __m512i c = _mm512_loadu_si512(table + 128), d = _mm512_loadu_si512(table + 192);
    for (int64_t i = 0; i < count; i += 64) {
        int64_t left = count - i;
        __mmask64 is_in = left < 64 ? ((__mmask64)1 << left) - 1 : ~(__mmask64)0;
        __m512i at = _mm512_maskz_loadu_epi8(is_in, x + i);
        __m512i low = _mm512_permutex2var_epi8(a, at, b), high = _mm512_permutex2var_epi8(c, at, d);
        _mm512_mask_storeu_epi8(out + i, is_in, _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high));
    }
}
#endif

FOR_EACH_CPU
static void to_floats(const uint8_t *x, float *out, int64_t count, float first)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)x[i] + first;
}

/* Puts table - first into `small`; returns whether small + first has the bits of the table, as for integers. */
static int is_of_bytes(const float *table, float first, uint8_t *small)
{
    for (int i = 0; i < 256; i++) {
        float above = table[i] - first;
        if (!(above >= 0 && above < 256))
            return 0;
        small[i] = (uint8_t)above;
        float again = (float)small[i] + first;
        if (memcmp(&again, table + i, sizeof again) != 0)
            return 0;
    }
    return 1;
}

typedef void look_up_t(const uint8_t *, uint8_t *, int64_t, const uint8_t *);

/* The fastest function for this processor. */
static look_up_t *byte_look_up(void)
{
#if HAS_PERMUTATIONS
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi"))
        return look_up_64;
#endif
    return look_up_each;
}

/* out = table[x]; the table has 256 elements. Bytes get the elements plus `zero`, which are in [0, 255] then. Floats are
 * looked up as bytes, too, if the elements are integers and the processor looks up many bytes at a time. */
void amct_look_up_bytes(const uint8_t *x, void *out, int is_bytes, float zero, int64_t count, const float *table)
{
    uint8_t small[256];
    float first = table[0];
    look_up_t *look_up = byte_look_up();
    for (int i = 0; i < 256; i++) {
        first = table[i] < first ? table[i] : first;
        small[i] = is_bytes ? (uint8_t)(int32_t)(table[i] + zero) : 0;
    }
    int is_small = !is_bytes && look_up != look_up_each && is_of_bytes(table, first, small);
#pragma omp parallel for schedule(static) if (count > BLOCK)
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t end = smaller(start + BLOCK, count);
        if (is_bytes)
            look_up(x + start, (uint8_t *)out + start, end - start, small);
        else if (!is_small)
            look_up_floats(x + start, (float *)out + start, end - start, table);
        for (int64_t at = start; is_small && at < end; at += PART) {
            uint8_t part[PART];
            int64_t length = smaller(PART, end - at);
            look_up(x + at, part, length, small);
            to_floats(part, (float *)out + at, length, first);
        }
    }
}

FOR_EACH_CPU
static void add_pixels(const uint8_t *x, int32_t *sums, int64_t pixels, int64_t channels)
{
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        for (int64_t c = 0; c < channels; c++)
            sums[c] += x[pixel * channels + c];
}

/* The sums of x [images, pixels, channels] over the pixels, fewer than 2^23 of them: out [images, channels]. */
void amct_pixel_sums(const uint8_t *x, int64_t images, int64_t pixels, int64_t channels, int32_t *out)
{
#pragma omp parallel for schedule(static) if (images * pixels * channels > BLOCK)
    for (int64_t image = 0; image < images; image++) {
        int32_t *sums = out + image * channels;
        for (int64_t c = 0; c < channels; c++)
            sums[c] = 0;
        add_pixels(x + image * pixels * channels, sums, pixels, channels);
    }
}
