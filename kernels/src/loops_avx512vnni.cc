// AVX-512 with VNNI: vpdpbusd multiplies four unsigned bytes by four signed ones and adds all four
// products. A weight of up to 24 bits is therefore written in three signed digits of base 256, and
// the three sums are put together at the end; wrap-around in between does no harm.
#include <immintrin.h>

#include "edgeseg/resample.h"
#include "isa.h"
#include "pack_digits.inc"
#include "rows_u8.inc"

namespace edgeseg {
namespace {

struct Sums {
    __m512i low, middle, high;
};

inline Sums zero() {
    const __m512i none = _mm512_setzero_si512();
    return {none, none, none};
}

inline void add(Sums& sums, __m512i bytes, const int32_t* words) {
    sums.low = _mm512_dpbusd_epi32(sums.low, bytes, _mm512_set1_epi32(words[0]));
    sums.middle = _mm512_dpbusd_epi32(sums.middle, bytes, _mm512_set1_epi32(words[1]));
    sums.high = _mm512_dpbusd_epi32(sums.high, bytes, _mm512_set1_epi32(words[2]));
}

// Shifted down to the value, not yet clipped.
inline __m512i total(const Sums& sums) {
    __m512i sum = _mm512_add_epi32(sums.low, _mm512_set1_epi32(kRound));
    sum = _mm512_add_epi32(sum, _mm512_slli_epi32(sums.middle, 8));
    sum = _mm512_add_epi32(sum, _mm512_slli_epi32(sums.high, 16));
    return _mm512_srai_epi32(sum, kPrecisionBits);
}

// 16 bytes of each of four rows, one row a 128-bit lane.
inline __m512i load_rows(const uint8_t* const rows[4], ptrdiff_t offset) {
    const auto lane = [&](int r) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + offset));
    };
    __m512i bytes = _mm512_castsi128_si512(lane(0));
    bytes = _mm512_inserti32x4(bytes, lane(1), 1);
    bytes = _mm512_inserti32x4(bytes, lane(2), 2);
    return _mm512_inserti32x4(bytes, lane(3), 3);
}

// Four pixels BGRBGRBGRBGR to BBBB GGGG RRRR 0000 in each lane.
inline __m512i channels_apart(__m512i bytes) {
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
    return _mm512_shuffle_epi8(bytes, order);
}

// kGroups: known number of groups, or 0 to read it from the table.
template <int kGroups>
void across_groups(const FourRows& rows, const PackedView& table, int width, uint8_t* out) {
    const int groups = kGroups > 0 ? kGroups : table.groups;
    const size_t plane = 4 * static_cast<size_t>(width);
    const __m512i transposed =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes_transposed =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const int32_t* words = table.words;
    for (int x = 0; x < width; x += 4) {
        const bool direct = x < rows.safe;
        const uint8_t* const* source = direct ? rows.rows : rows.tails;
        const int base = direct ? 0 : rows.tail_first;
        __m512i values[4];
        for (int i = 0; i < 4; ++i) {
            ptrdiff_t offset = 3 * static_cast<ptrdiff_t>(table.first[x + i] - base);
            Sums sums = zero();
            for (int g = 0; g < groups; ++g, offset += 12, words += 3) {
                add(sums, channels_apart(load_rows(source, offset)), words);
            }
            values[i] = total(sums);
        }
        // Bytes by (row, pixel, channel) to (channel, pixel, row).
        __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(values[0], values[1]),
                                             _mm512_packs_epi32(values[2], values[3]));
        packed = _mm512_permutexvar_epi32(transposed, packed);
        packed = _mm512_shuffle_epi8(packed, bytes_transposed);
        packed = _mm512_permutexvar_epi32(transposed, packed);
        uint8_t* target = out + 4 * static_cast<size_t>(x);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_castsi512_si128(packed));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target + plane),
                         _mm512_extracti32x4_epi32(packed, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target + 2 * plane),
                         _mm512_extracti32x4_epi32(packed, 2));
    }
}

void across(const FourRows& rows, const PackedView& table, int width, uint8_t* out) {
    switch (table.groups) {
        case 1:
            return across_groups<1>(rows, table, width, out);
        case 2:
            return across_groups<2>(rows, table, width, out);
        case 3:
            return across_groups<3>(rows, table, width, out);
        case 4:
            return across_groups<4>(rows, table, width, out);
        default:
            return across_groups<0>(rows, table, width, out);
    }
}

// Clipped values of 16 columns.
inline __m512i down16(const uint8_t* const* groups, int count, const int32_t* words, int x) {
    Sums sums = zero();
    for (int g = 0; g < count; ++g) {
        add(sums, _mm512_loadu_si512(groups[g] + 4 * static_cast<size_t>(x)), words + 3 * g);
    }
    const __m512i value = _mm512_max_epi32(total(sums), _mm512_setzero_si512());
    return _mm512_min_epi32(value, _mm512_set1_epi32(255));
}

void down_u8(const uint8_t* const* groups, int count, const int32_t* words, int width,
             uint8_t* out) {
    for (int x = 0; x < width; x += 16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x),
                         _mm512_cvtepi32_epi8(down16(groups, count, words, x)));
    }
}

void down_f32(const uint8_t* const* groups, int count, const int32_t* words, int width,
              const Affine& affine, const float*, float* out) {
    const __m512d gain = _mm512_set1_pd(affine.gain);
    const __m512d offset = _mm512_set1_pd(affine.offset);
    const auto normalized = [&](__m256i values) {
        return _mm512_cvtpd_ps(_mm512_fmadd_pd(_mm512_cvtepi32_pd(values), gain, offset));
    };
    for (int x = 0; x < width; x += 16) {
        const __m512i values = down16(groups, count, words, x);
        const __m512 result =
            _mm512_insertf32x8(_mm512_castps256_ps512(normalized(_mm512_castsi512_si256(values))),
                               normalized(_mm512_extracti32x8_epi32(values, 1)), 1);
        const int columns = width - x < 16 ? width - x : 16;
        _mm512_mask_storeu_ps(out + x, static_cast<__mmask16>((1u << columns) - 1), result);
    }
}

}  // namespace

const Operations kAvx512Vnni = {"avx512vnni", 3, pack_digits, across, down_f32, down_u8, rows_u8};

}  // namespace edgeseg
