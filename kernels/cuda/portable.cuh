// What a kernel needs of its surroundings, for two compilers: nvcc, and a host C++ compiler that
// runs the very same bodies thread by thread, which is how machines without a GPU test them.
//
// A kernel is a struct with `Params` (passed by value), `kThreads` (of a block, along x) and
// `run(params, position)`, the work of one thread. Threads do not talk to each other.
//
// Where the threads of a block do have something in common, the struct has `Shared` too, which
// nobody initialises, and three steps with a barrier between them: `begin(params, shared, thread)`,
// `run(params, position, shared)` and `end(params, shared, thread)`. Every thread of a block does
// all of them. Such kernels are started by launch_blocks.
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
#include <type_traits>
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

// A launch may be out of memory as well: threads' stacks lie on the device.
inline int status_of(cudaError_t error) {
    if (error == cudaErrorMemoryAllocation) return EDGESEG_OUT_OF_MEMORY;
    return error == cudaSuccess ? EDGESEG_OK : EDGESEG_CUDA_ERROR + static_cast<int>(error);
}

template <typename Kernel>
EDGESEG_DEVICE Position position() {
    return {static_cast<int64_t>(blockIdx.x) * Kernel::kThreads + threadIdx.x,
            static_cast<int32_t>(blockIdx.y), static_cast<int32_t>(blockIdx.z)};
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads)
    entry(const __grid_constant__ typename Kernel::Params params) {
    Kernel::run(params, position<Kernel>());
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads)
    block_entry(const __grid_constant__ typename Kernel::Params params) {
    static_assert(Kernel::kThreads % 32 == 0, "warps are whole");
    __shared__ typename Kernel::Shared shared;
    Kernel::begin(params, shared, static_cast<int32_t>(threadIdx.x));
    __syncthreads();
    Kernel::run(params, position<Kernel>(), shared);
    __syncthreads();
    Kernel::end(params, shared, static_cast<int32_t>(threadIdx.x));
}

template <typename Kernel>
int launch_entry(const void* function, const typename Kernel::Params& params, const Extent& extent,
                 void* stream) {
    const dim3 grid(static_cast<unsigned>(ceil_div(extent.x, Kernel::kThreads)), extent.y,
                    extent.z);
    void* arguments[] = {const_cast<typename Kernel::Params*>(&params)};
    return status_of(cudaLaunchKernel(function, grid, dim3(Kernel::kThreads), arguments, 0,
                                      static_cast<cudaStream_t>(stream)));
}

template <typename Kernel>
int launch(const typename Kernel::Params& params, const Extent& extent, void* stream) {
    return launch_entry<Kernel>(reinterpret_cast<const void*>(entry<Kernel>), params, extent,
                                stream);
}

template <typename Kernel>
int launch_blocks(const typename Kernel::Params& params, const Extent& extent, void* stream) {
    return launch_entry<Kernel>(reinterpret_cast<const void*>(block_entry<Kernel>), params, extent,
                                stream);
}

inline int load_entry(const void* function) {
    cudaFuncAttributes attributes;
    return status_of(cudaFuncGetAttributes(&attributes, function));
}

// Loads a kernel's code onto the current device.
template <typename Kernel>
int load() {
    return load_entry(reinterpret_cast<const void*>(entry<Kernel>));
}

template <typename Kernel>
int load_blocks() {
    return load_entry(reinterpret_cast<const void*>(block_entry<Kernel>));
}

// Adds to a counter in memory that others add to as well.
EDGESEG_DEVICE void add_to(uint32_t* counter, uint32_t value) { atomicAdd(counter, value); }

EDGESEG_DEVICE uint32_t warp_sum(uint32_t value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, value);
#else
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
#endif
}

// Adds `value` to `counters[index]`, which the block shares. All threads of a warp must call it
// together: where they mean the same counter, as they mostly do, one of them adds for all.
EDGESEG_DEVICE void add_together(uint32_t* counters, uint32_t index, uint32_t value) {
    const unsigned adding = __ballot_sync(0xffffffffu, value != 0);
    if (adding == 0) return;
    const int first = __ffs(static_cast<int>(adding)) - 1;
    const uint32_t common = __shfl_sync(0xffffffffu, index, first);
    if (__all_sync(0xffffffffu, value == 0 || index == common)) {
        const uint32_t sum = warp_sum(value);
        if (static_cast<int>(threadIdx.x % 32) == first) atomicAdd(counters + common, sum);
    } else if (value != 0) {
        atomicAdd(counters + index, value);
    }
}

