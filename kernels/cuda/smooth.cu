// smooth_z: threads walk down the slices, each along a few neighbouring columns, and keep the
// neighbourhood in registers, so that every voxel is read once.
#include <algorithm>
#include <cmath>

#include "edgeseg/smooth.h"
#include "edgeseg/vectormath.h"
#include "portable.cuh"

namespace edgeseg {
namespace cuda {
namespace {

// Slices that are loaded, and computed, between two shifts of the registers.
constexpr int kStep = 8;

// Weights lie among the kernel's parameters, which arithmetic reads without loading them first.
template <int kRadius>
struct SmoothParams {
    const float* volume;
    float* out;
    uint8_t* mask;
    const float* threshold;
    int64_t plane;
    int32_t channels;
    int32_t depth;
    int32_t radius;
    int32_t first;
    int32_t count;
    int32_t segment;  // slices for each thread
    float weights[kRadius + 1];
};

// Voxels of `kCount` slices from `next` on. All are asked for before the first is looked at, so
// that the loads overlap; hardly ever is one not finite.
template <int kCount, int N>
EDGESEG_DEVICE void load_slices(const float* volume, int32_t next, int32_t depth, int64_t plane,
                                Pack<N>* voxels) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        voxels[i] = load_once<N>(volume + edge_slice(next + i, depth) * plane);
    }
    bool finite = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) finite = finite && is_finite(voxels[i].v[j]);
    }
    if (finite) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) voxels[i].v[j] = finite_voxel(voxels[i].v[j]);
    }
}

// N bytes at once; masks are aligned wherever the floats are.
template <int N>
EDGESEG_DEVICE void store_mask(uint8_t* target, const uint8_t (&bytes)[N]) {
    if constexpr (N == 4) {
        *reinterpret_cast<uint32_t*>(target) = bytes[0] | uint32_t(bytes[1]) << 8 |
                                               uint32_t(bytes[2]) << 16 | uint32_t(bytes[3]) << 24;
    } else if constexpr (N == 2) {
        *reinterpret_cast<uint16_t*>(target) = static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
    } else {
        target[0] = bytes[0];
    }
}

// Radii up to kRadius; weights beyond the radius are 0. Grid: columns, segments of slices,
// channels.
template <int kRadius, int N>
struct SmoothShort {
    using Params = SmoothParams<kRadius>;
    static constexpr int kThreads = 128;
    static constexpr int kColumns = N;

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        const int64_t column = at.x * N;
        if (column >= params.plane) return;
        const int32_t begin = at.y * params.segment;
        const int32_t end =
            begin + params.segment < params.count ? begin + params.segment : params.count;
        const int64_t channel = static_cast<int64_t>(at.z);
        const float* volume = params.volume + channel * params.depth * params.plane + column;
        const int64_t to = channel * params.count * params.plane + column;
        const float threshold =
            params.threshold != nullptr ? load_constant(params.threshold) : 0.0f;

        Pack<N> ring[2 * kRadius + kStep];
        int32_t next = params.first + begin - kRadius;
        load_slices<2 * kRadius, N>(volume, next, params.depth, params.plane, ring);
        next += 2 * kRadius;
        for (int32_t slice = begin; slice < end; slice += kStep) {
            load_slices<kStep, N>(volume, next, params.depth, params.plane, ring + 2 * kRadius);
            next += kStep;
#pragma unroll
            for (int i = 0; i < kStep; ++i) {
                if (slice + i >= end) break;
                Pack<N> sum;
                uint8_t bytes[N];
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    float value = params.weights[0] * ring[kRadius + i].v[j];
#pragma unroll
                    for (int d = 1; d <= kRadius; ++d) {
                        value = add_pair(value, params.weights[d], ring[kRadius + i - d].v[j],
                                         ring[kRadius + i + d].v[j]);
                    }
                    sum.v[j] = value;
                    bytes[j] = value > threshold;
                }
                const int64_t voxel = to + (slice + i) * params.plane;
                if (params.out != nullptr) store_once<N>(params.out + voxel, sum);
                if (params.mask != nullptr) store_mask<N>(params.mask + voxel, bytes);
            }
#pragma unroll
            for (int i = 0; i < 2 * kRadius; ++i) ring[i] = ring[i + kStep];
        }
    }
};

