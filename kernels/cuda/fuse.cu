// fuse_views: each thread reads the logits of a few neighbouring pixels straight from the small
// maps, which stay in the caches, and keeps the sums over the views in registers.
#include <cmath>

#include "edgeseg/fuse.h"
#include "portable.cuh"
#include "taps.cuh"

namespace edgeseg {
namespace cuda {
namespace {

struct ViewSlot {
    const void* logits;
    TapScale across;
    TapScale down;
    int32_t width;
    int32_t height;
    uint8_t half;
    uint8_t flips;
    uint8_t same_grid;  // width and height are those of the view before
};

// Few views are the rule, and a launch copies the whole list.
constexpr int kFewViews = 16;

template <int kViews>
struct FuseParams {
    const edgeseg_fusion* fusion;
    float* state;
    float* probability;
    uint8_t* mask;
    int32_t width;
    int32_t height;
    int32_t channels;
    int32_t count;
    int32_t wide;  // stores of several pixels are aligned
    ViewSlot views[kViews];
};

// Offsets of the four samples around a pixel in a plane, and the shares of the second ones.
struct Corners {
    int64_t top;
    int64_t bottom;
    int32_t left;
    int32_t right;
    float across;
    float down;
};

EDGESEG_DEVICE Corners corners_of(const ViewSlot& view, const Between& x, const Between& y) {
    Corners corners;
    const bool flip_x = view.flips & EDGESEG_FLIP_H;
    const bool flip_y = view.flips & EDGESEG_FLIP_V;
    const int32_t top = flip_y ? view.height - 1 - y.base : y.base;
    const int32_t bottom = flip_y ? top - y.step : top + y.step;
    corners.left = flip_x ? view.width - 1 - x.base : x.base;
    corners.right = flip_x ? corners.left - x.step : corners.left + x.step;
    corners.top = static_cast<int64_t>(top) * view.width;
    corners.bottom = static_cast<int64_t>(bottom) * view.width;
    corners.across = x.far;
    corners.down = y.far;
    return corners;
}

EDGESEG_DEVICE float to_float(float logit) { return logit; }
EDGESEG_DEVICE float to_float(uint16_t logit) { return half_to_float(logit); }

// The four logits around a pixel.
struct Samples {
    float a, b, c, d;
};

template <typename Logit>
EDGESEG_DEVICE Samples load_samples(const void* logits, int64_t plane, const Corners& corners) {
    const Logit* top = static_cast<const Logit*>(logits) + plane + corners.top;
    const Logit* bottom = static_cast<const Logit*>(logits) + plane + corners.bottom;
    return {to_float(load_constant(top + corners.left)),
            to_float(load_constant(top + corners.right)),
            to_float(load_constant(bottom + corners.left)),
            to_float(load_constant(bottom + corners.right))};
}

EDGESEG_DEVICE float between(const Corners& corners, const Samples& samples) {
    const float near = 1.0f - corners.across;
    const float top = interpolate(near, samples.a, corners.across, samples.b);
    const float bottom = interpolate(near, samples.c, corners.across, samples.d);
    return interpolate(1.0f - corners.down, top, corners.down, bottom);
}

// An infinite logit leaves no finite value behind, so that only then there is something to do.
EDGESEG_DEVICE float between_sanitized(const Corners& corners, const Samples& samples) {
    return between(corners, {sanitize(samples.a), sanitize(samples.b), sanitize(samples.c),
                             sanitize(samples.d)});
}

// The interpolated logit; NaN if one that takes part is.
EDGESEG_DEVICE float logit_at(const ViewSlot& view, int64_t plane, const Corners& corners) {
    const Samples samples = view.half ? load_samples<uint16_t>(view.logits, plane, corners)
                                      : load_samples<float>(view.logits, plane, corners);
    const float value = between(corners, samples);
    return is_finite(value) ? value : between_sanitized(corners, samples);
}

// Those of one channel at several pixels. All are asked for before the first is looked at, so that
// the loads overlap.
template <typename Logit, int kPixels>
EDGESEG_DEVICE void logits_at(const ViewSlot& view, const Between (&across)[kPixels],
                              const Between& down, float (&logits)[kPixels]) {
    Corners corners[kPixels];
    Samples samples[kPixels];
    bool finite = true;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
        corners[i] = corners_of(view, across[i], down);
        samples[i] = load_samples<Logit>(view.logits, 0, corners[i]);
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
        logits[i] = between(corners[i], samples[i]);
        finite = finite && is_finite(logits[i]);
    }
    if (finite) return;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) logits[i] = between_sanitized(corners[i], samples[i]);
}

// One channel.
template <int kViews>
struct FuseOne {
    using Params = FuseParams<kViews>;
    static constexpr int kThreads = 128;
    static constexpr int kPixels = 4;  // of one row, for each thread

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        switch (load_constant(&params.fusion->weighting)) {
            case EDGESEG_WEIGHT_ENTROPY:
                return fuse<EDGESEG_WEIGHT_ENTROPY>(params, at);
            case EDGESEG_WEIGHT_EXP:
                return fuse<EDGESEG_WEIGHT_EXP>(params, at);
            default:
                return fuse<EDGESEG_WEIGHT_MEAN>(params, at);
        }
    }

