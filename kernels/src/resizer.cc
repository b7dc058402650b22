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

void reverse(const float* __restrict row, int width, float* __restrict out) {
    for (int x = 0; x < width; ++x) out[x] = row[width - 1 - x];
}

// Where row `y` of a channel goes in copy `copy`.
float* row_in(const Target& target, int copy, int channel, int y) {
    const bool upside_down = target.flips != nullptr && (target.flips[copy] & EDGESEG_FLIP_V);
    const size_t plane = size_t(3) * copy + target.normalization->plane_of[channel];
    const int row = upside_down ? target.height - 1 - y : y;
    return target.planes + (plane * target.height + row) * target.width;
}

}  // namespace

Resizer::Job Resizer::plan(const edgeseg_frame& frame, const Target& target, Filter filter) {
    const int width = target.width, height = target.height;
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

    job.plain_copy = 0;
    if (target.flips != nullptr) {
        const int32_t* const end = target.flips + target.flip_count;
        const int32_t* const found = std::find_if(
            target.flips, end, [](int32_t flips) { return (flips & EDGESEG_FLIP_H) == 0; });
        job.plain_copy = found != end ? static_cast<int>(found - target.flips) : -1;
    }
    return job;
}

void Resizer::run(const edgeseg_frame& frame, const Target* targets, int count, Filter filter,
                  int threads) {
    const auto bands_of = [](int height) { return (height + kSmallestBand - 1) / kSmallestBand; };
    int most = 0;
    for (int i = 0; i < count; ++i) most += bands_of(targets[i].height);
    threads = std::max(1, std::min(threads, most));
    pool_.reserve(threads);
    if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(threads);
    cache_.reserve(2 * count);
    jobs_.clear();
    int bands = 0;
    for (int i = 0; i < count; ++i) {
        Job job = plan(frame, targets[i], filter);
        job.first_band = bands;
        job.bands =
            threads > 1 ? std::min(kBandsPerThread * threads, bands_of(targets[i].height)) : 1;
        bands += job.bands;
        for (int worker = 0; worker < threads; ++worker) prepare(job, scratch_[worker]);
        jobs_.push_back(job);
    }
    pool_.run(bands, threads, [&](int index, int worker) {
        const Job& job = *std::find_if(jobs_.begin(), jobs_.end(), [&](const Job& candidate) {
            return index < candidate.first_band + candidate.bands;
        });
        // Bands of the vertical-first order begin at multiples of four rows.
        const auto edge = [&](int i) {
            return i == job.bands ? job.height
                                  : static_cast<int>(int64_t(job.height) * i / job.bands) / 4 * 4;
        };
        const int number = index - job.first_band;
        Scratch& scratch = scratch_[worker];
        if (job.vertical_first) {
            band_vertical_first(job, edge(number), edge(number + 1), scratch);
        } else {
            band(job, edge(number), edge(number + 1), scratch);
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
    if (job.plain_copy < 0) grow(scratch.row, job.width);
}

// Where to compute row `y` of a channel: in the copy that is not reversed, or on the side.
float* Resizer::row_of(const Job& job, int channel, int y, Scratch& scratch) const {
    return job.plain_copy < 0 ? scratch.row.data()
                              : row_in(*job.target, job.plain_copy, channel, y);
}

// Writes the row into the other copies while the caches hold it.
void Resizer::mirror(const Job& job, int channel, int y, const float* row) const {
    const Target& target = *job.target;
    for (int copy = 0; copy < target.flip_count; ++copy) {
        if (copy == job.plain_copy) continue;
        float* out = row_in(target, copy, channel, y);
        if (target.flips[copy] & EDGESEG_FLIP_H) {
            reverse(row, job.width, out);
        } else {
            std::memcpy(out, row, sizeof(float) * job.width);
        }
    }
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
                const Normalization& normalization = *target.normalization;
                float* row = row_of(job, c, y, scratch);
                operations_.down_f32(scratch.groups.data(), stop - first, weights, width,
                                     normalization.affine[c], normalization.table[c], row);
                mirror(job, c, y, row);
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
                    const float* table = target.normalization->table[c];
                    float* row = row_of(job, c, y + r, scratch);
                    for (int x = 0; x < width; ++x) row[x] = table[source[4 * x]];
                    mirror(job, c, y + r, row);
                }
            }
        }
    }
}

}  // namespace edgeseg
