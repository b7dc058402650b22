// decide_mask: each thread decides a tile of neighbouring pixels. It keeps the samples of two rows
// of a plane, interpolated along x, from one row of the tile to the next, since most rows of an
// enlarged plane lie between the same two; and writes the mask a word at a time.
#include <algorithm>
#include <type_traits>

#include "edgeseg/decide.h"
#include "portable.cuh"
#include "taps.cuh"

namespace edgeseg {
namespace cuda {
namespace {

// Sides of a tile. A row of it is a word of the mask.
constexpr int kPixels = 4;
constexpr int kRows = 4;
constexpr uint32_t kEveryByte = 0x01010101u;

struct DecideParams {
    const void* planes;
    uint8_t* mask;
    const float* level;
    uint32_t* counts;
    int64_t mask_stride;
    TapScale across;
    TapScale down;
    int32_t channels;
    int32_t width;
    int32_t height;
    int32_t mask_width;
    int32_t mask_height;
    int32_t x;
    int32_t y;
    int32_t window_width;
    int32_t window_height;
    int32_t align_corners;
    int32_t wide;  // words of the mask are aligned
};

// The pixels that the threads of a block gave each index.
struct Tally {
    uint32_t counts[EDGESEG_MAX_CHANNELS];
};

// One thread's pixels.
struct Tile {
    int64_t column;    // the first, in the mask
    int32_t row;       // the first, in the mask
    uint32_t columns;  // a full byte for each column within the window
    uint32_t rows;     // a bit for each row within the window
    Between across[kPixels];
    Between down[kRows];
    uint32_t words[kRows];  // what the mask gets
};

EDGESEG_DEVICE Between taps(bool corners, int32_t in, int32_t out, const TapScale& scale,
                            int32_t index) {
    return corners ? quick_corner_taps(in, out, scale, index) : quick_taps(in, out, scale, index);
}

EDGESEG_DEVICE Tile make_tile(const DecideParams& params, const Position& at) {
    Tile tile;
    tile.column = at.x * kPixels;
    tile.row = at.y * kRows;
    tile.columns = 0;
    tile.rows = 0;
    const bool corners = params.align_corners != 0;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
        const int64_t column = tile.column + i - params.x;
        if (column >= 0 && column < params.window_width) tile.columns |= 255u << 8 * i;
        // Pixels beside the window are computed as the nearest within it, and not written.
        const auto last = static_cast<int64_t>(params.window_width - 1);
        const auto x = static_cast<int32_t>(column < 0 ? 0 : column < last ? column : last);
        tile.across[i] = taps(corners, params.width, params.window_width, params.across, x);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const int32_t row = tile.row + r - params.y;
        tile.words[r] = 0;
        tile.down[r] = Between{};
        if (row < 0 || row >= params.window_height) continue;
        tile.rows |= 1u << r;
        tile.down[r] = taps(corners, params.height, params.window_height, params.down, row);
    }
    return tile;
}

EDGESEG_DEVICE float to_float(float sample) { return sample; }
EDGESEG_DEVICE float to_float(uint16_t sample) { return half_to_float(sample); }

// Two neighbouring rows of a plane, interpolated along x at the columns of a tile.
template <typename Sample>
struct Strip {
    const Sample* plane;
    int64_t width;
    int32_t top_row = -1;
    int32_t bottom_row = -1;
    float top[kPixels];
    float bottom[kPixels];

    EDGESEG_DEVICE Strip(const Sample* plane, int64_t width) : plane(plane), width(width) {}

    // The plane at one row of the tile.
    EDGESEG_DEVICE void sample(const Tile& tile, const Between& down, float (&values)[kPixels]) {
        if (top_row != down.base) {
            if (bottom_row == down.base) {
#pragma unroll
                for (int i = 0; i < kPixels; ++i) top[i] = bottom[i];
            } else {
                load(tile, down.base, top);
            }
            top_row = down.base;
        }
        if (down.step == 0) {
#pragma unroll
            for (int i = 0; i < kPixels; ++i) values[i] = top[i];
            return;
        }
        if (bottom_row != down.base + 1) {
            bottom_row = down.base + 1;
            load(tile, bottom_row, bottom);
        }
#pragma unroll
        for (int i = 0; i < kPixels; ++i) values[i] = mix(top[i], bottom[i], down.far);
    }

