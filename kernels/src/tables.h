// Windows and weights of one axis, laid out for the loops that read them.
#ifndef EDGESEG_TABLES_H
#define EDGESEG_TABLES_H

#include <cstdint>
#include <memory>
#include <vector>

#include "edgeseg/resample.h"
#include "isa.h"
#include "plain_table.h"

namespace edgeseg {

// Weights in groups of four taps, each group packed into `words_per_group` words for one
// instruction set. Taps outside the window have weight 0.
struct PackedTable {
    int groups = 0;  // of the longest window
    std::vector<int32_t> first;
    std::vector<int32_t> count;  // groups in use
    std::vector<int32_t> words;  // groups * words_per_group for each result sample
};

// Everything about one pair of sizes and filter.
struct AxisTables {
    int in = 0;
    int out = 0;
    Filter filter = kBilinear;
    uint64_t last_use = 0;
    PlainTable plain;
    // Horizontal: groups begin at the first tap, every sample has the same number of them, and
    // the table is continued to a multiple of kLanes samples with weights of 0.
    PackedTable across;
    // Vertical: groups begin at multiples of four rows; `first` and `count` are in groups.
    PackedTable down;
};

// Result rows are computed in steps of this many samples.
constexpr int kLanes = 16;

inline int padded(int width) { return (width + kLanes - 1) / kLanes * kLanes; }

// A few tables, the least recently used replaced first.
class TableCache {
  public:
    explicit TableCache(const Operations& operations) : operations_(operations) {}

    // Makes room for `tables` tables in use at once.
    void reserve(int tables);

    // Valid until as many others as there is room for (eight at least) have been asked for.
    const AxisTables& get(int in, int out, Filter filter);

  private:
    const Operations& operations_;
    uint64_t clock_ = 0;
    size_t room_ = 8;
    std::vector<std::unique_ptr<AxisTables>> tables_;
};

}  // namespace edgeseg

#endif  // EDGESEG_TABLES_H
