// The inner loops of the fusion, once for each instruction set.
#ifndef EDGESEG_FUSE_LOOPS_H
#define EDGESEG_FUSE_LOOPS_H

#include <stddef.h>
#include <stdint.h>

// What isa.h says about templates of the standard library holds here too.

namespace edgeseg {

// Scratch columns come in multiples of this, so that no loop over them has a remainder.
constexpr int kFuseLanes = 64;

// Rows of scratch that the loops need for each channel, and besides.
constexpr int kFuseChannelRows = 3;
constexpr int kFuseOtherRows = 8;

// Columns of two source rows of one view, resampled to the result's columns: near * first + far *
// second. Channels are FuseStrip::stride floats apart.
struct FuseRows {
    const float* first;
    const float* second;
    float near;
    float far;
};

// Part of a result row.
struct FuseStrip {
    const FuseRows* views;
    int count;
    int channels;
    int columns;
    int stride;  // `columns`, rounded up to a multiple of kFuseLanes
    int weighting;
    float inverse_temperature;
    float threshold;
    float keep;
    bool read_state;
    size_t plane;  // values between channels of `state` and `probability`
    float* state;  // the first column of channel 0; this and the next two may be null
    float* probability;
    uint8_t* mask;
    float* scratch;  // kFuseChannelRows * channels + kFuseOtherRows rows of `stride` floats
};

struct FuseLoops {
    // Logits of an edgeseg_dtype as sanitised floats.
    void (*convert)(const void* logits, int dtype, int count, float* out);

    // out[i] = near[i] * row[first[i] - base] + far[i] * row[second[i] - base]
    void (*across)(const float* row, int base, const int32_t* first, const int32_t* second,
                   const float* near, const float* far, int count, float* out);

    // Everything after that, for one channel and for several.
    void (*one)(const FuseStrip& strip);
    void (*several)(const FuseStrip& strip);
};

extern const FuseLoops kFuseGeneric;
#if defined(EDGESEG_X86)
extern const FuseLoops kFuseAvx2;
extern const FuseLoops kFuseAvx512;
#endif

}  // namespace edgeseg

#endif  // EDGESEG_FUSE_LOOPS_H
