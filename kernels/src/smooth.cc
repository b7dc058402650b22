#include "smooth.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>

#include "context.h"
#include "edgeseg/smooth.h"
#include "isa.h"

namespace edgeseg {
namespace {

// A tile is as wide as its rings fit into a first-level cache, but at least so wide that whole
// stretches of lines are read.
constexpr int kWidestTile = 512;
constexpr size_t kRingBytes = 32 * 1024;

// Tiles for each thread, so that one that wakes late still gets its share.
constexpr int kTilesPerThread = 4;

// Slices that are asked for ahead of time.
constexpr int kAhead = 2;

// Results larger than this are written past the caches, which could not hold them for the reader.
constexpr size_t kStreamBytes = 16 * 1024 * 1024;

const SmoothLoops& loops_of(int isa) {
    switch (float_isa(isa)) {
#if defined(EDGESEG_X86)
        case FloatIsa::kAvx512:
            return kSmoothAvx512;
        case FloatIsa::kAvx2:
            return kSmoothAvx2;
#endif
        default:
            return kSmoothGeneric;
    }
}

bool is_aligned(const float* row) { return reinterpret_cast<uintptr_t>(row) % kCacheLine == 0; }

int64_t rounded_up(int64_t columns) {
    return (columns + kSmoothLanes - 1) / kSmoothLanes * kSmoothLanes;
}

int tile_columns(int64_t plane, int rows, int threads) {
    const int64_t fitting = kRingBytes / sizeof(float) / rows / kSmoothLanes * kSmoothLanes;
    int64_t columns = std::min<int64_t>(fitting, kWidestTile);
    if (threads > 1) {
        columns = std::min(columns, rounded_up((plane - 1) / (kTilesPerThread * threads) + 1));
    }
    return static_cast<int>(std::max<int64_t>(columns, kSmoothLanes));
}

}  // namespace

Smoother::Smoother(int isa, ThreadPool& pool) : loops_(loops_of(isa)), pool_(pool) {}

void Smoother::run(const Smoothing& smoothing, int threads) {
    Job job;
    job.smoothing = smoothing;
    // The largest of all channels is known only where they march together.
    job.group = smoothing.mask != nullptr ? smoothing.channels : 1;
    job.slots = std::min(2 * smoothing.radius + 1, smoothing.depth);
    job.columns = tile_columns(smoothing.plane, job.group * job.slots, threads);
    job.lead = std::min<int64_t>(job.columns, smoothing.plane);
    job.streams = false;
    if (smoothing.out != nullptr) {
        const auto address = reinterpret_cast<uintptr_t>(smoothing.out);
        const int64_t past = static_cast<int64_t>(address % kCacheLine / sizeof(float));
        job.lead = std::min<int64_t>(job.columns - past, smoothing.plane);
        const size_t bytes =
            sizeof(float) * smoothing.channels * smoothing.count * size_t(smoothing.plane);
        job.streams = bytes > kStreamBytes;
    }
    job.tiles = 1 + (smoothing.plane - job.lead + job.columns - 1) / job.columns;
    const int64_t tasks = job.tiles * (smoothing.channels / job.group);
    threads = static_cast<int>(std::min<int64_t>(threads, tasks));

    pool_.reserve(threads);
    if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
    for (int worker = 0; worker < threads; ++worker) {
        Scratch& scratch = scratch_[worker];
        scratch.rings.grow(size_t(job.group) * job.slots * job.columns);
        scratch.row.grow(job.columns);
        if (smoothing.mask != nullptr && job.group > 1) scratch.best.grow(job.columns);
        const size_t rows = 2 * size_t(smoothing.radius) + 1;
        if (scratch.rows.size() < rows) scratch.rows.resize(rows);
    }
    // Indices of the pool are int; each stands for as many tasks as it takes.
    const int64_t share = (tasks - 1) / INT_MAX + 1;
    const int shares = static_cast<int>((tasks - 1) / share + 1);
    pool_.run(shares, threads, [&](int index, int worker) {
        const int64_t end = std::min(tasks, (index + 1) * share);
        for (int64_t task = index * share; task < end; ++task) tile(job, task, scratch_[worker]);
    });
}

void Smoother::tile(const Job& job, int64_t index, Scratch& scratch) const {
    const Smoothing& s = job.smoothing;
    const int64_t number = index % job.tiles;
    const int first_channel = static_cast<int>(index / job.tiles) * job.group;
    const int64_t begin = number == 0 ? 0 : job.lead + (number - 1) * job.columns;
    const int64_t end = std::min(job.lead + number * job.columns, s.plane);
    const int width = static_cast<int>(end - begin);
    const int stride = static_cast<int>(rounded_up(width));
    const size_t ring_floats = size_t(job.slots) * stride;
    float* const row = scratch.row.data();
    int next = static_cast<int>(edge_slice(int64_t(s.first) - s.radius, s.depth));
    for (int z = s.first; z < s.first + s.count; ++z) {
        const int last = static_cast<int>(edge_slice(int64_t(z) + s.radius, s.depth));
        for (int c = 0; c < job.group; ++c) {
            const float* source = s.volume + size_t(first_channel + c) * s.depth * s.plane + begin;
            float* ring = scratch.rings.data() + c * ring_floats;
            for (int slice = next; slice <= last; ++slice) {
                loops_.take(source + slice * s.plane, width,
                            ring + size_t(slice % job.slots) * stride);
            }
            const float** rows = scratch.rows.data();
            int before = z % job.slots, after = before;
            rows[0] = ring + size_t(before) * stride;
            for (int k = 1; k <= s.radius; ++k) {
                if (z - k >= 0) before = before > 0 ? before - 1 : job.slots - 1;
                if (k < s.depth - z) after = after + 1 < job.slots ? after + 1 : 0;
                rows[2 * k - 1] = ring + size_t(before) * stride;
                rows[2 * k] = ring + size_t(after) * stride;
            }
            const float* ahead = source + edge_slice(int64_t(last) + kAhead, s.depth) * s.plane;
            const size_t result = size_t(z - s.first) * s.plane + begin;
            float* out = s.out != nullptr
                             ? s.out + size_t(first_channel + c) * s.count * s.plane + result
                             : nullptr;
            if (job.streams && s.mask == nullptr && width == stride && is_aligned(out)) {
                loops_.sum_past(rows, s.weights, s.radius, ahead, stride, out);
                continue;
            }
            loops_.sum(rows, s.weights, s.radius, ahead, stride, row);
            if (job.streams) {
                loops_.stream(row, width, out);
            } else if (out != nullptr) {
                std::memcpy(out, row, sizeof(float) * width);
            }
            if (s.mask == nullptr) continue;
            if (job.group == 1) {
                loops_.compare(row, s.threshold, width, s.mask + result);
            } else {
                loops_.compete(row, c, width, scratch.best.data(), s.mask + result);
            }
        }
        next = last + 1;
    }
    if (job.streams) loops_.fence();
}

}  // namespace edgeseg