// Any radius, and the largest of several channels: kStep slices at a time, whose neighbourhoods
// overlap in the caches. Grid: columns, steps, 1.
template <int N>
struct SmoothLong {
    using Params = SmoothParams<EDGESEG_MAX_RADIUS>;
    static constexpr int kThreads = 128;

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        const int64_t column = at.x * N;
        if (column >= params.plane) return;
        const int32_t begin = at.y * kStep;
        const int32_t slices = params.count - begin < kStep ? params.count - begin : kStep;
        Pack<N> best[kStep];
        uint8_t winner[kStep][N];
        for (int32_t c = 0; c < params.channels; ++c) {
            Pack<N> sum[kStep];
            accumulate(params, c, column, params.first + begin, sum);
#pragma unroll
            for (int i = 0; i < kStep; ++i) {
                if (i >= slices) break;
                if (params.out != nullptr) {
                    const int64_t slice = static_cast<int64_t>(c) * params.count + begin + i;
                    store_once<N>(params.out + slice * params.plane + column, sum[i]);
                }
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    if (c > 0 && !(sum[i].v[j] > best[i].v[j])) continue;
                    best[i].v[j] = sum[i].v[j];
                    winner[i][j] = static_cast<uint8_t>(c);
                }
            }
        }
        if (params.mask == nullptr) return;
        const float threshold = params.channels == 1 ? load_constant(params.threshold) : 0.0f;
#pragma unroll
        for (int i = 0; i < kStep; ++i) {
            if (i >= slices) break;
            if (params.channels == 1) {
#pragma unroll
                for (int j = 0; j < N; ++j) winner[i][j] = best[i].v[j] > threshold;
            }
            store_mask<N>(params.mask + (begin + i) * params.plane + column, winner[i]);
        }
    }

    EDGESEG_DEVICE static void accumulate(const Params& params, int32_t channel, int64_t column,
                                          int32_t first, Pack<N> (&sum)[kStep]) {
        const float* volume =
            params.volume + static_cast<int64_t>(channel) * params.depth * params.plane + column;
#pragma unroll
        for (int i = 0; i < kStep; ++i) sum[i] = Pack<N>{};
#pragma unroll 4
        for (int32_t z = -params.radius; z < kStep + params.radius; ++z) {
            Pack<N> voxels =
                load_once<N>(volume + edge_slice(first + z, params.depth) * params.plane);
#pragma unroll
            for (int j = 0; j < N; ++j) voxels.v[j] = finite_voxel(voxels.v[j]);
#pragma unroll
            for (int i = 0; i < kStep; ++i) {
                const int32_t distance = z < i ? i - z : z - i;
                if (distance > params.radius) continue;
                const float weight = params.weights[distance];
#pragma unroll
                for (int j = 0; j < N; ++j) sum[i].v[j] += weight * voxels.v[j];
            }
        }
    }
};

// What a call is, before a kernel is chosen for it.
using Call = SmoothParams<0>;

template <typename Kernel>
int start(const Call& call, const float* weights, const Extent& extent, int32_t segment,
          void* stream) {
    typename Kernel::Params params{};
    params.volume = call.volume;
    params.out = call.out;
    params.mask = call.mask;
    params.threshold = call.threshold;
    params.plane = call.plane;
    params.channels = call.channels;
    params.depth = call.depth;
    params.radius = call.radius;
    params.first = call.first;
    params.count = call.count;
    params.segment = segment;
    std::copy(weights, weights + call.radius + 1, params.weights);
    return launch<Kernel>(params, extent, stream);
}

