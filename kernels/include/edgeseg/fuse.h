// The arithmetic of one pixel of edgeseg_fuse_views (kernels.h): where a view is sampled, its
// probabilities and their entropy, its weight, and the smoothing over time.
//
// The fusion is that of DINO-MVR (arXiv 2605.07221): views weighted by 1 - H / ln C or exp(-H / T),
// H the entropy in nats. What the formulas leave open or lose in float is decided here:
//
// - ln C - H is computed as a sum of squares and higher powers of the distance to the uniform
//   distribution where that distance is small. As a difference it would be nothing but rounding
//   there, and views near 1 / C would get arbitrary weights. The constant 1 / ln C cancels.
// - exp(-H / T) is taken relative to the least entropy of the pixel's views, which cancels as well:
//   the sum of weights is at least 1, however small the temperature.
// - Views that are left out have weight 0 and finite probabilities.
#ifndef EDGESEG_FUSE_H
#define EDGESEG_FUSE_H

#include "edgeseg/kernels.h"
#include "edgeseg/vectormath.h"

namespace edgeseg {

// One result coordinate on one axis: near * source[first] + far * source[second].
// A sample of weight 0 is never named, so that NaN in it cannot take part: then both are the same.
struct Taps {
    int32_t first;
    int32_t second;
    float near;
    float far;
};

// Half-pixel centres, edges replicated, no antialiasing: torch's interpolate(mode="bilinear").
// `mirrored`: the source stands the other way round. The position is an exact fraction, whatever
// the sizes (up to EDGESEG_MAX_SIDE).
EDGESEG_HD Taps make_taps(int32_t in, int32_t out, bool mirrored, int32_t index) {
    const int64_t denominator = 2 * static_cast<int64_t>(out);
    const int64_t numerator = (2 * static_cast<int64_t>(index) + 1) * in - out;
    int64_t first = 0;
    int64_t rest = 0;
    if (numerator > 0) {
        first = numerator / denominator;
        rest = numerator - first * denominator;
    }
    if (first >= in - 1) rest = 0;
    const int32_t base = static_cast<int32_t>(first);
    const int32_t next = rest == 0 ? base : base + 1;
    Taps taps;
    taps.first = mirrored ? in - 1 - base : base;
    taps.second = mirrored ? in - 1 - next : next;
    taps.near = static_cast<float>(static_cast<double>(denominator - rest) / denominator);
    taps.far = static_cast<float>(static_cast<double>(rest) / denominator);
    return taps;
}

// Logits from `sanitize`; columns first, then rows.
EDGESEG_HD float interpolate(float near, float a, float far, float b) { return near * a + far * b; }

// Beyond this distance between logits, in nats, probabilities are 0 or 1 in float. Without it,
// products of them would be denormal.
constexpr float kSaturation = 80.0f;

// |x|, at most kSaturation; NaN counts as large. Integers order non-negative floats as floats are
// ordered, and a minimum of integers stays one: a compiler would branch on floats here, and then
// not vectorise.
EDGESEG_HD float limited_distance(float x) {
    constexpr int32_t kSaturationBits = 0x42a00000;
    const int32_t bits = float_bits(x) & 0x7fffffff;
    return float_from_bits(bits < kSaturationBits ? bits : kSaturationBits);
}

// Below this distance from the uniform distribution, series replace differences.
constexpr float kNearUniform = 0.25f;

// Added to every entropy weight: smaller than any weight but 0, so that it decides only where all
// weights vanish, and gives the plain mean there.
constexpr float kLeastWeight = 1e-30f;

// 1 / T, finite.
EDGESEG_HD float inverse_temperature(float temperature) {
    return smaller(1.0f / temperature, FLT_MAX);
}

// Probability of the foreground, and what its weight is made from: ln 2 - H with
// EDGESEG_WEIGHT_ENTROPY, H with EDGESEG_WEIGHT_EXP, nothing with EDGESEG_WEIGHT_MEAN.
struct Binary {
    float probability;
    float measure;
};

template <int kWeighting>
EDGESEG_HD Binary binary(float logit) {
    const float distance = limited_distance(logit);
    const float e = exp32(-distance);
    const float upper = 1.0f / (1.0f + e);
    const float lower = e * upper;
    Binary result;
    result.probability = logit >= 0.0f ? upper : lower;
    result.measure = 0.0f;
    if (kWeighting != EDGESEG_WEIGHT_MEAN) {
        const float entropy = log1p_unit(e) + distance * lower;
        result.measure = entropy;
        if (kWeighting == EDGESEG_WEIGHT_ENTROPY) {
            // t = tanh(x / 2): ln 2 - H = ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2.
            const float t = (1.0f - e) * upper;
            const float s = t * t;
            float series = s * (1.0f / 56.0f) + 1.0f / 30.0f;
            series = series * s + 1.0f / 12.0f;
            series = series * s + 0.5f;
            result.measure = t < kNearUniform ? series * s : kLn2 - entropy;
        }
    }
    return result;
}

// Softmax over channels that arrive one by one: the largest logit so far, and the sum of
// exp(logit - top). NaN leaves it alone; who needs to know asks for it.
struct Softmax {
    float top;
    float sum;
};

EDGESEG_HD Softmax start_softmax(float logit) {
    Softmax softmax;
    softmax.top = logit;
    softmax.sum = 1.0f;
    return softmax;
}

EDGESEG_HD void add_channel(Softmax& softmax, float logit) {
    const float e = exp32(-limited_distance(logit - softmax.top));
    const bool higher = logit > softmax.top;
    softmax.sum = higher ? softmax.sum * e + 1.0f : softmax.sum + e;
    softmax.top = higher ? logit : softmax.top;
}

// logit - top, limited; exp32 of it is the channel's part of Softmax::sum.
EDGESEG_HD float below_top(float logit, float top) { return -limited_distance(logit - top); }

// below_top of a channel whose probability would be 1 / C. Everything is relative to the top:
// logits may be so large that they have no fraction left.
EDGESEG_HD float uniform_logit(const Softmax& softmax, float channels) {
    return log32(softmax.sum * (1.0f / channels));
}

// A channel's part of C (ln C - H): u ln u - u + 1, u = C p = exp(below - uniform). The parts of
// all channels are added; each is at least 0.
EDGESEG_HD float deficit_part(float below, float uniform, float u) {
    const float y = below - uniform;
    float series = y * (1.0f / 144.0f) + 1.0f / 30.0f;
    series = series * y + 1.0f / 8.0f;
    series = series * y + 1.0f / 3.0f;
    series = series * y + 0.5f;
    return fabsf(y) < kNearUniform ? series * y * y : u * (y - 1.0f) + 1.0f;
}

// Entropy, from the sum of below_top * exp(below_top) over the channels.
EDGESEG_HD float softmax_entropy(const Softmax& softmax, float moment) {
    return log32(softmax.sum) - moment / softmax.sum;
}

// How a view enters the sums of a pixel: sum = keep * sum + weight * (what the view has).
struct Share {
    float keep;
    float weight;
};

// Least entropy before the first view.
constexpr float kNoEntropy = FLT_MAX;

// `measure` is that of Binary; for several channels ln C - H (or any fixed multiple of it) or H.
// `least` is the least entropy of the pixel's views so far.
template <int kWeighting>
EDGESEG_HD Share share(float measure, bool valid, float inverse_temperature, float& least) {
    Share result;
    result.keep = 1.0f;
    if (kWeighting == EDGESEG_WEIGHT_ENTROPY) {
        result.weight = valid ? measure + kLeastWeight : 0.0f;
    } else if (kWeighting == EDGESEG_WEIGHT_EXP) {
        const float entropy = valid ? measure : least;
        const float e = exp32(-limited_distance((least - entropy) * inverse_temperature));
        const bool lower = entropy < least;
        result.keep = lower ? e : 1.0f;
        const float weight = lower ? 1.0f : e;
        result.weight = valid ? weight : 0.0f;
        least = lower ? entropy : least;
    } else {
        result.weight = valid ? 1.0f : 0.0f;
    }
    return result;
}

// The sums of one probability and of the weights over a pixel's views.
struct ViewSums {
    float weighted;
    float total;
    float least;
};

EDGESEG_HD ViewSums no_views() {
    ViewSums sums;
    sums.weighted = 0.0f;
    sums.total = 0.0f;
    sums.least = kNoEntropy;
    return sums;
}

// One channel: adds a view whose interpolated logit may be NaN.
template <int kWeighting>
EDGESEG_HD void add_view(ViewSums& sums, float logit, float inverse_temperature) {
    const Binary view = binary<kWeighting>(logit);
    const Share part =
        share<kWeighting>(view.measure, logit == logit, inverse_temperature, sums.least);
    sums.weighted = part.keep * sums.weighted + part.weight * view.probability;
    sums.total = part.keep * sums.total + part.weight;
}

// The fused probability; `certain` where no view was left: 1 for the background channel of several,
// else 0.
EDGESEG_HD float fused(float weighted, float total, float certain) {
    return total > 0.0f ? weighted / total : certain;
}

// One step of the exponential smoothing. Several channels of a pixel are `usable` together or not
// at all: if the state of one of them is not finite, that of none is read.
EDGESEG_HD float smooth_in_time(float probability, float state, bool usable, float keep) {
    return usable ? keep * state + (1.0f - keep) * probability : probability;
}

}  // namespace edgeseg

#endif  // EDGESEG_FUSE_H
