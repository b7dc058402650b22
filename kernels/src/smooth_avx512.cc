#include "smooth_loops.inc"

namespace edgeseg {

const SmoothLoops kSmoothAvx512 = {take, sum, sum_past, stream, fence, compare, compete};

}  // namespace edgeseg
