// blend_overlay: a pixel for each thread; only pixels of a class look at their neighbours.
#include <algorithm>

#include "edgeseg/blend.h"
#include "portable.cuh"

namespace edgeseg {
namespace cuda {
namespace {

struct Blend {
    static constexpr int kThreads = 128;

    struct Params {
        uint8_t* pixels;
        const uint8_t* mask;
        int64_t row_stride;
        int64_t mask_stride;
        int32_t width;
        int32_t height;
        int32_t classes;
        int32_t alpha;
        int32_t outline_px;
        uint8_t colours[3 * EDGESEG_MAX_CHANNELS];
    };

    EDGESEG_DEVICE static void run(const Params& params, const Position& at) {
        if (at.x >= params.width) return;
        const int32_t x = static_cast<int32_t>(at.x);
        const int32_t index = load_constant(params.mask + at.y * params.mask_stride + x);
        if (index == 0 || index > params.classes) return;
        const int32_t alpha = on_outline(params, x, at.y, index) ? kOpaque : params.alpha;
        uint8_t* pixel = params.pixels + at.y * params.row_stride + int64_t(3) * x;
        const uint8_t* colour = params.colours + 3 * (index - 1);
        const auto weight = static_cast<uint16_t>(kOpaque - alpha);
        for (int c = 0; c < 3; ++c) {
            pixel[c] = blend_value(pixel[c], weight, blend_addend(colour[c], alpha));
        }
    }

    EDGESEG_DEVICE static bool on_outline(const Params& params, int32_t x, int32_t y,
                                          int32_t index) {
        const int32_t reach = params.outline_px;
        const int32_t left = x > reach ? x - reach : 0;
        const int32_t right = params.width - 1 - x > reach ? x + reach : params.width - 1;
        const int32_t top = y > reach ? y - reach : 0;
        const int32_t bottom = params.height - 1 - y > reach ? y + reach : params.height - 1;
        for (int32_t row = top; row <= bottom; ++row) {
            const uint8_t* line = params.mask + row * params.mask_stride;
            for (int32_t column = left; column <= right; ++column) {
                if (load_constant(line + column) != index) return true;
            }
        }
        return false;
    }
};

}  // namespace

int prepare_blend() { return load<Blend>(); }

}  // namespace cuda
}  // namespace edgeseg

extern "C" int edgeseg_cuda_blend_overlay(const edgeseg_canvas* frame, const uint8_t* mask,
                                          ptrdiff_t mask_stride, const uint8_t* colours,
                                          int32_t classes, int32_t alpha, int32_t outline_px,
                                          void* stream) {
    using namespace edgeseg::cuda;
    const auto is_side = [](int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; };
    if (frame == nullptr || frame->pixels == nullptr || mask == nullptr || colours == nullptr ||
        !is_side(frame->width) || !is_side(frame->height) || classes < 1 ||
        classes > EDGESEG_MAX_CHANNELS || alpha < 0 || alpha > edgeseg::kOpaque || outline_px < 0 ||
        outline_px > EDGESEG_MAX_OUTLINE) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    Blend::Params params{};
    params.pixels = frame->pixels;
    params.mask = mask;
    params.row_stride = frame->row_stride;
    params.mask_stride = mask_stride;
    params.width = frame->width;
    params.height = frame->height;
    params.classes = classes;
    params.alpha = alpha;
    params.outline_px = outline_px;
    std::copy(colours, colours + 3 * classes, params.colours);
    return launch<Blend>(params, {frame->width, frame->height, 1}, stream);
}