namespace {

// Whether an array of that many floats can exist.
bool addressable(int64_t channels, int64_t depth, int64_t plane) {
    return plane <= PTRDIFF_MAX / static_cast<int64_t>(sizeof(float)) / channels / depth;
}

bool is_float_address(const float* values) {
    return reinterpret_cast<uintptr_t>(values) % alignof(float) == 0;
}

}  // namespace

extern "C" int edgeseg_smooth_z(edgeseg_context* context, const float* volume, int32_t channels,
                                int32_t depth, int64_t plane, const float* weights, int32_t radius,
                                int32_t first, int32_t count, const float* threshold, int threads,
                                float* out, uint8_t* mask) {
    if (context == nullptr || volume == nullptr || weights == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (out == nullptr && mask == nullptr) return EDGESEG_INVALID_ARGUMENT;
    if (!is_float_address(volume) || !is_float_address(out)) return EDGESEG_INVALID_ARGUMENT;
    if (channels < 1 || channels > EDGESEG_MAX_CHANNELS || depth < 1 || plane < 1 ||
        !addressable(channels, depth, plane)) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (radius < 0 || radius > EDGESEG_MAX_RADIUS || first < 0 || count < 1 ||
        count > depth - first || threads < 1 || threads > EDGESEG_MAX_THREADS) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    const auto finite = [](float weight) { return std::isfinite(weight); };
    if (!std::all_of(weights, weights + radius + 1, finite)) return EDGESEG_INVALID_ARGUMENT;
    const bool compares = mask != nullptr && channels == 1;
    if (compares && (threshold == nullptr || std::isnan(*threshold))) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    edgeseg::Smoothing smoothing;
    smoothing.volume = volume;
    smoothing.channels = channels;
    smoothing.depth = depth;
    smoothing.plane = plane;
    smoothing.weights = weights;
    smoothing.radius = radius;
    smoothing.first = first;
    smoothing.count = count;
    smoothing.threshold = compares ? *threshold : 0.0f;
    smoothing.out = out;
    smoothing.mask = mask;
    return edgeseg::guarded(context, [&] { context->smoother.run(smoothing, threads); });
}
