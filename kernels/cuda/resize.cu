// Pillow's resize into several sizes and mirrorings, in two launches: one for each pass, a plane
// of blocks for each size. Between the passes lie 8-bit pixels, one word each.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "edgeseg/resample.h"
#include "plain_table.h"
#include "portable.cuh"

namespace edgeseg {
namespace cuda {
namespace {

// A PlainTable on the device.
struct DeviceTable {
    const int32_t* first;
    const int32_t* count;
    const int32_t* offset;
    const int32_t* weights;
};

// One size, on the device.
struct Target {
    DeviceTable across;
    DeviceTable down;
    int32_t width;
    int32_t height;
    int32_t vertical_first;
    int32_t middle_width;  // of the picture between the passes
    int32_t middle_height;
    int32_t flip_count;
    const int32_t* flips;
    uint32_t* middle;
    float* out;
};

// Weighted sums of three channels. They are unsigned, so that they wrap as Pillow's do.
struct Sums {
    uint32_t v[3] = {kRound, kRound, kRound};

    EDGESEG_DEVICE void add(int32_t weight, uint32_t a, uint32_t b, uint32_t c) {
        v[0] += static_cast<uint32_t>(weight) * a;
        v[1] += static_cast<uint32_t>(weight) * b;
        v[2] += static_cast<uint32_t>(weight) * c;
    }

    EDGESEG_DEVICE uint32_t value(int channel) const {
        return clip8(static_cast<int32_t>(v[channel]));
    }
};

// From the frame to the picture between the passes.
struct FirstPass {
    static constexpr int kThreads = 128;

    struct Params {
        const uint8_t* pixels;
        int64_t row_stride;
        const Target* targets;
    };

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        const Target& target = params.targets[at.z];
        if (at.x >= target.middle_width || at.y >= target.middle_height) return;
        const int x = static_cast<int>(at.x);
        const DeviceTable& table = target.vertical_first ? target.down : target.across;
        const int sample = target.vertical_first ? at.y : x;
        const int first = load_constant(table.first + sample);
        const int count = load_constant(table.count + sample);
        const int32_t* weights = table.weights + load_constant(table.offset + sample);
        const int64_t step = target.vertical_first ? params.row_stride : 3;
        const uint8_t* pixel = target.vertical_first
                                   ? params.pixels + first * params.row_stride + int64_t(3) * x
                                   : params.pixels + at.y * params.row_stride + int64_t(3) * first;
        Sums sums;
        for (int k = 0; k < count; ++k, pixel += step) {
            sums.add(load_constant(weights + k), load_constant(pixel), load_constant(pixel + 1),
                     load_constant(pixel + 2));
        }
        target.middle[int64_t(at.y) * target.middle_width + x] =
            sums.value(0) | sums.value(1) << 8 | sums.value(2) << 16;
    }
};

// From there to the normalised planes of every mirroring.
struct SecondPass {
    static constexpr int kThreads = 128;

    struct Params {
        const Target* targets;
        const float* values;  // 3 x 256: normalize() of every 8-bit value, by source channel
    };

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        const Target& target = params.targets[at.z];
        const int width = target.width;
        const int height = target.height;
        if (at.x >= width || at.y >= height) return;
        const int x = static_cast<int>(at.x);
        const DeviceTable& table = target.vertical_first ? target.across : target.down;
        const int sample = target.vertical_first ? x : at.y;
        const int first = load_constant(table.first + sample);
        const int count = load_constant(table.count + sample);
        const int32_t* weights = table.weights + load_constant(table.offset + sample);
        const int64_t row = target.middle_width;
        const int64_t step = target.vertical_first ? 1 : row;
        const uint32_t* pixel =
            target.middle + (target.vertical_first ? at.y * row + first : first * row + x);
        Sums sums;
        for (int k = 0; k < count; ++k, pixel += step) {
            const uint32_t bytes = load_constant(pixel);
            sums.add(load_constant(weights + k), bytes & 255, bytes >> 8 & 255, bytes >> 16);
        }
        const int64_t plane = int64_t(width) * height;
        for (int c = 0; c < 3; ++c) {
            const float value = load_constant(params.values + 256 * c + sums.value(c));
            for (int i = 0; i < target.flip_count; ++i) {
                const int flips = load_constant(target.flips + i);
                const int column = flips & EDGESEG_FLIP_H ? width - 1 - x : x;
                const int line = flips & EDGESEG_FLIP_V ? height - 1 - at.y : at.y;
                // The frame is B, G, R; the planes are R, G, B.
                target.out[(3 * i + 2 - c) * plane + int64_t(line) * width + column] = value;
            }
        }
    }
};

// Memory of a plan, laid out before its address is known.
class Layout {
  public:
    template <typename T>
    size_t add(const std::vector<T>& values) {
        const size_t offset = reserve(values.size() * sizeof(T));
        const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
        contents_.resize(offset);
        contents_.insert(contents_.end(), bytes, bytes + values.size() * sizeof(T));
        return offset;
    }

