#include "fuse.h"

#include <algorithm>
#include <cmath>

#include "context.h"
#include "edgeseg/fuse.h"
#include "isa.h"

namespace edgeseg {
namespace {

// Bands for each thread: enough to share the work while a thread wakes late, few enough that the
// source rows which neighbours both resample are a small part.
constexpr int kBandsPerThread = 4;
constexpr int kSmallestBand = 8;

// A strip is as wide as its scratch fits well into a second-level cache.
constexpr int kWidestStrip = 512;
constexpr size_t kStripBytes = 256 * 1024;

// Axes that are remembered beyond those of the present call.
constexpr size_t kAxes = 32;

const FuseLoops& loops_of(int isa) {
    switch (float_isa(isa)) {
#if defined(EDGESEG_X86)
        case FloatIsa::kAvx512:
            return kFuseAvx512;
        case FloatIsa::kAvx2:
            return kFuseAvx2;
#endif
        default:
            return kFuseGeneric;
    }
}

int rounded_up(int columns) { return (columns + kFuseLanes - 1) / kFuseLanes * kFuseLanes; }

size_t row_floats(int count, int channels) {
    return size_t(2) * count * channels + size_t(kFuseChannelRows) * channels + kFuseOtherRows;
}

int widest_strip(int count, int channels) {
    const size_t columns = kStripBytes / sizeof(float) / row_floats(count, channels);
    const int fitting = static_cast<int>(std::min<size_t>(columns, kWidestStrip));
    return std::max(fitting / kFuseLanes, 1) * kFuseLanes;
}

size_t value_bytes(const edgeseg_view& view) { return view.dtype == EDGESEG_FLOAT16 ? 2 : 4; }

}  // namespace

Fuser::Fuser(int isa, ThreadPool& pool) : loops_(loops_of(isa)), pool_(pool) {}

void Fuser::run(const edgeseg_view* views, int count, int channels, int width, int height,
                const edgeseg_fusion& fusion, int threads, float* state, float* probability,
                uint8_t* mask) {
    ++clock_;
    sources_.resize(count);
    int widest = 1;
    for (int v = 0; v < count; ++v) {
        const edgeseg_view& view = views[v];
        sources_[v].view = view;
        sources_[v].horizontal = &axis(view.width, width, (view.flips & EDGESEG_FLIP_H) != 0);
        sources_[v].vertical = &axis(view.height, height, (view.flips & EDGESEG_FLIP_V) != 0);
        widest = std::max(widest, view.width);
    }

    Job job;
    job.channels = channels;
    job.width = width;
    job.height = height;
    job.strips = (width - 1) / widest_strip(count, channels) + 1;
    job.strip_columns = rounded_up((width - 1) / job.strips + 1);
    job.strips = (width - 1) / job.strip_columns + 1;
    job.state = state;
    job.probability = probability;
    job.mask = mask;
    FuseStrip& strip = job.strip;
    strip.count = count;
    strip.channels = channels;
    strip.weighting = fusion.weighting;
    strip.inverse_temperature = inverse_temperature(fusion.temperature);
    strip.threshold = fusion.threshold;
    strip.keep = fusion.keep;
    strip.read_state = state != nullptr && fusion.reset == 0;
    strip.plane = size_t(height) * width;

    const int most_bands = (height - 1) / kSmallestBand + 1;
    threads = static_cast<int>(std::min<int64_t>(threads, int64_t(most_bands) * job.strips));
    job.bands = 1;
    if (threads > 1) {
        const int wanted = (kBandsPerThread * threads - 1) / job.strips + 1;
        job.bands = std::min(wanted, most_bands);
    }

    pool_.reserve(threads);
    if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
    const size_t row = job.strip_columns;
    for (int worker = 0; worker < threads; ++worker) {
        Scratch& scratch = scratch_[worker];
        scratch.loops.grow((size_t(kFuseChannelRows) * channels + kFuseOtherRows) * row);
        scratch.line.grow(widest);
        scratch.rows.grow(size_t(2) * count * channels * row);
        scratch.cached.resize(size_t(2) * count);
        scratch.views.resize(count);
    }
    pool_.run(job.bands * job.strips, threads,
              [this, &job](int index, int worker) { tile(job, index, scratch_[worker]); });
}

const Fuser::Axis& Fuser::axis(int in, int out, bool mirrored) {
    Axis* oldest = nullptr;
    for (const auto& known : axes_) {
        if (known->in == in && known->out == out && known->mirrored == mirrored) {
            known->last_use = clock_;
            return *known;
        }
        if (oldest == nullptr || known->last_use < oldest->last_use) oldest = known.get();
    }
    if (axes_.size() < kAxes || oldest->last_use == clock_) {
        axes_.push_back(std::make_unique<Axis>());
        oldest = axes_.back().get();
    }
    Axis& made = *oldest;
    made.in = 0;  // matches nothing if memory runs out halfway
    // The last strip reads on to its end.
    const size_t size = rounded_up(out);
    made.first.resize(size);
    made.second.resize(size);
    made.near.resize(size);
    made.far.resize(size);
    for (size_t i = 0; i < size; ++i) {
        const int index = static_cast<int>(std::min<size_t>(i, out - 1));
        const Taps taps = make_taps(in, out, mirrored, index);
        made.first[i] = taps.first;
        made.second[i] = taps.second;
        made.near[i] = taps.near;
        made.far[i] = taps.far;
    }
    made.in = in;
    made.out = out;
    made.mirrored = mirrored;
    made.last_use = clock_;
    return made;
}

void Fuser::tile(const Job& job, int index, Scratch& scratch) const {
    const int begin = index % job.strips * job.strip_columns;
    const auto edge = [&](int band) {
        return static_cast<int>(int64_t(job.height) * band / job.bands);
    };
    const int band = index / job.strips;
    FuseStrip strip = job.strip;
    strip.columns = std::min(job.strip_columns, job.width - begin);
    strip.stride = rounded_up(strip.columns);
    strip.views = scratch.views.data();
    strip.scratch = scratch.loops.data();
    std::fill(scratch.cached.begin(), scratch.cached.end(), -1);
    for (int y = edge(band); y < edge(band + 1); ++y) {
        for (int v = 0; v < strip.count; ++v) {
            const Axis& vertical = *sources_[v].vertical;
            FuseRows& rows = scratch.views[v];
            rows.first = resampled(job, v, vertical.first[y], begin, strip.stride, scratch);
            rows.second = resampled(job, v, vertical.second[y], begin, strip.stride, scratch);
            rows.near = vertical.near[y];
            rows.far = vertical.far[y];
        }
        const size_t offset = size_t(y) * job.width + begin;
        strip.state = job.state != nullptr ? job.state + offset : nullptr;
        strip.probability = job.probability != nullptr ? job.probability + offset : nullptr;
        strip.mask = job.mask != nullptr ? job.mask + offset : nullptr;
        if (strip.channels == 1) {
            loops_.one(strip);
        } else {
            loops_.several(strip);
        }
    }
}

// The columns from `begin` on of a source row, from the cache or made now. The two rows of a result
// row are neighbours, so that they never want the same place.
const float* Fuser::resampled(const Job& job, int view, int row, int begin, int columns,
                              Scratch& scratch) const {
    const size_t place = size_t(2) * view + row % 2;
    float* out = scratch.rows.data() + place * job.channels * job.strip_columns;
    if (scratch.cached[place] == row) return out;
    scratch.cached[place] = row;
    const Source& source = sources_[view];
    const Axis& axis = *source.horizontal;
    const size_t plane = size_t(source.view.height) * source.view.width;
    const size_t bytes = value_bytes(source.view);
    const int32_t* first = axis.first.data() + begin;
    const int32_t* second = axis.second.data() + begin;
    const int low = axis.mirrored ? second[columns - 1] : first[0];
    const int high = axis.mirrored ? first[0] : second[columns - 1];
    const auto* values = static_cast<const uint8_t*>(source.view.logits) +
                         (size_t(row) * source.view.width + low) * bytes;
    for (int c = 0; c < job.channels; ++c) {
        loops_.convert(values + c * plane * bytes, source.view.dtype, high - low + 1,
                       scratch.line.data());
        loops_.across(scratch.line.data(), low, first, second, axis.near.data() + begin,
                      axis.far.data() + begin, columns, out + size_t(c) * columns);
    }
    return out;
}

}  // namespace edgeseg

