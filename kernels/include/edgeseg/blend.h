// The arithmetic of one value of edgeseg_blend_overlay (kernels.h), in integers that fit into 16
// bits: (value * (256 - alpha) + colour * alpha + 128) >> 8, alpha from 0 to 256.
#ifndef EDGESEG_BLEND_H
#define EDGESEG_BLEND_H

#include <stdint.h>

#include "edgeseg/resample.h"

namespace edgeseg {

constexpr int kOpaque = 256;

// What a colour adds, with half a level for rounding.
EDGESEG_HD uint16_t blend_addend(uint8_t colour, int alpha) {
    return static_cast<uint16_t>(colour * alpha + kOpaque / 2);
}

// `weight` is kOpaque - alpha.
EDGESEG_HD uint8_t blend_value(uint8_t value, uint16_t weight, uint16_t addend) {
    return static_cast<uint8_t>(static_cast<uint16_t>(value * weight + addend) >> 8);
}

}  // namespace edgeseg

#endif  // EDGESEG_BLEND_H
