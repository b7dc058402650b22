// The inner loops of drawing masks, once for each instruction set.
#ifndef EDGESEG_BLEND_LOOPS_H
#define EDGESEG_BLEND_LOOPS_H

#include <stddef.h>
#include <stdint.h>

// What isa.h says about templates of the standard library holds here too.

namespace edgeseg {

// Pixels after which the pattern of a colour repeats, and its bytes: a multiple of every vector.
constexpr int kPatternPixels = 64;
constexpr int kPatternBytes = 3 * kPatternPixels;

// Bytes that the scratch rows of `uniform` have besides a row and twice the radius.
constexpr int kBlendSlack = 64;

struct BlendLoops {
    // The columns of a row that hold more than background: from *first to before *end, both 0 if
    // there are none.
    void (*extent)(const uint8_t* row, int width, int* first, int* end);

    // out[x] = 255 where all indices at most `radius` columns from x, within the row, are the same,
    // else 0. `a` and `b` hold width + 2 * radius + kBlendSlack bytes.
    void (*uniform)(const uint8_t* row, int width, int radius, uint8_t* a, uint8_t* b,
                    uint8_t* out);

    // Moves `run` down to this row: of how many rows up to here the windows are uniform and have
    // the same index, 255 at most. `previous` is the row above.
    void (*count)(const uint8_t* row, const uint8_t* previous, const uint8_t* uniform, int width,
                  uint8_t* run);

    // change[x] = 1 where pixel x differs from the one before in its index, or in whether its run
    // is shorter than `rows`, else 0; from `begin` + 1 to before `end`.
    void (*changes)(const uint8_t* row, const uint8_t* run, int rows, int begin, int end,
                    uint8_t* change);

    // Blends a colour's pattern of kPatternBytes addends into consecutive bytes.
    void (*blend)(uint8_t* pixels, int bytes, int weight, const uint16_t* addends);
};

extern const BlendLoops kBlendGeneric;
#if defined(EDGESEG_X86)
extern const BlendLoops kBlendAvx2;
extern const BlendLoops kBlendAvx512;
#endif

}  // namespace edgeseg

#endif  // EDGESEG_BLEND_LOOPS_H