    template <int kWeighting>
    EDGESEG_DEVICE static void fuse(const Params& params, const Position& at) {
        if (at.x * kPixels >= params.width) return;
        const int32_t first = static_cast<int32_t>(at.x) * kPixels;
        const float inverse = inverse_temperature(load_constant(&params.fusion->temperature));
        ViewSums sums[kPixels];
        Between across[kPixels];
        Between down{};
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            sums[i] = no_views();
            across[i] = Between{};
        }
        for (int v = 0; v < params.count; ++v) {
            const ViewSlot& view = params.views[v];
            if (!view.same_grid) {
                down = quick_taps(view.height, params.height, view.down, at.y);
#pragma unroll
                for (int i = 0; i < kPixels; ++i) {
                    // Pixels beyond the row are computed with the last one's samples.
                    const int32_t x = first + i < params.width ? first + i : params.width - 1;
                    across[i] = quick_taps(view.width, params.width, view.across, x);
                }
            }
            float logits[kPixels];
            if (view.half) {
                logits_at<uint16_t>(view, across, down, logits);
            } else {
                logits_at<float>(view, across, down, logits);
            }
#pragma unroll
            for (int i = 0; i < kPixels; ++i) add_view<kWeighting>(sums[i], logits[i], inverse);
        }
        finish(params, at.y, first, sums);
    }

    EDGESEG_DEVICE static void finish(const Params& params, int32_t y, int32_t first,
                                      const ViewSums (&sums)[kPixels]) {
        const int64_t begin = static_cast<int64_t>(y) * params.width + first;
        const float keep = load_constant(&params.fusion->keep);
        const float threshold = load_constant(&params.fusion->threshold);
        const bool remembers = params.state != nullptr && load_constant(&params.fusion->reset) == 0;
        Pack<kPixels> result;
        if (params.wide) {
            Pack<kPixels> state{};
            if (remembers) state = *reinterpret_cast<const Pack<kPixels>*>(params.state + begin);
            uint32_t bytes = 0;
#pragma unroll
            for (int i = 0; i < kPixels; ++i) {
                const float p = fused(sums[i].weighted, sums[i].total, 0.0f);
                const float previous = state.v[i];
                result.v[i] = smooth_in_time(p, previous, remembers && is_finite(previous), keep);
                bytes |= static_cast<uint32_t>(result.v[i] > threshold) << 8 * i;
            }
            if (params.state != nullptr) {
                *reinterpret_cast<Pack<kPixels>*>(params.state + begin) = result;
            }
            if (params.probability != nullptr && params.probability != params.state) {
                *reinterpret_cast<Pack<kPixels>*>(params.probability + begin) = result;
            }
            if (params.mask != nullptr) {
                *reinterpret_cast<uint32_t*>(params.mask + begin) = bytes;
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            if (first + i >= params.width) continue;
            const float p = fused(sums[i].weighted, sums[i].total, 0.0f);
            const float previous = remembers ? params.state[begin + i] : 0.0f;
            const float smoothed =
                smooth_in_time(p, previous, remembers && is_finite(previous), keep);
            if (params.state != nullptr) params.state[begin + i] = smoothed;
            if (params.probability != nullptr) params.probability[begin + i] = smoothed;
            if (params.mask != nullptr) params.mask[begin + i] = smoothed > threshold;
        }
    }
};

// Several channels: one pixel for each thread. The views' softmaxes and weights first, then channel
// by channel; nothing is kept for each channel.
template <int kViews>
struct FuseMany {
    using Params = FuseParams<kViews>;
    static constexpr int kThreads = 128;

