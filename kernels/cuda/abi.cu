// What the library says about itself and about errors.
#include "portable.cuh"

extern "C" {

const char* edgeseg_cuda_version(void) { return EDGESEG_VERSION; }

const char* edgeseg_cuda_architectures(void) { return EDGESEG_CUDA_ARCHITECTURES; }

const char* edgeseg_cuda_error(int status) {
    switch (status) {
        case EDGESEG_OK:
            return "no error";
        case EDGESEG_INVALID_ARGUMENT:
            return "an argument is outside what the kernels take";
        case EDGESEG_OUT_OF_MEMORY:
            return "not enough memory";
        default:
            break;
    }
#if defined(__CUDACC__)
    if (status >= EDGESEG_CUDA_ERROR) {
        return cudaGetErrorString(static_cast<cudaError_t>(status - EDGESEG_CUDA_ERROR));
    }
#endif
    return "unknown status";
}

int edgeseg_cuda_device_count(int* count) {
    if (count == nullptr) return EDGESEG_INVALID_ARGUMENT;
    *count = 0;
#if defined(__CUDACC__)
    int found = 0;
    const cudaError_t error = cudaGetDeviceCount(&found);
    if (error != cudaSuccess) return edgeseg::cuda::status_of(error);
    *count = found;
#else
    *count = 1;
#endif
    return EDGESEG_OK;
}

int edgeseg_cuda_prepare(void) {
    int (*const steps[])() = {edgeseg::cuda::prepare_fuse, edgeseg::cuda::prepare_smooth,
                              edgeseg::cuda::prepare_blend, edgeseg::cuda::prepare_resize,
                              edgeseg::cuda::prepare_decide};
    for (const auto step : steps) {
        const int status = step();
        if (status != EDGESEG_OK) return status;
    }
    return EDGESEG_OK;
}

}  // extern "C"
