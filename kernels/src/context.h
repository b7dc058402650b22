// What an edgeseg_context owns: threads shared by all kernels, and the scratch memory of each.
#ifndef EDGESEG_CONTEXT_H
#define EDGESEG_CONTEXT_H

#include <mutex>
#include <new>
#include <system_error>

#include "blend.h"
#include "edgeseg/kernels.h"
#include "fuse.h"
#include "resizer.h"
#include "smooth.h"
#include "thread_pool.h"

struct edgeseg_context {
    explicit edgeseg_context(int isa)
        : isa(isa), resizer(isa, pool), fuser(isa, pool), smoother(isa, pool), blender(isa, pool) {}

    const int isa;
    std::mutex mutex;  // calls on one context take turns
    edgeseg::ThreadPool pool;
    edgeseg::Resizer resizer;
    edgeseg::Fuser fuser;
    edgeseg::Smoother smoother;
    edgeseg::Blender blender;
};

namespace edgeseg {

// Runs `work` under the context's lock and turns its exceptions into an edgeseg_status.
template <typename Work>
int guarded(edgeseg_context* context, const Work& work) {
    std::lock_guard<std::mutex> lock(context->mutex);
    try {
        work();
    } catch (const std::bad_alloc&) {
        return EDGESEG_OUT_OF_MEMORY;
    } catch (const std::system_error&) {
        return EDGESEG_NO_THREAD;
    }
    return EDGESEG_OK;
}

}  // namespace edgeseg

#endif  // EDGESEG_CONTEXT_H
