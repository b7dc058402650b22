// The inner loops of the smoothing along z, once for each instruction set.
#ifndef EDGESEG_SMOOTH_LOOPS_H
#define EDGESEG_SMOOTH_LOOPS_H

#include <stddef.h>
#include <stdint.h>

// What isa.h says about templates of the standard library holds here too.

namespace edgeseg {

// Scratch rows are aligned to a cache line and their lengths multiples of this.
constexpr int kSmoothLanes = 64;

struct SmoothLoops {
    // Copies `count` voxels, made finite.
    void (*take)(const float* source, int count, float* row);

    // Weighted sum of scratch rows: rows[0] is the middle, rows[2 * k - 1] and rows[2 * k] are
    // those at distance k. `columns` is a multiple of kSmoothLanes. Meanwhile the caches are asked
    // for as many floats from `ahead` on, which need not be readable.
    void (*sum)(const float* const* rows, const float* weights, int radius, const float* ahead,
                int columns, float* out);

    // The same, past the caches to a result that is aligned to a cache line.
    void (*sum_past)(const float* const* rows, const float* weights, int radius, const float* ahead,
                     int columns, float* out);

    // Copies a scratch row past the caches to anywhere; `fence` makes all that is visible to
    // others.
    void (*stream)(const float* row, int count, float* out);
    void (*fence)();

    // mask = row > threshold
    void (*compare)(const float* row, float threshold, int count, uint8_t* mask);

    // Where the row is larger than `best`, it becomes that, and `mask` becomes `channel`. Channel 0
    // opens.
    void (*compete)(const float* row, int channel, int count, float* best, uint8_t* mask);
};

extern const SmoothLoops kSmoothGeneric;
#if defined(EDGESEG_X86)
extern const SmoothLoops kSmoothAvx2;
extern const SmoothLoops kSmoothAvx512;
#endif

}  // namespace edgeseg

#endif  // EDGESEG_SMOOTH_LOOPS_H
