// The C entry points of contexts and of the resize; each other kernel has a file of its own.
#include <cmath>

#include "context.h"

namespace {

bool in_range(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

int resize(edgeseg_context* context, const edgeseg_frame* frame, int32_t width, int32_t height,
           int filter, int threads, const edgeseg::Target& target) {
    if (context == nullptr || frame == nullptr || frame->pixels == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (!in_range(frame->width) || !in_range(frame->height) || !in_range(width) ||
        !in_range(height)) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (filter != EDGESEG_BILINEAR && filter != EDGESEG_BICUBIC) return EDGESEG_INVALID_ARGUMENT;
    if (threads < 1 || threads > EDGESEG_MAX_THREADS) return EDGESEG_INVALID_ARGUMENT;
    return edgeseg::guarded(context, [&] {
        context->resizer.run(*frame, width, height, static_cast<edgeseg::Filter>(filter), threads,
                             target);
    });
}

}  // namespace

extern "C" {

const char* edgeseg_kernels_version(void) { return EDGESEG_VERSION; }

const char* edgeseg_isa_name(int index) {
    const edgeseg::Operations* operations = edgeseg::operations(index);
    return operations != nullptr ? operations->name : nullptr;
}

int edgeseg_isa_supported(int index) { return edgeseg::supported(index) ? 1 : 0; }

edgeseg_context* edgeseg_context_create(int isa) {
    if (isa == -1) isa = edgeseg::fastest();
    if (!edgeseg::supported(isa)) return nullptr;
    return new (std::nothrow) edgeseg_context(isa);
}

void edgeseg_context_destroy(edgeseg_context* context) { delete context; }

int edgeseg_context_isa(const edgeseg_context* context) { return context->isa; }

int edgeseg_resize_u8(edgeseg_context* context, const edgeseg_frame* frame, int32_t width,
                      int32_t height, int filter, int threads, uint8_t* out) {
    if (out == nullptr) return EDGESEG_INVALID_ARGUMENT;
    edgeseg::Target target;
    target.pixels = out;
    return resize(context, frame, width, height, filter, threads, target);
}

int edgeseg_resize_normalize(edgeseg_context* context, const edgeseg_frame* frame, int32_t width,
                             int32_t height, int filter, double scale, const double* mean,
                             const double* std, int threads, float* out) {
    if (out == nullptr || mean == nullptr || std == nullptr) return EDGESEG_INVALID_ARGUMENT;
    if (!(std::isfinite(scale) && scale > 0)) return EDGESEG_INVALID_ARGUMENT;
    edgeseg::Target target;
    target.planes = out;
    for (int c = 0; c < 3; ++c) {
        const int plane = target.plane_of[c];
        if (!std::isfinite(mean[plane]) || !(std::isfinite(std[plane]) && std[plane] > 0)) {
            return EDGESEG_INVALID_ARGUMENT;
        }
        target.affine[c] = edgeseg::make_affine(scale, mean[plane], std[plane]);
        for (int value = 0; value < 256; ++value) {
            target.table[c][value] =
                edgeseg::normalize(target.affine[c], static_cast<uint8_t>(value));
        }
    }
    return resize(context, frame, width, height, filter, threads, target);
}

}  // extern "C"
