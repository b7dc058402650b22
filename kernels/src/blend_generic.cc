#include "blend_loops.inc"

namespace edgeseg {

const BlendLoops kBlendGeneric = {extent, uniform, count, changes, blend};

}  // namespace edgeseg
