// make_taps (edgeseg/fuse.h) without 64-bit divisions, which devices do in software: the position
// is estimated in float and put right by the exact remainder.
#ifndef EDGESEG_CUDA_TAPS_CUH
#define EDGESEG_CUDA_TAPS_CUH

#include "edgeseg/fuse.h"

namespace edgeseg {
namespace cuda {

// What one axis of a view needs at every coordinate; from the host.
struct TapScale {
    float ratio;    // in / (2 out)
    float inverse;  // 1 / (2 out)
};

inline TapScale make_tap_scale(int32_t in, int32_t out) {
    return {static_cast<float>(static_cast<double>(in) / (2.0 * out)),
            static_cast<float>(1.0 / (2.0 * out))};
}

// The result coordinate `index` lies between the samples `base` and `base + step` (0 or 1) of an
// axis that is not mirrored, at the share `far` of the way.
struct Between {
    int32_t base;
    int32_t step;
    float far;
};

EDGESEG_HD Between quick_taps(int32_t in, int32_t out, const TapScale& scale, int32_t index) {
    const int32_t odd = 2 * index + 1;
    const int32_t denominator = 2 * out;
    // Off by less than 1/16 sample, since sides are at most EDGESEG_MAX_SIDE.
    const float position = static_cast<float>(odd) * scale.ratio - 0.5f;
    int32_t base = static_cast<int32_t>(larger(position, 0.0f));
    // It fits into 32 bits, although its parts may not: they wrap.
    int32_t rest = static_cast<int32_t>(
        static_cast<uint32_t>(odd) * static_cast<uint32_t>(in) - static_cast<uint32_t>(out) -
        static_cast<uint32_t>(base) * static_cast<uint32_t>(denominator));
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
    return {base, rest != 0, static_cast<float>(rest) * scale.inverse};
}

}  // namespace cuda
}  // namespace edgeseg

#endif  // EDGESEG_CUDA_TAPS_CUH
