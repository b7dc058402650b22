// The smoothing along z, in tiles of columns that march through the slices.
#ifndef EDGESEG_SRC_SMOOTH_H
#define EDGESEG_SRC_SMOOTH_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "edgeseg/kernels.h"
#include "smooth_loops.h"
#include "thread_pool.h"

namespace edgeseg {

// What is smoothed, and where to; as the arguments of edgeseg_smooth_z.
struct Smoothing {
    const float* volume;
    int channels;
    int depth;
    int64_t plane;
    const float* weights;
    int radius;
    int first;
    int count;
    float threshold;  // of the mask of one channel
    float* out;
    uint8_t* mask;
};

// Each tile reads a voxel once, keeps the slices that the sum spans in a ring that fits into a
// cache, and writes a result once.
//
// One call at a time: the context's lock sees to that.
class Smoother {
  public:
    Smoother(int isa, ThreadPool& pool);

    // The arguments have been checked. Throws std::bad_alloc and std::system_error before anything
    // is written.
    void run(const Smoothing& smoothing, int threads);

  private:
    struct Scratch {
        AlignedBuffer<float> rings;  // for each channel of the tile, `slots` rows
        AlignedBuffer<float> row;    // one row of sums
        AlignedBuffer<float> best;   // the largest of the channels so far
        std::vector<const float*> rows;
    };

    struct Job {
        Smoothing smoothing;
        int group;      // channels that march together
        int slots;      // rows of a ring
        int columns;    // of a tile, a multiple of kSmoothLanes
        int64_t lead;   // columns of the first tile, fewer so that the others are aligned
        int64_t tiles;  // of a plane
        bool streams;
    };

    void tile(const Job& job, int64_t index, Scratch& scratch) const;

    const SmoothLoops& loops_;
    ThreadPool& pool_;
    std::vector<Scratch> scratch_;
};

}  // namespace edgeseg

#endif  // EDGESEG_SRC_SMOOTH_H
