// What a kernel needs of its surroundings, for two compilers: nvcc, and a host C++ compiler that
// runs the very same bodies thread by thread, which is how machines without a GPU test them.
//
// A kernel is a struct with `Params` (passed by value), `kThreads` (of a block, along x) and
// `run(params, position)`, the work of one thread. Threads do not talk to each other.
#ifndef EDGESEG_CUDA_PORTABLE_CUH
#define EDGESEG_CUDA_PORTABLE_CUH

#include <cstddef>
#include <cstdint>

#include "edgeseg_cuda.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#if CUDART_VERSION < 12010
#error \
    "edgeseg passes more than 4 KiB to a kernel, for which the CUDA toolkit must be 12.1 or later"
#endif
#define EDGESEG_DEVICE __device__ __forceinline__  // also of members, unlike EDGESEG_HD
#else
#include <cstdlib>
#include <cstring>
#include <memory>
#define EDGESEG_DEVICE inline
#endif

namespace edgeseg {
namespace cuda {

// Index of a thread in the grid; x may lie beyond what was asked for.
struct Position {
    int64_t x;
    int32_t y;
    int32_t z;
};

// Threads to start. y and z are numbers of blocks, at most 65535.
struct Extent {
    int64_t x;
    int32_t y;
    int32_t z;
};

constexpr int64_t ceil_div(int64_t value, int64_t step) { return (value + step - 1) / step; }

// N floats that are loaded and stored at once.
template <int N>
struct alignas(4 * N) Pack {
    float v[N];
};

template <int N>
inline bool is_aligned(const void* pointer, int64_t row_bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % N == 0 && row_bytes % N == 0;
}

#if defined(__CUDACC__)

inline int status_of(cudaError_t error) {
    return error == cudaSuccess ? EDGESEG_OK : EDGESEG_CUDA_ERROR + static_cast<int>(error);
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads)
    entry(const __grid_constant__ typename Kernel::Params params) {
    Kernel::run(params, {static_cast<int64_t>(blockIdx.x) * Kernel::kThreads + threadIdx.x,
                         static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.z)});
}

template <typename Kernel>
int launch(const typename Kernel::Params& params, const Extent& extent, void* stream) {
    const dim3 grid(static_cast<unsigned>(ceil_div(extent.x, Kernel::kThreads)), extent.y,
                    extent.z);
    void* arguments[] = {const_cast<typename Kernel::Params*>(&params)};
    return status_of(cudaLaunchKernel(reinterpret_cast<const void*>(entry<Kernel>), grid,
                                      dim3(Kernel::kThreads), arguments, 0,
                                      static_cast<cudaStream_t>(stream)));
}

// Loads a kernel's code onto the current device.
template <typename Kernel>
int load() {
    cudaFuncAttributes attributes;
    return status_of(
        cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(entry<Kernel>)));
}

// Data that is read once: it should not push out what others read again.
template <int N>
EDGESEG_DEVICE Pack<N> load_once(const float* source) {
    static_assert(N == 1 || N == 2 || N == 4, "as wide as the device's loads");
    Pack<N> pack;
    if constexpr (N == 4) {
        const float4 value = __ldcs(reinterpret_cast<const float4*>(source));
        pack.v[0] = value.x, pack.v[1] = value.y, pack.v[2] = value.z, pack.v[3] = value.w;
    } else if constexpr (N == 2) {
        const float2 value = __ldcs(reinterpret_cast<const float2*>(source));
        pack.v[0] = value.x, pack.v[1] = value.y;
    } else {
        pack.v[0] = __ldcs(source);
    }
    return pack;
}

template <int N>
EDGESEG_DEVICE void store_once(float* target, const Pack<N>& pack) {
    if constexpr (N == 4) {
        __stcs(reinterpret_cast<float4*>(target),
               make_float4(pack.v[0], pack.v[1], pack.v[2], pack.v[3]));
    } else if constexpr (N == 2) {
        __stcs(reinterpret_cast<float2*>(target), make_float2(pack.v[0], pack.v[1]));
    } else {
        __stcs(target, pack.v[0]);
    }
}

// Data that no kernel writes while this one runs, through the read-only path.
template <typename T>
EDGESEG_DEVICE T load_constant(const T* source) {
    return __ldg(source);
}

EDGESEG_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

inline int multiprocessors(int* count) {
    int device = 0;
    const cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return status_of(error);
    return status_of(cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device));
}

inline int allocate(void** memory, size_t bytes) {
    const cudaError_t error = cudaMalloc(memory, bytes);
    return error == cudaErrorMemoryAllocation ? EDGESEG_OUT_OF_MEMORY : status_of(error);
}

inline int release(void* memory) { return status_of(cudaFree(memory)); }

inline int upload(void* target, const void* source, size_t bytes) {
    return status_of(cudaMemcpy(target, source, bytes, cudaMemcpyHostToDevice));
}

#else

// Blocks and threads run from the last to the first, so that a body which relies on their order
// is found out; the parameters are a copy on the heap, so that one which reads beyond them is.
template <typename Kernel>
int launch(const typename Kernel::Params& params, const Extent& extent, void*) {
    const auto copy = std::make_unique<typename Kernel::Params>(params);
    const int64_t blocks = ceil_div(extent.x, Kernel::kThreads);
    for (int32_t z = extent.z - 1; z >= 0; --z) {
        for (int32_t y = extent.y - 1; y >= 0; --y) {
            for (int64_t x = blocks * Kernel::kThreads - 1; x >= 0; --x) {
                Kernel::run(*copy, {x, y, z});
            }
        }
    }
    return EDGESEG_OK;
}

template <typename Kernel>
int load() {
    return EDGESEG_OK;
}

template <int N>
EDGESEG_DEVICE Pack<N> load_once(const float* source) {
    return *reinterpret_cast<const Pack<N>*>(source);
}

template <int N>
EDGESEG_DEVICE void store_once(float* target, const Pack<N>& pack) {
    *reinterpret_cast<Pack<N>*>(target) = pack;
}

template <typename T>
EDGESEG_DEVICE T load_constant(const T* source) {
    return *source;
}

EDGESEG_DEVICE float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 31u;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    const uint32_t word = sign | wide << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

inline int multiprocessors(int* count) {
    *count = 4;
    return EDGESEG_OK;
}

inline int allocate(void** memory, size_t bytes) {
    *memory = std::malloc(bytes);
    return *memory == nullptr ? EDGESEG_OUT_OF_MEMORY : EDGESEG_OK;
}

inline int release(void* memory) {
    std::free(memory);
    return EDGESEG_OK;
}

inline int upload(void* target, const void* source, size_t bytes) {
    std::memcpy(target, source, bytes);
    return EDGESEG_OK;
}

#endif

// Called by edgeseg_cuda_prepare; each in the file of its kernels.
int prepare_fuse();
int prepare_smooth();
int prepare_blend();
int prepare_resize();

}  // namespace cuda
}  // namespace edgeseg

#endif  // EDGESEG_CUDA_PORTABLE_CUH
