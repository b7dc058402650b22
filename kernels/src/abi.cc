// The C entry points of contexts and of the resize; each other kernel has a file of its own.
#include <algorithm>
#include <cmath>

#include "context.h"

namespace {

bool in_range(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

bool acceptable(const edgeseg::Target& target) {
    return in_range(target.width) && in_range(target.height) &&
           (target.pixels != nullptr || target.planes != nullptr);
}

int resize(edgeseg_context* context, const edgeseg_frame* frame, const edgeseg::Target* targets,
           int count, int filter, int threads) {
    if (context == nullptr || frame == nullptr || frame->pixels == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (!in_range(frame->width) || !in_range(frame->height)) return EDGESEG_INVALID_ARGUMENT;
    if (!std::all_of(targets, targets + count, acceptable)) return EDGESEG_INVALID_ARGUMENT;
    if (filter != EDGESEG_BILINEAR && filter != EDGESEG_BICUBIC) return EDGESEG_INVALID_ARGUMENT;
    if (threads < 1 || threads > EDGESEG_MAX_THREADS) return EDGESEG_INVALID_ARGUMENT;
    return edgeseg::guarded(context, [&] {
        context->resizer.run(*frame, targets, count, static_cast<edgeseg::Filter>(filter), threads);
    });
}

// False if the arguments have no meaning.
bool make_normalization(double scale, const double* mean, const double* std,
                        edgeseg::Normalization* normalization) {
    if (mean == nullptr || std == nullptr || !(std::isfinite(scale) && scale > 0)) return false;
    for (int c = 0; c < 3; ++c) {
        const int plane = normalization->plane_of[c];
        if (!std::isfinite(mean[plane]) || !(std::isfinite(std[plane]) && std[plane] > 0)) {
            return false;
        }
        const edgeseg::Affine affine = edgeseg::make_affine(scale, mean[plane], std[plane]);
        normalization->affine[c] = affine;
        for (int value = 0; value < 256; ++value) {
            normalization->table[c][value] =
                edgeseg::normalize(affine, static_cast<uint8_t>(value));
        }
    }
    return true;
}

bool are_flips(const int32_t* flips, int32_t count) {
    return flips != nullptr && std::all_of(flips, flips + count, [](int32_t sum) {
               return sum >= 0 && sum <= (EDGESEG_FLIP_H | EDGESEG_FLIP_V);
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
    edgeseg::Target target;
    target.width = width;
    target.height = height;
    target.pixels = out;
    return resize(context, frame, &target, 1, filter, threads);
}

int edgeseg_resize_normalize(edgeseg_context* context, const edgeseg_frame* frame, int32_t width,
                             int32_t height, int filter, double scale, const double* mean,
                             const double* std, int threads, float* out) {
    edgeseg::Normalization normalization;
    if (!make_normalization(scale, mean, std, &normalization)) return EDGESEG_INVALID_ARGUMENT;
    edgeseg::Target target;
    target.width = width;
    target.height = height;
    target.planes = out;
    target.normalization = &normalization;
    return resize(context, frame, &target, 1, filter, threads);
}

int edgeseg_resize_normalize_views(edgeseg_context* context, const edgeseg_frame* frame,
                                   const edgeseg_view_target* targets, int32_t count, int filter,
                                   double scale, const double* mean, const double* std,
                                   int threads) {
    if (targets == nullptr || count < 1 || count > EDGESEG_MAX_VIEWS) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    edgeseg::Normalization normalization;
    if (!make_normalization(scale, mean, std, &normalization)) return EDGESEG_INVALID_ARGUMENT;
    edgeseg::Target results[EDGESEG_MAX_VIEWS];
    for (int32_t i = 0; i < count; ++i) {
        const edgeseg_view_target& view = targets[i];
        if (view.flip_count < 1 || view.flip_count > EDGESEG_MAX_VIEWS ||
            !are_flips(view.flips, view.flip_count)) {
            return EDGESEG_INVALID_ARGUMENT;
        }
        edgeseg::Target& result = results[i];
        result.width = view.width;
        result.height = view.height;
        result.planes = view.out;
        result.normalization = &normalization;
        result.flips = view.flips;
        result.flip_count = view.flip_count;
    }
    return resize(context, frame, results, count, filter, threads);
}

}  // extern "C"
