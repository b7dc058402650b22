// Drawing masks onto frames, in bands of rows.
#ifndef EDGESEG_SRC_BLEND_H
#define EDGESEG_SRC_BLEND_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "blend_loops.h"
#include "edgeseg/kernels.h"
#include "thread_pool.h"

namespace edgeseg {

// The arguments of edgeseg_blend_overlay.
struct Overlay {
    edgeseg_canvas frame;
    const uint8_t* mask;
    ptrdiff_t mask_stride;
    const uint8_t* colours;
    int classes;
    int alpha;
    int outline_px;
};

// A pixel is on an outline where the square around it is not uniform. Going down the rows, each
// column counts for how many rows its windows within the row have been uniform and alike, so that
// the outline costs the same whatever its width.
//
// One call at a time: the context's lock sees to that.
class Blender {
  public:
    Blender(int isa, ThreadPool& pool);

    // The arguments have been checked. Throws std::bad_alloc and std::system_error before anything
    // is written.
    void run(const Overlay& overlay, int threads);

  private:
    struct Extent {
        int first;
        int end;
    };

    struct Scratch {
        std::vector<Extent> extents;  // of each row that the band looks at
        std::vector<uint8_t> spans[2];
        std::vector<uint8_t> uniform;
        std::vector<uint8_t> runs;
        std::vector<uint8_t> change;
    };

    struct Colour {
        uint16_t addends[kPatternBytes];
        uint8_t solid[kPatternBytes];
    };

    void band(const Overlay& overlay, int begin, int end, Scratch& scratch) const;
    void draw(const Overlay& overlay, int y, int rows, Scratch& scratch) const;
    void fill(const Overlay& overlay, const Colour& colour, uint8_t* pixels, int count,
              bool outline) const;

    const BlendLoops& loops_;
    ThreadPool& pool_;
    std::vector<Colour> colours_;
    std::vector<Scratch> scratch_;
};

}  // namespace edgeseg

#endif  // EDGESEG_SRC_BLEND_H
