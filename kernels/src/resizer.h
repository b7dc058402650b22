// The two passes, in bands of result rows.
#ifndef EDGESEG_RESIZER_H
#define EDGESEG_RESIZER_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "edgeseg/kernels.h"
#include "isa.h"
#include "tables.h"
#include "thread_pool.h"

namespace edgeseg {

// (value * scale - mean) / std for each channel.
struct Normalization {
    Affine affine[3];     // by source channel
    float table[3][256];  // normalize() of every value, by source channel
    int plane_of[3] = {2, 1, 0};
};

// A size and where its rows go: 8-bit pixels, or normalised planes and their mirrored copies.
struct Target {
    int width = 0;
    int height = 0;
    uint8_t* pixels = nullptr;  // height x width x 3
    float* planes = nullptr;    // flip_count x 3 x height x width, used where `pixels` is null
    const Normalization* normalization = nullptr;
    const int32_t* flips = nullptr;  // sums of edgeseg_flip; null: one copy, not mirrored
    int flip_count = 1;
};

// One call at a time: the context's lock sees to that.
class Resizer {
  public:
    Resizer(int isa, ThreadPool& pool)
        : operations_(*operations(isa)), cache_(operations_), pool_(pool) {}

    // Resamples the frame once for each target.
    // Throws std::bad_alloc and std::system_error before anything is written.
    void run(const edgeseg_frame& frame, const Target* targets, int count, Filter filter,
             int threads);

  private:
    struct Scratch {
        std::vector<uint8_t> ring;    // row groups after the horizontal pass
        std::vector<uint8_t> tails;   // padded ends of four rows
        std::vector<uint8_t> rows;    // four rows after a vertical first pass
        std::vector<uint8_t> planes;  // one 8-bit row of three channels
        std::vector<float> row;       // one row of a plane of which only mirrored copies are wanted
        std::vector<const uint8_t*> groups;
    };

    struct Job {
        edgeseg_frame frame;
        int width, height;
        const AxisTables* horizontal;
        const AxisTables* vertical;
        const Target* target;
        bool vertical_first;
        int safe;        // result columns that can read the frame itself, a multiple of four
        int tail_first;  // first source column of the others
        size_t tail_bytes;
        int plain_copy;  // a copy whose rows are not reversed; -1: there is none
        int first_band;  // number of the job's first band among those of all jobs
        int bands;
    };

    Job plan(const edgeseg_frame& frame, const Target& target, Filter filter);
    void prepare(const Job& job, Scratch& scratch) const;
    void band(const Job& job, int begin, int end, Scratch& scratch) const;
    void band_vertical_first(const Job& job, int begin, int end, Scratch& scratch) const;
    void across(const Job& job, const uint8_t* const rows[4], Scratch& scratch, uint8_t* out) const;
    float* row_of(const Job& job, int channel, int y, Scratch& scratch) const;
    void mirror(const Job& job, int channel, int y, const float* row) const;

    const Operations& operations_;
    TableCache cache_;
    ThreadPool& pool_;
    std::vector<Scratch> scratch_;
    std::vector<Job> jobs_;
};

}  // namespace edgeseg

#endif  // EDGESEG_RESIZER_H
