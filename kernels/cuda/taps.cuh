// Where samples lie, without 64-bit divisions, which devices do in software: a position is
// estimated in float and put right by the exact remainder. Half-pixel centres, as make_taps
// (edgeseg/fuse.h) has them, or the corners' centres laid onto each other.
#ifndef EDGESEG_CUDA_TAPS_CUH
#define EDGESEG_CUDA_TAPS_CUH

#include "edgeseg/fuse.h"

namespace edgeseg {
namespace cuda {

// What one axis of a view needs at every coordinate; from the host.
struct TapScale {
    float ratio;    // in / (2 out); of corners (in - 1) / (out - 1)
    float inverse;  // 1 / (2 out); of corners 1 / (out - 1)
};

inline TapScale make_tap_scale(int32_t in, int32_t out) {
    return {static_cast<float>(static_cast<double>(in) / (2.0 * out)),
            static_cast<float>(1.0 / (2.0 * out))};
}

inline TapScale make_corner_scale(int32_t in, int32_t out) {
    const double steps = out > 1 ? out - 1 : 1;
    return {static_cast<float>((in - 1) / steps), static_cast<float>(1.0 / steps)};
}

// The result coordinate `index` lies between the samples `base` and `base + step` (0 or 1) of an
// axis that is not mirrored, at the share `far` of the way.
struct Between {
    int32_t base;
    int32_t step;
    float far;
};

// `numerator / denominator` as samples and a share; `position` is about that. The remainder fits
// into 32 bits, although what it is made from may not: that wraps.
EDGESEG_HD Between settle(int32_t in, float position, uint32_t numerator, int32_t denominator,
                          float inverse) {
    int32_t base = static_cast<int32_t>(larger(position, 0.0f));
    int32_t rest = static_cast<int32_t>(numerator - static_cast<uint32_t>(base) *
                                                        static_cast<uint32_t>(denominator));
    if (rest < 0) {
        --base;
        rest += denominator;
    } else if (rest >= denominator) {
        ++base;
        rest -= denominator;
    }
    if (base < 0) {
        base = 0;
        rest = 0;
    }
    if (base >= in - 1) rest = 0;
    return {base, rest != 0, static_cast<float>(rest) * inverse};
}

// Half-pixel centres.
EDGESEG_HD Between quick_taps(int32_t in, int32_t out, const TapScale& scale, int32_t index) {
    const int32_t odd = 2 * index + 1;
    // Off by less than 1/16 sample, since sides are at most EDGESEG_MAX_SIDE.
    const float position = static_cast<float>(odd) * scale.ratio - 0.5f;
    const uint32_t numerator =
        static_cast<uint32_t>(odd) * static_cast<uint32_t>(in) - static_cast<uint32_t>(out);
    return settle(in, position, numerator, 2 * out, scale.inverse);
}

// The corners' centres laid onto each other; a single result lies on the first sample.
EDGESEG_HD Between quick_corner_taps(int32_t in, int32_t out, const TapScale& scale,
                                     int32_t index) {
    // Off by less than 1/16 sample as well.
    const float position = static_cast<float>(index) * scale.ratio;
    const uint32_t numerator = static_cast<uint32_t>(index) * static_cast<uint32_t>(in - 1);
    return settle(in, position, numerator, out > 1 ? out - 1 : 1, scale.inverse);
}

}  // namespace cuda
}  // namespace edgeseg

#endif  // EDGESEG_CUDA_TAPS_CUH