namespace {

bool in_range(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

bool acceptable(const edgeseg_view& view) {
    return view.logits != nullptr && in_range(view.width) && in_range(view.height) &&
           (view.dtype == EDGESEG_FLOAT32 || view.dtype == EDGESEG_FLOAT16) && view.flips >= 0 &&
           view.flips <= (EDGESEG_FLIP_H | EDGESEG_FLIP_V);
}

bool acceptable(const edgeseg_fusion& fusion) {
    return fusion.weighting >= EDGESEG_WEIGHT_ENTROPY && fusion.weighting <= EDGESEG_WEIGHT_MEAN &&
           std::isfinite(fusion.temperature) && fusion.temperature > 0 && fusion.threshold >= 0 &&
           fusion.threshold <= 1 && fusion.keep >= 0 && fusion.keep < 1;
}

}  // namespace

extern "C" int edgeseg_fuse_views(edgeseg_context* context, const edgeseg_view* views,
                                  int32_t count, int32_t channels, int32_t width, int32_t height,
                                  const edgeseg_fusion* fusion, int threads, float* state,
                                  float* probability, uint8_t* mask) {
    if (context == nullptr || views == nullptr || fusion == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (count < 1 || count > EDGESEG_MAX_VIEWS || channels < 1 || channels > EDGESEG_MAX_CHANNELS ||
        !in_range(width) || !in_range(height) || threads < 1 || threads > EDGESEG_MAX_THREADS) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    for (int32_t v = 0; v < count; ++v) {
        if (!acceptable(views[v])) return EDGESEG_INVALID_ARGUMENT;
    }
    if (!acceptable(*fusion)) return EDGESEG_INVALID_ARGUMENT;
    return edgeseg::guarded(context, [&] {
        context->fuser.run(views, count, channels, width, height, *fusion, threads, state,
                           probability, mask);
    });
}
