// The fusion of views, in tiles: bands of result rows by strips of columns.
#ifndef EDGESEG_SRC_FUSE_H
#define EDGESEG_SRC_FUSE_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "aligned.h"
#include "edgeseg/kernels.h"
#include "fuse_loops.h"
#include "thread_pool.h"

namespace edgeseg {

// Within a tile, each source row is resampled along its columns once, when the first result row
// wants it; what is left for each result row is a weighted sum of two rows.
//
// One call at a time: the context's lock sees to that.
class Fuser {
  public:
    Fuser(int isa, ThreadPool& pool);

    // What edgeseg_fuse_views does, with arguments that have been checked. Throws std::bad_alloc
    // and std::system_error before anything is written.
    void run(const edgeseg_view* views, int count, int channels, int width, int height,
             const edgeseg_fusion& fusion, int threads, float* state, float* probability,
             uint8_t* mask);

  private:
    // The taps of one axis, by result coordinate.
    struct Axis {
        int in = 0;
        int out = 0;
        bool mirrored = false;
        uint64_t last_use = 0;
        std::vector<int32_t> first;
        std::vector<int32_t> second;
        std::vector<float> near;
        std::vector<float> far;
    };

    struct Source {
        edgeseg_view view;
        const Axis* horizontal;
        const Axis* vertical;
    };

    struct Scratch {
        AlignedBuffer<float> loops;
        AlignedBuffer<float> line;    // one source row as floats
        AlignedBuffer<float> rows;    // two resampled source rows of each view
        std::vector<int32_t> cached;  // which ones they are, -1: none
        std::vector<FuseRows> views;
    };

    struct Job {
        int channels, width, height;
        int strips, strip_columns, bands;
        FuseStrip strip;  // what all strips have in common
        float* state;
        float* probability;
        uint8_t* mask;
    };

    const Axis& axis(int in, int out, bool mirrored);
    void tile(const Job& job, int index, Scratch& scratch) const;
    const float* resampled(const Job& job, int view, int row, int begin, int columns,
                           Scratch& scratch) const;

    const FuseLoops& loops_;
    ThreadPool& pool_;
    uint64_t clock_ = 0;
    std::vector<std::unique_ptr<Axis>> axes_;
    std::vector<Source> sources_;
    std::vector<Scratch> scratch_;
};

}  // namespace edgeseg

#endif  // EDGESEG_SRC_FUSE_H