    // What is known of a view at this pixel.
    struct Seen {
        float top;
        float sum;
        float measure;  // NaN: the view is left out
    };

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        if (at.x >= params.width) return;
        const int32_t x = static_cast<int32_t>(at.x);
        switch (load_constant(&params.fusion->weighting)) {
            case EDGESEG_WEIGHT_ENTROPY:
                return fuse<EDGESEG_WEIGHT_ENTROPY>(params, x, at.y);
            case EDGESEG_WEIGHT_EXP:
                return fuse<EDGESEG_WEIGHT_EXP>(params, x, at.y);
            default:
                return fuse<EDGESEG_WEIGHT_MEAN>(params, x, at.y);
        }
    }

    EDGESEG_DEVICE static Corners corners_at(const Params& params, const ViewSlot& view, int32_t x,
                                             int32_t y) {
        return corners_of(view, quick_taps(view.width, params.width, view.across, x),
                          quick_taps(view.height, params.height, view.down, y));
    }

    template <int kWeighting>
    EDGESEG_DEVICE static Seen look(const Params& params, const ViewSlot& view, int32_t x,
                                    int32_t y) {
        const Corners corners = corners_at(params, view, x, y);
        const int64_t plane = static_cast<int64_t>(view.width) * view.height;
        float logit = logit_at(view, 0, corners);
        bool valid = logit == logit;
        Softmax softmax = start_softmax(logit);
        for (int c = 1; c < params.channels; ++c) {
            logit = logit_at(view, c * plane, corners);
            valid = valid && logit == logit;
            add_channel(softmax, logit);
        }
        Seen seen;
        seen.top = softmax.top;
        seen.sum = softmax.sum;
        seen.measure = 0.0f;
        if (kWeighting != EDGESEG_WEIGHT_MEAN) {
            const float channels = static_cast<float>(params.channels);
            const float uniform = uniform_logit(softmax, channels);
            const float scale = channels / softmax.sum;
            float total = 0.0f;
            for (int c = 0; c < params.channels; ++c) {
                logit = logit_at(view, c * plane, corners);
                const float below = below_top(logit, softmax.top);
                const float e = exp32(below);
                total += kWeighting == EDGESEG_WEIGHT_ENTROPY
                             ? deficit_part(below, uniform, e * scale)
                             : below * e;
            }
            seen.measure =
                kWeighting == EDGESEG_WEIGHT_ENTROPY ? total : softmax_entropy(softmax, total);
        }
        if (!valid) seen.measure = NAN;
        return seen;
    }

    template <int kWeighting>
    EDGESEG_DEVICE static void fuse(const Params& params, int32_t x, int32_t y) {
        const float inverse = inverse_temperature(load_constant(&params.fusion->temperature));
        float top[kViews];
        float part[kViews];  // the measure, then weight / (sum of weights * sum of exponentials)
        float sum[kViews];
        float least = kNoEntropy;
        for (int v = 0; v < params.count; ++v) {
            const Seen seen = look<kWeighting>(params, params.views[v], x, y);
            top[v] = seen.top;
            sum[v] = seen.sum;
            part[v] = seen.measure;
            if (kWeighting == EDGESEG_WEIGHT_EXP)
                least = seen.measure < least ? seen.measure : least;
        }
        float total = 0.0f;
        for (int v = 0; v < params.count; ++v) {
            part[v] = share<kWeighting>(part[v], part[v] == part[v], inverse, least).weight;
            total += part[v];
        }
        for (int v = 0; v < params.count; ++v) {
            part[v] = part[v] > 0.0f ? part[v] / total / sum[v] : 0.0f;
        }
        write(params, x, y, top, part, total > 0.0f);
    }

    EDGESEG_DEVICE static void write(const Params& params, int32_t x, int32_t y,
                                     const float (&top)[kViews], const float (&part)[kViews],
                                     bool any) {
        const int64_t plane = static_cast<int64_t>(params.width) * params.height;
        const int64_t pixel = static_cast<int64_t>(y) * params.width + x;
        const float keep = load_constant(&params.fusion->keep);
        bool usable = params.state != nullptr && load_constant(&params.fusion->reset) == 0;
        for (int c = 0; usable && c < params.channels; ++c) {
            usable = is_finite(params.state[c * plane + pixel]);
        }
        float best = 0.0f;
        int winner = 0;
        for (int c = 0; c < params.channels; ++c) {
            float p = !any && c == 0 ? 1.0f : 0.0f;
            for (int v = 0; v < params.count; ++v) {
                if (part[v] == 0.0f) continue;
                const ViewSlot& view = params.views[v];
                const int64_t from = c * static_cast<int64_t>(view.width) * view.height;
                const float logit = logit_at(view, from, corners_at(params, view, x, y));
                p += part[v] * exp32(below_top(logit, top[v]));
            }
            const int64_t to = c * plane + pixel;
            p = smooth_in_time(p, usable ? params.state[to] : 0.0f, usable, keep);
            if (params.state != nullptr) params.state[to] = p;
            if (params.probability != nullptr) params.probability[to] = p;
            if (c == 0 || p > best) {
                best = p;
                winner = c;
            }
        }
        if (params.mask != nullptr) params.mask[pixel] = static_cast<uint8_t>(winner);
    }
};

