/* A fingerprint of 128 bits of some memory, so that unchanged weights are recognised at the speed of reading them.
 *
 * Every step maps its state one to one, for any word, and its word one to one, for any state: two contents that differ
 * in a single word never have the same fingerprint, others with a probability of about 2^-64. It is no cryptographic
 * digest: whoever wants to can make two contents with the same fingerprint.
 */

#include "kernels.h"

#include <string.h>

#define STREAMS 32 /* independent states, so that the compiler may use vectors */
#define ODD_A 0x9E3779B97F4A7C15u
#define ODD_B 0xC2B2AE3D27D4EB4Fu

/* A multiplication moves differences up only, so they are moved down before and after it. */
static inline uint64_t mixed(uint64_t state, uint64_t word, uint64_t odd)
{
    uint64_t h = state ^ word;
    h ^= h >> 29;
    h *= odd;
    return h ^ (h >> 32);
}

FOR_EACH_CPU
static void mix(const unsigned char *x, int64_t rounds, uint64_t *states)
{
    for (int64_t at = 0; at < rounds; at++) {
        uint64_t words[STREAMS];
        memcpy(words, x + at * sizeof(words), sizeof(words)); /* x need not be aligned */
        for (int i = 0; i < STREAMS; i++)
            states[i] = mixed(states[i], words[i], ODD_A);
    }
}

/* Puts the fingerprint of `count` parts, parts[i] of sizes[i] bytes, into out[2]. It depends on their order and sizes. */
void amct_fingerprint(const void *const *parts, const int64_t *sizes, int64_t count, uint64_t *out)
{
    uint64_t first = ODD_B, second = ODD_A;
    for (int64_t part = 0; part < count; part++) {
        uint64_t states[STREAMS], rest[STREAMS] = {0};
        int64_t rounds = sizes[part] / (int64_t)sizeof(rest);
        for (int i = 0; i < STREAMS; i++)
            states[i] = ODD_B * (uint64_t)(i + 1);
        mix(parts[part], rounds, states);
        if (sizes[part] % (int64_t)sizeof(rest)) {
            const unsigned char *end = (const unsigned char *)parts[part] + rounds * (int64_t)sizeof(rest);
            memcpy(rest, end, (size_t)(sizes[part] % (int64_t)sizeof(rest)));
            mix((const unsigned char *)rest, 1, states);
        }
        first = mixed(first, (uint64_t)sizes[part], ODD_A);
        second = mixed(second, (uint64_t)sizes[part], ODD_B);
        for (int i = 0; i < STREAMS; i++) {
            first = mixed(first, states[i], ODD_A);
            second = mixed(second, states[i], ODD_B);
        }
    }
    out[0] = first;
    out[1] = second;
}
