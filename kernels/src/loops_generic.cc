// Portable loops. The pixel loop uses the vector types of GCC and Clang, which become NEON on
// aarch64 and SSE2 on x86-64; sums are unsigned, so that they wrap as Pillow's do.
#include <cstring>

#include "edgeseg/resample.h"
#include "isa.h"
#include "rows_u8.inc"

namespace edgeseg {
namespace {

typedef uint8_t Bytes4 __attribute__((vector_size(4)));
typedef uint32_t Words4 __attribute__((vector_size(16)));

void pack(const int32_t weights[4], int32_t* words) { std::memcpy(words, weights, 16); }

void across(const FourRows& rows, const PackedView& table, int width, uint8_t* out) {
    const size_t plane = 4 * static_cast<size_t>(width);
    const int taps = 4 * table.groups;
    for (int x = 0; x < width; ++x) {
        const bool direct = x < rows.safe;
        const ptrdiff_t start = 3 * (table.first[x] - (direct ? 0 : rows.tail_first));
        const int32_t* weights = table.words + static_cast<size_t>(x) * taps;
        for (int r = 0; r < 4; ++r) {
            const uint8_t* pixel = (direct ? rows.rows[r] : rows.tails[r]) + start;
            Words4 sum = {kRound, kRound, kRound, 0};
            for (int k = 0; k < taps; ++k, pixel += 3) {
                Bytes4 bytes;
                std::memcpy(&bytes, pixel, 4);
                sum += __builtin_convertvector(bytes, Words4) * static_cast<uint32_t>(weights[k]);
            }
            for (int c = 0; c < 3; ++c) {
                out[c * plane + 4 * static_cast<size_t>(x) + r] =
                    clip8(static_cast<int32_t>(sum[c]));
            }
        }
    }
}

// 16 columns from `groups` on, starting at byte `begin` of each.
inline void down16(const uint8_t* const* groups, int count, const int32_t* weights, size_t begin,
                   uint8_t* out) {
    uint32_t sum[16];
    for (int i = 0; i < 16; ++i) sum[i] = kRound;
    for (int g = 0; g < count; ++g) {
        const uint8_t* source = groups[g] + begin;
        uint32_t w[4];
        std::memcpy(w, weights + 4 * g, sizeof(w));
        for (int i = 0; i < 16; ++i) {
            sum[i] += w[0] * source[4 * i] + w[1] * source[4 * i + 1] + w[2] * source[4 * i + 2] +
                      w[3] * source[4 * i + 3];
        }
    }
    for (int i = 0; i < 16; ++i) out[i] = clip8(static_cast<int32_t>(sum[i]));
}

void down_u8(const uint8_t* const* groups, int count, const int32_t* words, int width,
             uint8_t* out) {
    for (int x = 0; x < width; x += 16) down16(groups, count, words, 4 * size_t(x), out + x);
}

void down_f32(const uint8_t* const* groups, int count, const int32_t* words, int width,
              const Affine&, const float* table, float* out) {
    for (int x = 0; x < width; x += 16) {
        uint8_t values[16];
        down16(groups, count, words, 4 * size_t(x), values);
        const int columns = width - x < 16 ? width - x : 16;
        for (int i = 0; i < columns; ++i) out[x + i] = table[values[i]];
    }
}

}  // namespace

const Operations kGeneric = {"generic", 4, pack, across, down_f32, down_u8, rows_u8};

}  // namespace edgeseg