    // All samples are asked for before the first is looked at, so that the loads overlap.
    EDGESEG_DEVICE void load(const Tile& tile, int32_t row, float (&values)[kPixels]) const {
        const Sample* line = plane + forget(row) * width;
        Sample left[kPixels];
        Sample right[kPixels];
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            const Between& across = tile.across[i];
            left[i] = load_constant(line + across.base);
            right[i] = load_constant(line + across.base + across.step);
        }
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            values[i] = mix_or_first(to_float(left[i]), to_float(right[i]), tile.across[i].far);
        }
    }
};

EDGESEG_DEVICE void store(const DecideParams& params, const Tile& tile) {
    const int64_t left = params.mask_width - tile.column;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (tile.row + r >= params.mask_height) break;
        uint8_t* target = params.mask + (tile.row + r) * params.mask_stride + tile.column;
        if (params.wide && left >= kPixels) {
            *reinterpret_cast<uint32_t*>(target) = tile.words[r];
            continue;
        }
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            if (i < left) target[i] = static_cast<uint8_t>(byte_of(tile.words[r], i));
        }
    }
}

// One channel.
struct One {
    template <typename Sample>
    EDGESEG_DEVICE static void decide(const DecideParams& params, Tile& tile) {
        const float level = load_constant(params.level);
        Strip<Sample> strip(static_cast<const Sample*>(params.planes), params.width);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if ((tile.rows >> r & 1u) == 0) continue;
            float values[kPixels];
            strip.sample(tile, tile.down[r], values);
            uint32_t word = 0;
#pragma unroll
            for (int i = 0; i < kPixels; ++i) {
                word |= static_cast<uint32_t>(values[i] > level) << 8 * i;
            }
            tile.words[r] = word & tile.columns;
        }
    }

    EDGESEG_DEVICE static void count(const Tile& tile, Tally& tally) {
        uint32_t ones = 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) ones += count_bits(tile.words[r]);
        const uint32_t all = count_bits(tile.columns & kEveryByte) * count_bits(tile.rows);
        add_together(tally.counts, 0, all - ones);
        add_together(tally.counts, 1, ones);
    }
};

// Several.
struct Many {
    template <typename Sample>
    EDGESEG_DEVICE static void decide(const DecideParams& params, Tile& tile) {
        const int64_t size = static_cast<int64_t>(params.width) * params.height;
        float best[kRows][kPixels];
#pragma unroll 1
        for (int32_t c = 0; c < params.channels; ++c) {
            Strip<Sample> strip(static_cast<const Sample*>(params.planes) + c * size, params.width);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                if ((tile.rows >> r & 1u) == 0) continue;
                float values[kPixels];
                strip.sample(tile, tile.down[r], values);
#pragma unroll
                for (int i = 0; i < kPixels; ++i) {
                    if (!takes_over(c, values[i], best[r][i])) continue;
                    best[r][i] = values[i];
                    tile.words[r] = with_byte(tile.words[r], i, static_cast<uint32_t>(c));
                }
            }
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) tile.words[r] &= tile.columns;
    }

    // A thread's first index is counted together with the other threads', the others one by one:
    // they lie on the borders of classes.
    EDGESEG_DEVICE static void count(const Tile& tile, Tally& tally) {
        constexpr uint32_t kWholeTile = (1u << kRows) - 1;
        uint32_t index = byte_of(tile.words[0], 0);
        bool plain = tile.columns == ~0u && tile.rows == kWholeTile;
#pragma unroll
        for (int r = 0; r < kRows; ++r) plain = plain && tile.words[r] == index * kEveryByte;
        uint32_t same = plain ? kRows * kPixels : 0;
        if (!plain) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
#pragma unroll
                for (int i = 0; i < kPixels; ++i) {
                    if ((tile.rows >> r & 1u) == 0 || byte_of(tile.columns, i) == 0) continue;
                    const uint32_t found = byte_of(tile.words[r], i);
                    if (same == 0) index = found;
                    if (found == index) {
                        ++same;
                    } else {
                        add_to(tally.counts + found, 1);
                    }
                }
            }
        }
        add_together(tally.counts, index, same);
    }
};

template <typename Channels, typename Sample>
struct Decide {
    using Params = DecideParams;
    using Shared = Tally;
    static constexpr int kThreads = 128;

    EDGESEG_DEVICE static void begin(const Params& params, Shared& tally, int32_t thread) {
        if (params.counts == nullptr) return;
        for (int32_t k = thread; k < indices(params); k += kThreads) tally.counts[k] = 0;
    }

