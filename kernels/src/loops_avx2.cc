// AVX2: vpmaddwd multiplies pairs of 16-bit numbers and adds them; weights are split in two halves,
// whose sums are put together at the end. Wrap-around in between does no harm.
#include <immintrin.h>
#include <stdint.h>

#include "edgeseg/resample.h"
#include "pack_halves.inc"

namespace edgeseg {
namespace {

struct Sums {
    static constexpr int kWords = 4;
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();

    void add(__m256i bytes, const int32_t* words) {
        const __m256i even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
        const __m256i odd = _mm256_srli_epi16(bytes, 8);
        const auto product = [&](__m256i taps, int word) {
            return _mm256_madd_epi16(taps, _mm256_set1_epi32(words[word]));
        };
        low = _mm256_add_epi32(low, _mm256_add_epi32(product(even, 0), product(odd, 1)));
        high = _mm256_add_epi32(high, _mm256_add_epi32(product(even, 2), product(odd, 3)));
    }

    __m256i total() const {
        const __m256i rounded = _mm256_add_epi32(low, _mm256_set1_epi32(kRound));
        return _mm256_srai_epi32(_mm256_add_epi32(rounded, _mm256_slli_epi32(high, 16)),
                                 kPrecisionBits);
    }
};

}  // namespace
}  // namespace edgeseg

#include "loops_256.inc"

namespace edgeseg {

const Operations kAvx2 = {"avx2", Sums::kWords, pack_halves, across, down_f32, down_u8, rows_u8};

}  // namespace edgeseg
