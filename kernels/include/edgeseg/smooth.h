// The arithmetic of one voxel of edgeseg_smooth_z (kernels.h).
//
// sum = w[0] * v[z] + w[1] * (v[z - 1] + v[z + 1]) + ..., from the middle outwards, on voxels that
// finite_voxel() let through and slices that replicate beyond the edges. Parts of kPartPairs pairs
// are summed on their own first, which keeps rounding small where the radius is large. The order
// does not depend on where a slab begins, so slabs give the same bits as the whole.
#ifndef EDGESEG_SMOOTH_H
#define EDGESEG_SMOOTH_H

#include <stdint.h>

#include "edgeseg/resample.h"

namespace edgeseg {

// What an infinite voxel counts as: half precision's range, about.
constexpr float kInfiniteVoxel = 65504.0f;
constexpr int kPartPairs = 32;
constexpr float kLargestFloat = 3.402823466e+38f;

EDGESEG_HD float finite_voxel(float value) {
    value = value == value ? value : 0.0f;
    value = value > kLargestFloat ? kInfiniteVoxel : value;
    return value < -kLargestFloat ? -kInfiniteVoxel : value;
}

// Slice `z` of a volume that goes on as its first and last slice.
EDGESEG_HD int64_t edge_slice(int64_t z, int64_t depth) {
    return z < 0 ? 0 : z < depth ? z : depth - 1;
}

// One step of the sum: the voxels at the same distance before and after. Value: float, or a vector
// of floats.
template <typename Value>
EDGESEG_HD Value add_pair(Value sum, float weight, Value before, Value after) {
    return sum + weight * (before + after);
}

}  // namespace edgeseg

#endif  // EDGESEG_SMOOTH_H
