// The arithmetic of one pixel of edgeseg_cuda_decide_mask: what lies between samples, and what
// wins. It is that of edgeseg/readout.py.
//
// NaN is background by comparison alone: nothing is above a NaN, and a NaN is above nothing. It
// takes part only where its weight is not 0.
#ifndef EDGESEG_DECIDE_H
#define EDGESEG_DECIDE_H

#include <stdint.h>

#include "edgeseg/resample.h"

namespace edgeseg {

// At the share `far` of the way from `a` to `b`.
EDGESEG_HD float mix(float a, float b, float far) { return (1.0f - far) * a + far * b; }

// The same where `far` may be 0: then `b` has no say, even if it is infinite or NaN.
EDGESEG_HD float mix_or_first(float a, float b, float far) {
    const float mixed = mix(a, b, far);
    return far > 0.0f ? mixed : a;
}

// Whether a channel takes a pixel from the channels before it, of which `best` is the largest.
EDGESEG_HD bool takes_over(int32_t channel, float value, float best) {
    return channel == 0 || value > best;
}

// One byte of a word, as it lies in memory.
EDGESEG_HD uint32_t byte_of(uint32_t word, int index) { return word >> 8 * index & 255u; }

EDGESEG_HD uint32_t with_byte(uint32_t word, int index, uint32_t value) {
    return (word & ~(255u << 8 * index)) | value << 8 * index;
}

}  // namespace edgeseg

#endif  // EDGESEG_DECIDE_H