bool is_side(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

bool is_view(const edgeseg_view& view) {
    return view.logits != nullptr && is_side(view.width) && is_side(view.height) &&
           (view.dtype == EDGESEG_FLOAT32 || view.dtype == EDGESEG_FLOAT16) && view.flips >= 0 &&
           view.flips <= (EDGESEG_FLIP_H | EDGESEG_FLIP_V);
}

template <int kViews>
int start(const edgeseg_view* views, FuseParams<kViews>& params, void* stream) {
    for (int v = 0; v < params.count; ++v) {
        const edgeseg_view& from = views[v];
        ViewSlot& to = params.views[v];
        to.logits = from.logits;
        to.across = make_tap_scale(from.width, params.width);
        to.down = make_tap_scale(from.height, params.height);
        to.width = from.width;
        to.height = from.height;
        to.half = from.dtype == EDGESEG_FLOAT16;
        to.flips = static_cast<uint8_t>(from.flips);
        to.same_grid =
            v > 0 && from.width == views[v - 1].width && from.height == views[v - 1].height;
    }
    if (params.channels > 1) {
        return launch<FuseMany<kViews>>(params, {params.width, params.height, 1}, stream);
    }
    constexpr int kPixels = FuseOne<kViews>::kPixels;
    const int64_t row = params.width;
    params.wide = is_aligned<4 * kPixels>(params.state, 4 * row) &&
                  is_aligned<4 * kPixels>(params.probability, 4 * row) &&
                  is_aligned<kPixels>(params.mask, row);
    return launch<FuseOne<kViews>>(params, {ceil_div(row, kPixels), params.height, 1}, stream);
}

template <int kViews>
int fuse_views(const edgeseg_view* views, int32_t count, int32_t channels, int32_t width,
               int32_t height, const edgeseg_fusion* fusion, float* state, float* probability,
               uint8_t* mask, void* stream) {
    FuseParams<kViews> params{};
    params.fusion = fusion;
    params.state = state;
    params.probability = probability;
    params.mask = mask;
    params.width = width;
    params.height = height;
    params.channels = channels;
    params.count = count;
    return start(views, params, stream);
}

}  // namespace

int prepare_fuse() {
    int (*const steps[])() = {load<FuseOne<kFewViews>>, load<FuseOne<EDGESEG_MAX_VIEWS>>,
                              load<FuseMany<kFewViews>>, load<FuseMany<EDGESEG_MAX_VIEWS>>};
    for (const auto step : steps) {
        const int status = step();
        if (status != EDGESEG_OK) return status;
    }
    return EDGESEG_OK;
}

}  // namespace cuda
}  // namespace edgeseg

extern "C" int edgeseg_cuda_fuse_views(const edgeseg_view* views, int32_t count, int32_t channels,
                                       int32_t width, int32_t height, const edgeseg_fusion* fusion,
                                       float* state, float* probability, uint8_t* mask,
                                       void* stream) {
    using namespace edgeseg::cuda;
    if (views == nullptr || count < 1 || count > EDGESEG_MAX_VIEWS || channels < 1 ||
        channels > EDGESEG_MAX_CHANNELS || !is_side(width) || !is_side(height) ||
        fusion == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    for (int v = 0; v < count; ++v) {
        if (!is_view(views[v])) return EDGESEG_INVALID_ARGUMENT;
    }
    const auto call = count <= kFewViews ? fuse_views<kFewViews> : fuse_views<EDGESEG_MAX_VIEWS>;
    return call(views, count, channels, width, height, fusion, state, probability, mask, stream);
}
