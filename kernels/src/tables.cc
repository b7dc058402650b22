#include "tables.h"

#include <algorithm>
#include <cstddef>

namespace edgeseg {
namespace {

// Packs the weights of sample i so that the first of them stands `lead` taps into its first group.
void pack(const Operations& operations, const PlainTable& plain, int i, int lead, int groups,
          int32_t* words) {
    const int32_t* weights = plain.weights.data() + plain.offset[i];
    for (int g = 0; g < groups; ++g) {
        int32_t four[4];
        for (int k = 0; k < 4; ++k) {
            const int tap = 4 * g + k - lead;
            four[k] = tap >= 0 && tap < plain.count[i] ? weights[tap] : 0;
        }
        operations.pack(four, words + g * operations.words_per_group);
    }
}

PackedTable make_across(const Operations& operations, const PlainTable& plain) {
    PackedTable table;
    const int out = static_cast<int>(plain.first.size());
    const int longest = *std::max_element(plain.count.begin(), plain.count.end());
    table.groups = (longest + 3) / 4;
    const size_t stride = static_cast<size_t>(table.groups) * operations.words_per_group;
    table.first.assign(padded(out), plain.first.back());
    table.count.assign(padded(out), table.groups);
    table.words.assign(padded(out) * stride, 0);
    for (int i = 0; i < out; ++i) {
        table.first[i] = plain.first[i];
        pack(operations, plain, i, 0, table.groups, table.words.data() + i * stride);
    }
    return table;
}

PackedTable make_down(const Operations& operations, const PlainTable& plain) {
    PackedTable table;
    const int out = static_cast<int>(plain.first.size());
    table.first.resize(out);
    table.count.resize(out);
    for (int i = 0; i < out; ++i) {
        table.first[i] = plain.first[i] / 4;
        table.count[i] = (plain.first[i] % 4 + plain.count[i] + 3) / 4;
        table.groups = std::max(table.groups, table.count[i]);
    }
    const size_t stride = static_cast<size_t>(table.groups) * operations.words_per_group;
    table.words.assign(out * stride, 0);
    for (int i = 0; i < out; ++i) {
        pack(operations, plain, i, plain.first[i] % 4, table.count[i],
             table.words.data() + i * stride);
    }
    return table;
}

}  // namespace

void TableCache::reserve(int tables) { room_ = std::max(room_, static_cast<size_t>(tables)); }

const AxisTables& TableCache::get(int in, int out, Filter filter) {
    ++clock_;
    for (auto& tables : tables_) {
        if (tables->in == in && tables->out == out && tables->filter == filter) {
            tables->last_use = clock_;
            return *tables;
        }
    }
    auto tables = std::make_unique<AxisTables>();
    tables->in = in;
    tables->out = out;
    tables->filter = filter;
    tables->last_use = clock_;
    tables->plain = make_plain(in, out, filter);
    tables->across = make_across(operations_, tables->plain);
    tables->down = make_down(operations_, tables->plain);
    if (tables_.size() < room_) {
        tables_.push_back(std::move(tables));
        return *tables_.back();
    }
    auto oldest =
        std::min_element(tables_.begin(), tables_.end(),
                         [](const auto& a, const auto& b) { return a->last_use < b->last_use; });
    *oldest = std::move(tables);
    return **oldest;
}

}  // namespace edgeseg
