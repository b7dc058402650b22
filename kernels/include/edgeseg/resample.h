// The arithmetic of Pillow's antialiased resize of 8-bit pictures, and of the normalisation after
// it, as inline functions that compile for host and device.
//
// Source of the definition: Pillow, src/libImaging/Resample.c, 8 bits per channel. Two separable
// passes, each rounded to 8 bits; weights are computed in double and rounded to 22-bit fixed point.
// Translation units must be compiled with -ffp-contract=off: a fused multiply-add in the weights
// would change the last bit of some of them.
#ifndef EDGESEG_RESAMPLE_H
#define EDGESEG_RESAMPLE_H

#include <math.h>
#include <stdint.h>

// Internal linkage on the host: files compiled for different instruction sets include this header,
// and the linker must never put one file's copy in the place of another's.
#if defined(__CUDACC__)
#define EDGESEG_HD __host__ __device__ inline
#elif defined(__GNUC__)
#define EDGESEG_HD static inline __attribute__((unused))
#else
#define EDGESEG_HD static inline
#endif

namespace edgeseg {

enum Filter { kBilinear = 0, kBicubic = 1 };

// 8 bits for the result and 2 for what negative lobes add; 22 remain for the fraction.
constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr int32_t kRound = 1 << (kPrecisionBits - 1);

// The fixed-point weight that leaves a value as it is.
constexpr int32_t kUnitWeight = 1 << kPrecisionBits;

// How one axis of `in` samples is mapped to `out` samples.
struct Axis {
    int in;
    int out;
    Filter filter;
    double scale;    // source samples for each result sample
    double support;  // half the width of the filter, in source samples
    double inverse;  // filter coordinate for each source sample
};

// Consecutive source samples with non-zero weight.
struct Window {
    int first;
    int count;
    double centre;
};

EDGESEG_HD Axis make_axis(int in, int out, Filter filter) {
    Axis axis;
    axis.in = in;
    axis.out = out;
    axis.filter = filter;
    axis.scale = static_cast<double>(in) / out;
    // The filter is stretched when shrinking (antialiasing), never when enlarging.
    const double stretch = axis.scale < 1.0 ? 1.0 : axis.scale;
    axis.support = (filter == kBicubic ? 2.0 : 1.0) * stretch;
    axis.inverse = 1.0 / stretch;
    return axis;
}

EDGESEG_HD Window make_window(const Axis& axis, int index) {
    Window window;
    window.centre = (index + 0.5) * axis.scale;
    int first = static_cast<int>(window.centre - axis.support + 0.5);
    int last = static_cast<int>(window.centre + axis.support + 0.5);
    if (first < 0) first = 0;
    if (last > axis.in) last = axis.in;
    window.first = first;
    window.count = last - first;
    return window;
}

// Keys' cubic with a = -0.5, or the triangle.
EDGESEG_HD double filter_weight(Filter filter, double x) {
    if (x < 0.0) x = -x;
    if (filter == kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
    constexpr double a = -0.5;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

// Weight of the k-th sample of the window before normalisation to a sum of 1.
EDGESEG_HD double raw_weight(const Axis& axis, const Window& window, int k) {
    return filter_weight(axis.filter, (k + window.first - window.centre + 0.5) * axis.inverse);
}

// Rounds half away from zero, as Pillow does.
EDGESEG_HD int32_t fixed_weight(double weight) {
    const double scaled = weight * kUnitWeight;
    return static_cast<int32_t>(weight < 0 ? -0.5 + scaled : 0.5 + scaled);
}

// The fixed-point weights of one result sample; `weights` holds window.count values.
EDGESEG_HD void make_weights(const Axis& axis, const Window& window, int32_t* weights) {
    double sum = 0.0;
    for (int k = 0; k < window.count; ++k) sum += raw_weight(axis, window, k);
    for (int k = 0; k < window.count; ++k) {
        const double weight = raw_weight(axis, window, k);
        weights[k] = fixed_weight(sum != 0.0 ? weight / sum : weight);
    }
}

// From a weighted sum that started at kRound to the 8-bit value.
EDGESEG_HD uint8_t clip8(int32_t sum) {
    const int32_t value = sum >> kPrecisionBits;
    return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Since Pillow 13 the rows are resampled first where the height shrinks by more than twice as many
// pixels as the width; everything else, and all earlier versions, go horizontally first.
EDGESEG_HD bool vertical_first(int in_width, int in_height, int out_width, int out_height) {
    const int64_t rows = static_cast<int64_t>(in_height) - out_height;
    const int64_t columns = static_cast<int64_t>(in_width) - out_width;
    return rows > 0 && rows > 2 * columns;
}

// (value * scale - mean) / std as one fused multiply-add in double, rounded to float once.
struct Affine {
    double gain;
    double offset;
};

EDGESEG_HD Affine make_affine(double scale, double mean, double std) {
    Affine affine;
    affine.gain = scale / std;
    affine.offset = -mean / std;
    return affine;
}

EDGESEG_HD float normalize(const Affine& affine, uint8_t value) {
    return static_cast<float>(fma(static_cast<double>(value), affine.gain, affine.offset));
}

}  // namespace edgeseg

#endif  // EDGESEG_RESAMPLE_H