    EDGESEG_DEVICE static void run(const Params& params, const Position& at, Shared& tally) {
        Tile tile = make_tile(params, at);
        if (tile.columns != 0 && tile.rows != 0) {
            Channels::template decide<Sample>(params, tile);
        }
        store(params, tile);
        if (params.counts != nullptr) Channels::count(tile, tally);
    }

    EDGESEG_DEVICE static void end(const Params& params, const Shared& tally, int32_t thread) {
        if (params.counts == nullptr) return;
        for (int32_t k = thread; k < indices(params); k += kThreads) {
            if (tally.counts[k] != 0) add_to(params.counts + k, tally.counts[k]);
        }
    }

    EDGESEG_DEVICE static int32_t indices(const Params& params) {
        return params.channels > 1 ? params.channels : 2;
    }
};

// The names that reports show; 0: float32, 1: float16 (edgeseg_dtype).
template <int kDtype>
struct DecideOne : Decide<One, std::conditional_t<kDtype == EDGESEG_FLOAT16, uint16_t, float>> {};
template <int kDtype>
struct DecideMany : Decide<Many, std::conditional_t<kDtype == EDGESEG_FLOAT16, uint16_t, float>> {};

bool is_side(int32_t side) { return side >= 1 && side <= EDGESEG_MAX_SIDE; }

// Whether `count` pixels from `first` on lie among `all`.
bool is_within(int32_t first, int32_t count, int32_t all) {
    return first >= 0 && count >= 1 && count <= all && first <= all - count;
}

int start(const DecideParams& params, bool half, void* stream) {
    const Extent extent = {ceil_div(params.mask_width, kPixels),
                           static_cast<int32_t>(ceil_div(params.mask_height, kRows)), 1};
    if (params.channels == 1) {
        return half ? launch_blocks<DecideOne<1>>(params, extent, stream)
                    : launch_blocks<DecideOne<0>>(params, extent, stream);
    }
    return half ? launch_blocks<DecideMany<1>>(params, extent, stream)
                : launch_blocks<DecideMany<0>>(params, extent, stream);
}

}  // namespace

int prepare_decide() {
    int (*const steps[])() = {load_blocks<DecideOne<0>>, load_blocks<DecideOne<1>>,
                              load_blocks<DecideMany<0>>, load_blocks<DecideMany<1>>};
    for (const auto step : steps) {
        const int status = step();
        if (status != EDGESEG_OK) return status;
    }
    return EDGESEG_OK;
}

}  // namespace cuda
}  // namespace edgeseg

extern "C" int edgeseg_cuda_decide_mask(const void* planes, int32_t dtype, int32_t channels,
                                        int32_t width, int32_t height, uint8_t* mask,
                                        ptrdiff_t mask_stride, int32_t mask_width,
                                        int32_t mask_height, int32_t window_x, int32_t window_y,
                                        int32_t window_width, int32_t window_height,
                                        int32_t align_corners, const float* level, uint32_t* counts,
                                        void* stream) {
    using namespace edgeseg::cuda;
    if (planes == nullptr || (dtype != EDGESEG_FLOAT32 && dtype != EDGESEG_FLOAT16) ||
        channels < 1 || channels > EDGESEG_MAX_CHANNELS || !is_side(width) || !is_side(height) ||
        mask == nullptr || !is_side(mask_width) || !is_side(mask_height) ||
        !is_within(window_x, window_width, mask_width) ||
        !is_within(window_y, window_height, mask_height) || (channels == 1) != (level != nullptr)) {
        return EDGESEG_INVALID_ARGUMENT;
    }
    const auto scale = align_corners != 0 ? make_corner_scale : make_tap_scale;
    DecideParams params{};
    params.planes = planes;
    params.mask = mask;
    params.level = level;
    params.counts = counts;
    params.mask_stride = mask_stride;
    params.across = scale(width, window_width);
    params.down = scale(height, window_height);
    params.channels = channels;
    params.width = width;
    params.height = height;
    params.mask_width = mask_width;
    params.mask_height = mask_height;
    params.x = window_x;
    params.y = window_y;
    params.window_width = window_width;
    params.window_height = window_height;
    params.align_corners = align_corners;
    params.wide = is_aligned<kPixels>(mask, mask_stride);
    if (counts != nullptr) {
        const auto bytes = sizeof(uint32_t) * static_cast<size_t>(std::max(channels, 2));
        const int status = fill_zero(counts, bytes, stream);
        if (status != EDGESEG_OK) return status;
    }
    return start(params, dtype == EDGESEG_FLOAT16, stream);
}