    // Memory without contents; nothing with contents may follow.
    size_t reserve(size_t bytes) {
        const size_t offset = (size_ + 255) / 256 * 256;
        size_ = offset + bytes;
        return offset;
    }

    // Replaces contents that were added before.
    template <typename T>
    void put(size_t offset, const std::vector<T>& values) {
        const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
        std::copy(bytes, bytes + values.size() * sizeof(T), contents_.begin() + offset);
    }

    size_t size() const { return size_; }
    const std::vector<unsigned char>& contents() const { return contents_; }

  private:
    size_t size_ = 0;
    std::vector<unsigned char> contents_;
};

struct TableOffsets {
    size_t first, count, offset, weights;
};

TableOffsets add_table(Layout& layout, const PlainTable& table) {
    return {layout.add(table.first), layout.add(table.count), layout.add(table.offset),
            layout.add(table.weights)};
}

DeviceTable at(const unsigned char* base, const TableOffsets& offsets) {
    const auto word = [](const unsigned char* p) { return reinterpret_cast<const int32_t*>(p); };
    return {word(base + offsets.first), word(base + offsets.count), word(base + offsets.offset),
            word(base + offsets.weights)};
}

bool is_side(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

bool is_target(const edgeseg_view_target& target) {
    if (!is_side(target.width) || !is_side(target.height) || target.flip_count < 1 ||
        target.flip_count > EDGESEG_MAX_VIEWS || target.flips == nullptr || target.out == nullptr) {
        return false;
    }
    for (int i = 0; i < target.flip_count; ++i) {
        if (target.flips[i] < 0 || target.flips[i] > (EDGESEG_FLIP_H | EDGESEG_FLIP_V)) {
            return false;
        }
    }
    return true;
}

}  // namespace

int prepare_resize() {
    const int status = load<FirstPass>();
    return status != EDGESEG_OK ? status : load<SecondPass>();
}

}  // namespace cuda
}  // namespace edgeseg

struct edgeseg_cuda_resize {
    int32_t frame_width;
    int32_t frame_height;
    void* memory;
    const edgeseg::cuda::Target* targets;
    const float* values;
    edgeseg::cuda::Extent first;
    edgeseg::cuda::Extent second;
};

