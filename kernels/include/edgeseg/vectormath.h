// exp, log and the like in float, without branches and without calls, so that compilers vectorise
// loops over them; host and device compute the same polynomials.
//
// The polynomials are minimax fits, made for the intervals that the comments name. Relative errors,
// rounding included: exp32 9e-8, log32 1.1e-7, log1p_unit 2.2e-7.
#ifndef EDGESEG_VECTORMATH_H
#define EDGESEG_VECTORMATH_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "edgeseg/resample.h"  // EDGESEG_HD

namespace edgeseg {

EDGESEG_HD int32_t float_bits(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_int(value);
#else
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

EDGESEG_HD float float_from_bits(int32_t bits) {
#if defined(__CUDA_ARCH__)
    return __int_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

EDGESEG_HD float larger(float a, float b) { return a > b ? a : b; }
EDGESEG_HD float smaller(float a, float b) { return a < b ? a : b; }

// ln 2 in two parts; the first has trailing zeros, so that small multiples of it are exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
constexpr float kLn2 = 0.693147181f;

// e^x for x from -87 to 88; anything else gives a meaningless number. Callers limit x as they need
// to anyhow.
EDGESEG_HD float exp32(float x) {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    constexpr float kRounder = 12582912.0f;
    const float shifted = x * 1.44269504f + kRounder;
    const float count = shifted - kRounder;
    const float r = (x - count * kLn2High) - count * kLn2Low;
    // 1 + r + r^2 P(r) for |r| <= ln(2) / 2.
    float p = 1.38131448e-3f;
    p = p * r + 8.36941879e-3f;
    p = p * r + 4.16684560e-2f;
    p = p * r + 1.66665152e-1f;
    p = p * r + 4.99999940e-1f;
    p = (p * r) * r + r;
    // 2^count; kRounder's own bits leave at the top.
    const uint32_t exponent = (static_cast<uint32_t>(float_bits(shifted)) + 127u) << 23;
    const float power = float_from_bits(static_cast<int32_t>(exponent));
    return p * power + power;
}

// ln x of a positive, finite, normal x.
EDGESEG_HD float log32(float x) {
    // x = 2^count * m, m from sqrt(1/2) to sqrt(2).
    constexpr int32_t kSqrtHalf = 0x3f3504f3;
    const int32_t bits = float_bits(x) - kSqrtHalf;
    const float count = static_cast<float>(bits >> 23);
    const float s = float_from_bits((bits & 0x7fffff) + kSqrtHalf) - 1.0f;
    // s + s^2 P(s).
    float p = 8.74688178e-2f;
    p = p * s - 1.43254876e-1f;
    p = p * s + 1.49217010e-1f;
    p = p * s - 1.65684611e-1f;
    p = p * s + 1.99615642e-1f;
    p = p * s - 2.50018179e-1f;
    p = p * s + 3.33339632e-1f;
    p = p * s - 4.99999911e-1f;
    p = (p * s) * s + count * kLn2Low;
    return (p + s) + count * kLn2High;
}

// ln(1 + x) for x from 0 to 1.
EDGESEG_HD float log1p_unit(float x) {
    float p = 5.23268804e-3f;
    p = p * x - 2.95052137e-2f;
    p = p * x + 7.82259107e-2f;
    p = p * x - 1.36632428e-1f;
    p = p * x + 1.91060051e-1f;
    p = p * x - 2.48429820e-1f;
    p = p * x + 3.33190978e-1f;
    p = p * x - 4.99994934e-1f;
    p = p * x + 9.99999940e-1f;
    return p * x;
}

EDGESEG_HD bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }

// Infinite values become the largest of float16, so that weighted sums of them are defined; NaN
// remains.
EDGESEG_HD float sanitize(float x) {
    const float large = x > 0.0f ? 65504.0f : -65504.0f;
    return fabsf(x) > FLT_MAX ? large : x;
}

}  // namespace edgeseg

#endif  // EDGESEG_VECTORMATH_H
