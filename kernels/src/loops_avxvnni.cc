// AVX-VNNI: the VNNI instructions on 256-bit vectors, for processors without AVX-512. Weights are
// written in three signed digits as in loops_avx512vnni.cc.
#include <immintrin.h>
#include <stdint.h>

#include "edgeseg/resample.h"
#include "pack_digits.inc"

namespace edgeseg {
namespace {

struct Sums {
    static constexpr int kWords = 3;
    __m256i low = _mm256_setzero_si256();
    __m256i middle = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();

    void add(__m256i bytes, const int32_t* words) {
        low = _mm256_dpbusd_avx_epi32(low, bytes, _mm256_set1_epi32(words[0]));
        middle = _mm256_dpbusd_avx_epi32(middle, bytes, _mm256_set1_epi32(words[1]));
        high = _mm256_dpbusd_avx_epi32(high, bytes, _mm256_set1_epi32(words[2]));
    }

    __m256i total() const {
        __m256i sum = _mm256_add_epi32(low, _mm256_set1_epi32(kRound));
        sum = _mm256_add_epi32(sum, _mm256_slli_epi32(middle, 8));
        sum = _mm256_add_epi32(sum, _mm256_slli_epi32(high, 16));
        return _mm256_srai_epi32(sum, kPrecisionBits);
    }
};

}  // namespace
}  // namespace edgeseg

#include "loops_256.inc"

namespace edgeseg {

const Operations kAvxVnni = {"avxvnni", Sums::kWords, pack_digits, across,
                             down_f32,  down_u8,      rows_u8};

}  // namespace edgeseg
