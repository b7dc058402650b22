// SSE4.1 (and SSSE3), for processors without AVX: as loops_avx2.cc, one row at a time.
#include <smmintrin.h>
#include <tmmintrin.h>

#include "edgeseg/resample.h"
#include "isa.h"
#include "pack_halves.inc"
#include "rows_u8.inc"

namespace edgeseg {
namespace {

struct Sums {
    static constexpr int kWords = 4;
    __m128i low = _mm_setzero_si128();
    __m128i high = _mm_setzero_si128();

    void add(__m128i bytes, const __m128i words[4]) {
        const __m128i even = _mm_and_si128(bytes, _mm_set1_epi16(0xff));
        const __m128i odd = _mm_srli_epi16(bytes, 8);
        low = _mm_add_epi32(
            low, _mm_add_epi32(_mm_madd_epi16(even, words[0]), _mm_madd_epi16(odd, words[1])));
        high = _mm_add_epi32(
            high, _mm_add_epi32(_mm_madd_epi16(even, words[2]), _mm_madd_epi16(odd, words[3])));
    }

    __m128i total() const {
        const __m128i rounded = _mm_add_epi32(low, _mm_set1_epi32(kRound));
        return _mm_srai_epi32(_mm_add_epi32(rounded, _mm_slli_epi32(high, 16)), kPrecisionBits);
    }
};

struct Weights {
    __m128i words[4];

    explicit Weights(const int32_t* packed) {
        const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
        words[0] = _mm_shuffle_epi32(all, 0x00);
        words[1] = _mm_shuffle_epi32(all, 0x55);
        words[2] = _mm_shuffle_epi32(all, 0xaa);
        words[3] = _mm_shuffle_epi32(all, 0xff);
    }
};

void across(const FourRows& rows, const PackedView& table, int width, uint8_t* out) {
    const size_t plane = 4 * static_cast<size_t>(width);
    const int32_t* words = table.words;
    // Four pixels BGRBGRBGRBGR to BBBB GGGG RRRR 0000.
    const __m128i order = _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1);
    const __m128i transposed = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int x = 0; x < width; ++x) {
        const bool direct = x < rows.safe;
        const uint8_t* const* source = direct ? rows.rows : rows.tails;
        ptrdiff_t offset =
            3 * static_cast<ptrdiff_t>(table.first[x] - (direct ? 0 : rows.tail_first));
        Sums sums[4];
        for (int g = 0; g < table.groups; ++g, offset += 12, words += Sums::kWords) {
            const Weights weights(words);
            for (int r = 0; r < 4; ++r) {
                const __m128i pixels =
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(source[r] + offset));
                sums[r].add(_mm_shuffle_epi8(pixels, order), weights.words);
            }
        }
        // Bytes by (row, channel) to (channel, row).
        const __m128i packed = _mm_packus_epi16(_mm_packs_epi32(sums[0].total(), sums[1].total()),
                                                _mm_packs_epi32(sums[2].total(), sums[3].total()));
        const __m128i channels = _mm_shuffle_epi8(packed, transposed);
        const int32_t values[3] = {_mm_cvtsi128_si32(channels), _mm_extract_epi32(channels, 1),
                                   _mm_extract_epi32(channels, 2)};
        for (int c = 0; c < 3; ++c) {
            __builtin_memcpy(out + c * plane + 4 * static_cast<size_t>(x), &values[c], 4);
        }
    }
}

// 16 columns, clipped.
inline __m128i down16(const uint8_t* const* groups, int count, const int32_t* words, int x) {
    Sums sums[4];
    for (int g = 0; g < count; ++g) {
        const Weights weights(words + Sums::kWords * g);
        const __m128i* source =
            reinterpret_cast<const __m128i*>(groups[g] + 4 * static_cast<size_t>(x));
        for (int i = 0; i < 4; ++i) sums[i].add(_mm_loadu_si128(source + i), weights.words);
    }
    return _mm_packus_epi16(_mm_packs_epi32(sums[0].total(), sums[1].total()),
                            _mm_packs_epi32(sums[2].total(), sums[3].total()));
}

void down_u8(const uint8_t* const* groups, int count, const int32_t* words, int width,
             uint8_t* out) {
    for (int x = 0; x < width; x += 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), down16(groups, count, words, x));
    }
}

void down_f32(const uint8_t* const* groups, int count, const int32_t* words, int width,
              const Affine&, const float* table, float* out) {
    for (int x = 0; x < width; x += 16) {
        uint8_t values[16];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(values), down16(groups, count, words, x));
        const int columns = width - x < 16 ? width - x : 16;
        for (int i = 0; i < columns; ++i) out[x + i] = table[values[i]];
    }
}

}  // namespace

const Operations kSse41 = {"sse41", Sums::kWords, pack_halves, across, down_f32, down_u8, rows_u8};

}  // namespace edgeseg
