#include "smooth_loops.inc"

namespace edgeseg {

const SmoothLoops kSmoothGeneric = {take, sum, sum_past, stream, fence, compare, compete};

}  // namespace edgeseg
