#include "fuse_loops.inc"

namespace edgeseg {

const FuseLoops kFuseAvx512 = {convert, across, one, several};

}  // namespace edgeseg