// The same value, of which the compiler knows nothing: what is made from it inside a loop is made
// there, and not kept in registers for the whole of it.
EDGESEG_DEVICE int32_t forget(int32_t value) {
    asm volatile("" : "+r"(value));
    return value;
}

EDGESEG_DEVICE uint32_t count_bits(uint32_t word) { return static_cast<uint32_t>(__popc(word)); }

inline int fill_zero(void* memory, size_t bytes, void* stream) {
    return status_of(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
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

inline int allocate(void** memory, size_t bytes) { return status_of(cudaMalloc(memory, bytes)); }

inline int release(void* memory) { return status_of(cudaFree(memory)); }

// Copies from the host, and returns when everything has arrived. cudaMemcpy would return before, as
// far as streams can tell that do not wait for the default one; and the default stream is out of
// bounds while another thread captures.
inline int upload(void* target, const void* source, size_t bytes) {
    cudaStream_t stream = nullptr;
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return status_of(error);
    error = cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream);
    const cudaError_t arrived = cudaStreamSynchronize(stream);
    const cudaError_t destroyed = cudaStreamDestroy(stream);
    for (const cudaError_t later : {arrived, destroyed}) {
        if (error == cudaSuccess) error = later;
    }
    return status_of(error);
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

// What the threads share lies on the heap as well and is full of garbage, as on a device.
template <typename Kernel>
int launch_blocks(const typename Kernel::Params& params, const Extent& extent, void*) {
    using Shared = typename Kernel::Shared;
    static_assert(std::is_trivial<Shared>::value, "nobody initialises it");
    const auto copy = std::make_unique<typename Kernel::Params>(params);
    const auto shared = std::make_unique<Shared>();
    const int64_t blocks = ceil_div(extent.x, Kernel::kThreads);
    for (int32_t z = extent.z - 1; z >= 0; --z) {
        for (int32_t y = extent.y - 1; y >= 0; --y) {
            for (int64_t block = blocks - 1; block >= 0; --block) {
                std::memset(static_cast<void*>(shared.get()), 0xa5, sizeof(Shared));
                for (int32_t thread = Kernel::kThreads - 1; thread >= 0; --thread) {
                    Kernel::begin(*copy, *shared, thread);
                }
                for (int32_t thread = Kernel::kThreads - 1; thread >= 0; --thread) {
                    Kernel::run(*copy, {block * Kernel::kThreads + thread, y, z}, *shared);
                }
                for (int32_t thread = Kernel::kThreads - 1; thread >= 0; --thread) {
                    Kernel::end(*copy, *shared, thread);
                }
            }
        }
    }
    return EDGESEG_OK;
}

template <typename Kernel>
int load_blocks() {
    return EDGESEG_OK;
}

EDGESEG_DEVICE void add_to(uint32_t* counter, uint32_t value) { *counter += value; }

EDGESEG_DEVICE void add_together(uint32_t* counters, uint32_t index, uint32_t value) {
    if (value != 0) counters[index] += value;
}

EDGESEG_DEVICE int32_t forget(int32_t value) { return value; }

EDGESEG_DEVICE uint32_t count_bits(uint32_t word) {
    uint32_t count = 0;
    for (; word != 0; word &= word - 1) ++count;
    return count;
}

inline int fill_zero(void* memory, size_t bytes, void*) {
    std::memset(memory, 0, bytes);
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

// Full of garbage, as on a device.
inline int allocate(void** memory, size_t bytes) {
    *memory = std::malloc(bytes);
    if (*memory == nullptr) return EDGESEG_OUT_OF_MEMORY;
    std::memset(*memory, 0xa5, bytes);
    return EDGESEG_OK;
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
int prepare_decide();
int prepare_resize();

}  // namespace cuda
}  // namespace edgeseg

#endif  // EDGESEG_CUDA_PORTABLE_CUH
