// The inner loops, once for each instruction set, and the choice between them at run time.
#ifndef EDGESEG_ISA_H
#define EDGESEG_ISA_H

#include <stddef.h>
#include <stdint.h>

// This header and resample.h are all that the files of an instruction set include besides the
// compiler's intrinsics: a template of the standard library compiled there could replace its
// portable twin at link time and stop older processors.

namespace edgeseg {

struct Affine;

// Four rows of pixels on their way through the horizontal pass. The samples before `safe` read from
// `rows`; those from `safe` on would read past the end of a row and have a padded copy of its end
// in `tails`, which begins with source pixel `tail_first`.
struct FourRows {
    const uint8_t* rows[4];
    const uint8_t* tails[4];
    int safe;
    int tail_first;
};

// A packed table, without its vectors.
struct PackedView {
    int groups;
    const int32_t* first;
    const int32_t* words;
};

struct Operations {
    const char* name;
    int words_per_group;

    // Packs the weights of four taps into words_per_group words.
    void (*pack)(const int32_t weights[4], int32_t* words);

    // Resamples four rows to `width` samples (a multiple of 16) of three channels.
    // out: three planes, `4 * width` bytes apart; byte 4 * x + r of a plane is column x of row r.
    void (*across)(const FourRows& rows, const PackedView& table, int width, uint8_t* out);

    // Weighted sum of rows, from what `across` wrote: `groups[g]` is one channel's plane of four
    // rows, readable up to the next multiple of 16 columns. Writes `width` normalised values.
    void (*down_f32)(const uint8_t* const* groups, int count, const int32_t* words, int width,
                     const Affine& affine, const float* table, float* out);

    // The same, as 8-bit values; `out` has room for a multiple of 16 columns.
    void (*down_u8)(const uint8_t* const* groups, int count, const int32_t* words, int width,
                    uint8_t* out);

    // Weighted sum of `count` rows of `bytes` bytes, `stride` bytes apart.
    void (*rows_u8)(const uint8_t* first, ptrdiff_t stride, int count, const int32_t* weights,
                    int bytes, uint8_t* out);
};

extern const Operations kGeneric;
#if defined(EDGESEG_X86)
extern const Operations kSse41;
extern const Operations kAvx2;
extern const Operations kAvx512Vnni;
#if defined(EDGESEG_HAVE_AVXVNNI)
extern const Operations kAvxVnni;
#endif
#endif

// Instruction sets of this build from the slowest on; nullptr past the end.
const Operations* operations(int index);

// Whether this machine can run operations(index).
bool supported(int index);

// Which build of the loops on floats serves operations(index).
enum class FloatIsa { kGeneric, kAvx2, kAvx512 };
FloatIsa float_isa(int index);

// Index of the fastest that is supported.
int fastest();

}  // namespace edgeseg

#endif  // EDGESEG_ISA_H