// Segments cost 2 * radius slices that are read again, so there are no more than fill the device.
template <typename Kernel>
int start_short(const Call& call, const float* weights, void* stream) {
    int processors = 0;
    const int status = multiprocessors(&processors);
    if (status != EDGESEG_OK) return status;
    constexpr int64_t kThreadsPerProcessor = 1024;
    const int64_t columns = ceil_div(call.plane, Kernel::kColumns);
    const int64_t wanted = ceil_div(kThreadsPerProcessor * processors, columns * call.channels);
    const int64_t least = std::max<int64_t>(4 * call.radius, 2 * kStep);
    const int64_t segments =
        std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, call.count / least));
    const int64_t segment = ceil_div(ceil_div(call.count, segments), kStep) * kStep;
    const auto blocks = static_cast<int32_t>(ceil_div(call.count, segment));
    return start<Kernel>(call, weights, {columns, blocks, call.channels},
                         static_cast<int32_t>(segment), stream);
}

template <int N>
int start_long(const Call& call, const float* weights, void* stream) {
    const auto steps = static_cast<int32_t>(ceil_div(call.count, kStep));
    return start<SmoothLong<N>>(call, weights, {ceil_div(call.plane, N), steps, 1}, 0, stream);
}

// Floats and mask bytes of `n` neighbouring columns can be loaded and stored at once.
template <int N>
bool is_wide(const Call& call) {
    return is_aligned<4 * N>(call.volume, 4 * call.plane) &&
           is_aligned<4 * N>(call.out, 4 * call.plane) && is_aligned<N>(call.mask, call.plane);
}

int choose(const Call& call, const float* weights, void* stream) {
    const bool four = is_wide<4>(call);
    const bool argmax = call.mask != nullptr && call.channels > 1;
    if (call.radius > 16 || argmax) {
        return four ? start_long<4>(call, weights, stream) : start_long<1>(call, weights, stream);
    }
    if (call.radius > 8) {
        return is_wide<2>(call) ? start_short<SmoothShort<16, 2>>(call, weights, stream)
                                : start_short<SmoothShort<16, 1>>(call, weights, stream);
    }
    if (call.radius > 4) {
        return four ? start_short<SmoothShort<8, 4>>(call, weights, stream)
                    : start_short<SmoothShort<8, 1>>(call, weights, stream);
    }
    return four ? start_short<SmoothShort<4, 4>>(call, weights, stream)
                : start_short<SmoothShort<4, 1>>(call, weights, stream);
}

}  // namespace

int prepare_smooth() {
    int (*const steps[])() = {load<SmoothShort<4, 4>>,  load<SmoothShort<4, 1>>,
                              load<SmoothShort<8, 4>>,  load<SmoothShort<8, 1>>,
                              load<SmoothShort<16, 2>>, load<SmoothShort<16, 1>>,
                              load<SmoothLong<4>>,      load<SmoothLong<1>>};
    for (const auto step : steps) {
        const int status = step();
        if (status != EDGESEG_OK) return status;
    }
    return EDGESEG_OK;
}

}  // namespace cuda
}  // namespace edgeseg

extern "C" int edgeseg_cuda_smooth_z(const float* volume, int32_t channels, int32_t depth,
                                     int64_t plane, const float* weights, int32_t radius,
                                     int32_t first, int32_t count, const float* threshold,
                                     float* out, uint8_t* mask, void* stream) {
    using namespace edgeseg::cuda;
    if (volume == nullptr || weights == nullptr || channels < 1 ||
        channels > EDGESEG_MAX_CHANNELS || depth < 1 || depth > EDGESEG_MAX_SIDE || plane < 1 ||
        plane > int64_t(EDGESEG_MAX_SIDE) * EDGESEG_MAX_SIDE || radius < 0 ||
        radius > EDGESEG_MAX_RADIUS || first < 0 || count < 1 || count > depth - first ||
        (out == nullptr && mask == nullptr) ||
        (mask != nullptr && channels == 1 && threshold == nullptr)) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    for (int k = 0; k <= radius; ++k) {
        if (!std::isfinite(weights[k])) return EDGESEG_INVALID_ARGUMENT;
    }
    return choose(
        {volume, out, mask, threshold, plane, channels, depth, radius, first, count, 0, {}},
        weights, stream);
}
