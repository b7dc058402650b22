// Windows and weights of one axis as Pillow has them, for the host code of every library.
#ifndef EDGESEG_PLAIN_TABLE_H
#define EDGESEG_PLAIN_TABLE_H

#include <cstdint>
#include <vector>

#include "edgeseg/resample.h"

namespace edgeseg {

// `count[i]` weights from `weights[offset[i]]` on, applied to the source samples from `first[i]`
// on.
struct PlainTable {
    std::vector<int32_t> first;
    std::vector<int32_t> count;
    std::vector<int32_t> offset;
    std::vector<int32_t> weights;
};

inline PlainTable make_plain(int in, int out, Filter filter) {
    PlainTable table;
    table.first.resize(out);
    table.count.resize(out);
    table.offset.resize(out);
    const Axis axis = make_axis(in, out, filter);
    for (int i = 0; i < out; ++i) {
        table.offset[i] = static_cast<int32_t>(table.weights.size());
        if (in == out) {
            // Pillow leaves out the pass of an unchanged side; a weight of 1 says the same.
            table.first[i] = i;
            table.count[i] = 1;
            table.weights.push_back(kUnitWeight);
            continue;
        }
        const Window window = make_window(axis, i);
        table.first[i] = window.first;
        table.count[i] = window.count;
        table.weights.resize(table.weights.size() + window.count);
        make_weights(axis, window, table.weights.data() + table.offset[i]);
    }
    return table;
}

}  // namespace edgeseg

#endif  // EDGESEG_PLAIN_TABLE_H
