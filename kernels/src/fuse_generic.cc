#include "fuse_loops.inc"

namespace edgeseg {

const FuseLoops kFuseGeneric = {convert, across, one, several};

}  // namespace edgeseg