namespace edgeseg {
namespace cuda {
namespace {

int create(int32_t frame_width, int32_t frame_height, const edgeseg_view_target* targets,
           int32_t count, Filter filter, double scale, const double* mean, const double* std,
           edgeseg_cuda_resize** result) {
    auto plan = std::make_unique<edgeseg_cuda_resize>();
    plan->frame_width = frame_width;
    plan->frame_height = frame_height;
    plan->first = plan->second = {0, 0, count};

    Layout layout;
    std::vector<float> values(3 * 256);
    for (int c = 0; c < 3; ++c) {
        const Affine affine = make_affine(scale, mean[2 - c], std[2 - c]);
        for (int v = 0; v < 256; ++v) {
            values[256 * c + v] = normalize(affine, static_cast<uint8_t>(v));
        }
    }
    const size_t values_at = layout.add(values);
    std::vector<Target> descriptions(count);
    std::vector<TableOffsets> across(count), down(count);
    std::vector<size_t> flips(count), middle(count);
    for (int i = 0; i < count; ++i) {
        const edgeseg_view_target& from = targets[i];
        Target& to = descriptions[i];
        to.width = from.width;
        to.height = from.height;
        to.flip_count = from.flip_count;
        to.out = from.out;
        to.vertical_first = from.width != frame_width &&
                            vertical_first(frame_width, frame_height, from.width, from.height);
        to.middle_width = to.vertical_first ? frame_width : from.width;
        to.middle_height = to.vertical_first ? from.height : frame_height;
        across[i] = add_table(layout, make_plain(frame_width, from.width, filter));
        down[i] = add_table(layout, make_plain(frame_height, from.height, filter));
        flips[i] = layout.add(std::vector<int32_t>(from.flips, from.flips + from.flip_count));
        plan->first.x = std::max<int64_t>(plan->first.x, to.middle_width);
        plan->first.y = std::max(plan->first.y, to.middle_height);
        plan->second.x = std::max<int64_t>(plan->second.x, to.width);
        plan->second.y = std::max(plan->second.y, to.height);
    }
    const size_t targets_at = layout.add(descriptions);
    for (int i = 0; i < count; ++i) {
        middle[i] = layout.reserve(sizeof(uint32_t) * descriptions[i].middle_width *
                                   descriptions[i].middle_height);
    }

    int status = allocate(&plan->memory, layout.size());
    if (status != EDGESEG_OK) return status;
    auto* base = static_cast<unsigned char*>(plan->memory);
    for (int i = 0; i < count; ++i) {
        descriptions[i].across = at(base, across[i]);
        descriptions[i].down = at(base, down[i]);
        descriptions[i].flips = reinterpret_cast<const int32_t*>(base + flips[i]);
        descriptions[i].middle = reinterpret_cast<uint32_t*>(base + middle[i]);
    }
    plan->values = reinterpret_cast<const float*>(base + values_at);
    plan->targets = reinterpret_cast<const Target*>(base + targets_at);
    layout.put(targets_at, descriptions);
    status = upload(base, layout.contents().data(), layout.contents().size());
    if (status != EDGESEG_OK) {
        release(plan->memory);
        return status;
    }
    *result = plan.release();
    return EDGESEG_OK;
}

}  // namespace
}  // namespace cuda
}  // namespace edgeseg

extern "C" {

int edgeseg_cuda_resize_create(int32_t frame_width, int32_t frame_height,
                               const edgeseg_view_target* targets, int32_t count, int filter,
                               double scale, const double* mean, const double* std,
                               edgeseg_cuda_resize** plan) {
    using namespace edgeseg;
    if (plan == nullptr) return EDGESEG_INVALID_ARGUMENT;
    *plan = nullptr;
    if (!cuda::is_side(frame_width) || !cuda::is_side(frame_height) || targets == nullptr ||
        count < 1 || count > EDGESEG_MAX_VIEWS || mean == nullptr || std == nullptr ||
        (filter != kBilinear && filter != kBicubic) || !(std::isfinite(scale) && scale > 0.0)) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    for (int c = 0; c < 3; ++c) {
        if (!std::isfinite(mean[c]) || !(std::isfinite(std[c]) && std[c] > 0.0)) {
            return EDGESEG_INVALID_ARGUMENT;
        }
    }
    for (int i = 0; i < count; ++i) {
        if (!cuda::is_target(targets[i])) return EDGESEG_INVALID_ARGUMENT;
    }
    try {
        return cuda::create(frame_width, frame_height, targets, count, static_cast<Filter>(filter),
                            scale, mean, std, plan);
    } catch (const std::bad_alloc&) {
        return EDGESEG_OUT_OF_MEMORY;
    }
}

int edgeseg_cuda_resize_destroy(edgeseg_cuda_resize* plan) {
    if (plan == nullptr) return EDGESEG_OK;
    const int status = edgeseg::cuda::release(plan->memory);
    delete plan;
    return status;
}

int edgeseg_cuda_resize_run(const edgeseg_cuda_resize* plan, const edgeseg_frame* frame,
                            void* stream) {
    using namespace edgeseg::cuda;
    if (plan == nullptr || frame == nullptr || frame->pixels == nullptr ||
        frame->width != plan->frame_width || frame->height != plan->frame_height) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    const FirstPass::Params first = {frame->pixels, frame->row_stride, plan->targets};
    const int status = launch<FirstPass>(first, plan->first, stream);
    if (status != EDGESEG_OK) return status;
    return launch<SecondPass>({plan->targets, plan->values}, plan->second, stream);
}

}  // extern "C"
