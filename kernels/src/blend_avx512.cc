#include "blend_loops.inc"

namespace edgeseg {

const BlendLoops kBlendAvx512 = {extent, uniform, count, changes, blend};

}  // namespace edgeseg
