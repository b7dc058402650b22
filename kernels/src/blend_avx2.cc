#include "blend_loops.inc"

namespace edgeseg {

const BlendLoops kBlendAvx2 = {extent, uniform, count, changes, blend};

}  // namespace edgeseg
