#include "blend.h"

#include <algorithm>
#include <cstring>

#include "context.h"
#include "edgeseg/blend.h"
#include "isa.h"

namespace edgeseg {
namespace {

// Bands for each thread: enough to share the work while a thread wakes late and where only part of
// the frame has a mask; but the rows around a band are looked at twice.
constexpr int kBandsPerThread = 8;
constexpr int kSmallestBand = 16;

const BlendLoops& loops_of(int isa) {
    switch (float_isa(isa)) {
#if defined(EDGESEG_X86)
        case FloatIsa::kAvx512:
            return kBlendAvx512;
        case FloatIsa::kAvx2:
            return kBlendAvx2;
#endif
        default:
            return kBlendGeneric;
    }
}

const uint8_t* mask_row(const Overlay& overlay, int y) {
    return overlay.mask + y * overlay.mask_stride;
}

}  // namespace

Blender::Blender(int isa, ThreadPool& pool) : loops_(loops_of(isa)), pool_(pool) {}

void Blender::run(const Overlay& overlay, int threads) {
    const int width = overlay.frame.width, height = overlay.frame.height;
    const int smallest = kSmallestBand + 2 * overlay.outline_px;
    const int most = (height - 1) / smallest + 1;
    threads = std::min(threads, most);
    pool_.reserve(threads);

    colours_.resize(overlay.classes);
    for (int k = 0; k < overlay.classes; ++k) {
        for (int i = 0; i < kPatternBytes; ++i) {
            const uint8_t value = overlay.colours[3 * k + i % 3];
            colours_[k].addends[i] = blend_addend(value, overlay.alpha);
            colours_[k].solid[i] = value;
        }
    }
    if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
    for (int worker = 0; worker < threads; ++worker) {
        Scratch& scratch = scratch_[worker];
        const size_t row = width;
        scratch.runs.resize(row);
        scratch.change.resize(row);
        scratch.extents.resize(height);
        if (overlay.outline_px == 0) continue;
        scratch.uniform.resize(row);
        for (auto& span : scratch.spans) {
            span.resize(row + 2 * size_t(overlay.outline_px) + kBlendSlack);
        }
    }
    const int bands = threads > 1 ? std::min(kBandsPerThread * threads, most) : 1;
    pool_.run(bands, threads, [&](int index, int worker) {
        const auto edge = [&](int i) { return static_cast<int>(int64_t(height) * i / bands); };
        band(overlay, edge(index), edge(index + 1), scratch_[worker]);
    });
}

void Blender::band(const Overlay& overlay, int begin, int end, Scratch& scratch) const {
    const int width = overlay.frame.width, height = overlay.frame.height;
    const int radius = overlay.outline_px;
    uint8_t* const runs = scratch.runs.data();
    std::memset(runs, 0, width);
    int low = 0, high = 0;  // runs outside these columns are 0
    int next = std::max(begin - radius, 0);
    for (int y = begin; y < end; ++y) {
        const int bottom = std::min(y + radius, height - 1);
        for (; next <= bottom; ++next) {
            const uint8_t* row = mask_row(overlay, next);
            int first, stop;
            loops_.extent(row, width, &first, &stop);
            scratch.extents[next] = {first, stop};
            if (radius == 0) continue;
            // Runs of the background are nobody's concern, so that the rest of the row may be left
            // out, but for what the windows of the others reach.
            const int left = first == stop ? 0 : std::max(first - radius, 0);
            const int right = first == stop ? 0 : std::min(stop + radius, width);
            std::memset(runs + low, 0, std::max(std::min(left, high) - low, 0));
            std::memset(runs + std::max(right, low), 0, std::max(high - std::max(right, low), 0));
            low = left;
            high = right;
            if (left == right) continue;
            const uint8_t* above = next > 0 ? mask_row(overlay, next - 1) : row;
            loops_.uniform(row + left, right - left, radius, scratch.spans[0].data(),
                           scratch.spans[1].data(), scratch.uniform.data());
            loops_.count(row + left, above + left, scratch.uniform.data(), right - left,
                         runs + left);
        }
        // Without outlines no run is too short.
        draw(overlay, y, radius > 0 ? bottom - std::max(y - radius, 0) + 1 : 0, scratch);
    }
}

// `rows`: how many rows of the frame the square around a pixel has, which is how long its run must
// be for it not to be on an outline.
void Blender::draw(const Overlay& overlay, int y, int rows, Scratch& scratch) const {
    const uint8_t* row = mask_row(overlay, y);
    const int first = scratch.extents[y].first, end = scratch.extents[y].end;
    if (first == end) return;
    const uint8_t* runs = scratch.runs.data();
    uint8_t* change = scratch.change.data();
    loops_.changes(row, runs, rows, first, end, change);
    uint8_t* pixels = overlay.frame.pixels + y * overlay.frame.row_stride;
    for (int x = first, stop; x < end; x = stop) {
        stop = x + 1;
        if (stop < end && change[stop] == 0) {
            const void* found = std::memchr(change + stop, 1, end - stop);
            stop = found != nullptr ? static_cast<int>(static_cast<const uint8_t*>(found) - change)
                                    : end;
        }
        const int index = row[x];
        if (index == 0 || index > overlay.classes) continue;
        fill(overlay, colours_[index - 1], pixels + 3 * ptrdiff_t(x), stop - x, runs[x] < rows);
    }
}

void Blender::fill(const Overlay& overlay, const Colour& colour, uint8_t* pixels, int count,
                   bool outline) const {
    int bytes = 3 * count;
    if (!outline) {
        loops_.blend(pixels, bytes, kOpaque - overlay.alpha, colour.addends);
        return;
    }
    for (; bytes > 0; bytes -= kPatternBytes, pixels += kPatternBytes) {
        std::memcpy(pixels, colour.solid, std::min(bytes, kPatternBytes));
    }
}

}  // namespace edgeseg

namespace {

bool in_range(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

bool acceptable(const edgeseg_canvas& frame) {
    if (frame.pixels == nullptr || !in_range(frame.width) || !in_range(frame.height)) return false;
    // Rows that overlap would be drawn on by several threads.
    const ptrdiff_t row = ptrdiff_t(3) * frame.width;
    return frame.height == 1 || frame.row_stride >= row || frame.row_stride <= -row;
}

}  // namespace

extern "C" int edgeseg_blend_overlay(edgeseg_context* context, const edgeseg_canvas* frame,
                                     const uint8_t* mask, ptrdiff_t mask_stride,
                                     const uint8_t* colours, int32_t classes, int32_t alpha,
                                     int32_t outline_px, int threads) {
    if (context == nullptr || frame == nullptr || mask == nullptr || colours == nullptr) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    if (!acceptable(*frame) || classes < 1 || classes > EDGESEG_MAX_CHANNELS || alpha < 0 ||
        alpha > edgeseg::kOpaque || outline_px < 0 || outline_px > EDGESEG_MAX_OUTLINE ||
        threads < 1 || threads > EDGESEG_MAX_THREADS) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    const edgeseg::Overlay overlay = {*frame,  mask,  mask_stride, colours,
                                      classes, alpha, outline_px};
    return edgeseg::guarded(context, [&] { context->blender.run(overlay, threads); });
}
