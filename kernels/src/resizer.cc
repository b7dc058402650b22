#include "resizer.h"

#include <algorithm>
#include <cstring>

namespace edgeseg {
namespace {

// Loads of the horizontal pass take 16 bytes of which 12 are used.
constexpr int kOverread = 4;

// Bands for each thread: enough to share the work while a thread wakes late, few enough that the
// source rows which neighbours both resample are a small part.
constexpr int kBandsPerThread = 4;
constexpr int kSmallestBand = 8;

void interleave(const uint8_t* planes, size_t stride, int width, uint8_t* pixels) {
    for (int x = 0; x < width; ++x) {
        for (int c = 0; c < 3; ++c) pixels[3 * x + c] = planes[c * stride + x];
    }
}

}  // namespace

void Resizer::run(const edgeseg_frame& frame, int width, int height, Filter filter, int threads,
                  const Target& target) {
    Job job;
    job.frame = frame;
    job.width = width;
    job.height = height;
    job.target = &target;
    job.horizontal = &cache_.get(frame.width, width, filter);
    job.vertical = &cache_.get(frame.height, height, filter);
    // With an unchanged width there is only one pass, and the order does not matter.
    job.vertical_first =
        width != frame.width && vertical_first(frame.width, frame.height, width, height);

    const PackedTable& across = job.horizontal->across;
    const int64_t row_bytes = int64_t(3) * frame.width;
    const int64_t reach = int64_t(12) * across.groups + kOverread;
    const auto is_safe = [&](int x) { return int64_t(3) * across.first[x] + reach <= row_bytes; };
    job.safe = padded(width);
    while (job.safe > 0 && !is_safe(job.safe - 1)) --job.safe;
    job.safe -= job.safe % 4;
    job.tail_first = job.safe < padded(width) ? across.first[job.safe] : frame.width;
    const int64_t columns_behind = across.first.back() - job.tail_first;
    job.tail_bytes = size_t(std::max<int64_t>(3 * std::max<int64_t>(columns_behind, 0) + reach,
                                              row_bytes - int64_t(3) * job.tail_first));

    threads = std::max(1, std::min(threads, (height + kSmallestBand - 1) / kSmallestBand));
    pool_.reserve(threads);
    if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
    for (int worker = 0; worker < threads; ++worker) prepare(job, scratch_[worker]);

    int bands = 1;
    if (threads > 1) {
        bands = std::min(kBandsPerThread * threads, (height + kSmallestBand - 1) / kSmallestBand);
    }
    pool_.run(bands, threads, [&](int index, int worker) {
        // Bands of the vertical-first order begin at multiples of four rows.
        const auto edge = [&](int i) {
            return i == bands ? height : static_cast<int>(int64_t(height) * i / bands) / 4 * 4;
        };
        Scratch& scratch = scratch_[worker];
        if (job.vertical_first) {
            band_vertical_first(job, edge(index), edge(index + 1), scratch);
        } else {
            band(job, edge(index), edge(index + 1), scratch);
        }
    });
}

void Resizer::prepare(const Job& job, Scratch& scratch) const {
    const auto grow = [](auto& buffer, size_t size) {
        if (buffer.size() < size) buffer.resize(size);
    };
    const size_t group_bytes = size_t(12) * padded(job.width);
    const size_t slots = job.vertical_first ? 1 : job.vertical->down.groups;
    grow(scratch.ring, slots * group_bytes);
    grow(scratch.groups, slots);
    grow(scratch.tails, 4 * job.tail_bytes);
    grow(scratch.planes, size_t(3) * padded(job.width));
    if (job.vertical_first) grow(scratch.rows, size_t(12) * job.frame.width);
}

void Resizer::across(const Job& job, const uint8_t* const rows[4], Scratch& scratch,
                     uint8_t* out) const {
    FourRows four;
    four.safe = job.safe;
    four.tail_first = job.tail_first;
    const size_t begin = size_t(3) * job.tail_first;
    const size_t length = size_t(3) * job.frame.width - begin;
    for (int r = 0; r < 4; ++r) {
        uint8_t* tail = scratch.tails.data() + r * job.tail_bytes;
        std::memcpy(tail, rows[r] + begin, length);
        four.rows[r] = rows[r];
        four.tails[r] = tail;
    }
    const PackedTable& table = job.horizontal->across;
    operations_.across(four, {table.groups, table.first.data(), table.words.data()},
                       padded(job.width), out);
}

void Resizer::band(const Job& job, int begin, int end, Scratch& scratch) const {
    if (begin >= end) return;
    const PackedTable& down = job.vertical->down;
    const int words = down.groups * operations_.words_per_group;
    const int width = job.width;
    const size_t plane_bytes = size_t(4) * padded(width);
    const size_t group_bytes = 3 * plane_bytes;
    const Target& target = *job.target;
    int next = down.first[begin];
    for (int y = begin; y < end; ++y) {
        const int first = down.first[y];
        const int stop = first + down.count[y];
        for (; next < stop; ++next) {
            const uint8_t* rows[4];
            for (int r = 0; r < 4; ++r) {
                // Rows past the last one have weight 0; any readable row serves.
                const int row = std::min(4 * next + r, job.frame.height - 1);
                rows[r] = job.frame.pixels + row * job.frame.row_stride;
            }
            across(job, rows, scratch, scratch.ring.data() + next % down.groups * group_bytes);
        }
        for (int c = 0; c < 3; ++c) {
            for (int g = first; g < stop; ++g) {
                scratch.groups[g - first] =
                    scratch.ring.data() + g % down.groups * group_bytes + c * plane_bytes;
            }
            const int32_t* weights = down.words.data() + size_t(y) * words;
            if (target.pixels != nullptr) {
                operations_.down_u8(scratch.groups.data(), stop - first, weights, width,
                                    scratch.planes.data() + size_t(c) * padded(width));
            } else {
                float* plane = target.planes + size_t(target.plane_of[c]) * job.height * width;
                operations_.down_f32(scratch.groups.data(), stop - first, weights, width,
                                     target.affine[c], target.table[c], plane + size_t(y) * width);
            }
        }
        if (target.pixels != nullptr) {
            interleave(scratch.planes.data(), padded(width), width,
                       target.pixels + size_t(y) * 3 * width);
        }
    }
}

void Resizer::band_vertical_first(const Job& job, int begin, int end, Scratch& scratch) const {
    const PlainTable& plain = job.vertical->plain;
    const int width = job.width;
    const int row_bytes = 3 * job.frame.width;
    const size_t plane_bytes = size_t(4) * padded(width);
    const Target& target = *job.target;
    for (int y = begin; y < end; y += 4) {
        const int count = std::min(4, end - y);
        const uint8_t* rows[4];
        for (int r = 0; r < 4; ++r) {
            uint8_t* row = scratch.rows.data() + size_t(r) * row_bytes;
            rows[r] = row;
            if (r >= count) continue;
            operations_.rows_u8(job.frame.pixels + plain.first[y + r] * job.frame.row_stride,
                                job.frame.row_stride, plain.count[y + r],
                                plain.weights.data() + plain.offset[y + r], row_bytes, row);
        }
        across(job, rows, scratch, scratch.ring.data());
        for (int r = 0; r < count; ++r) {
            for (int c = 0; c < 3; ++c) {
                const uint8_t* source = scratch.ring.data() + c * plane_bytes + r;
                if (target.pixels != nullptr) {
                    uint8_t* pixels = target.pixels + size_t(y + r) * 3 * width + c;
                    for (int x = 0; x < width; ++x) pixels[3 * x] = source[4 * x];
                } else {
                    float* plane = target.planes + size_t(target.plane_of[c]) * job.height * width +
                                   size_t(y + r) * width;
                    for (int x = 0; x < width; ++x) plane[x] = target.table[c][source[4 * x]];
                }
            }
        }
    }
}

}  // namespace edgeseg
