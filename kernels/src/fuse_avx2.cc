#include "fuse_loops.inc"

namespace edgeseg {

const FuseLoops kFuseAvx2 = {convert, across, one, several};

}  // namespace edgeseg
