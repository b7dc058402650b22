/* The C interface of libedgeseg_kernels. */
#ifndef EDGESEG_KERNELS_H
#define EDGESEG_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGESEG_API __attribute__((visibility("default")))
#else
#define EDGESEG_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Largest width and height, of sources and of results. */
#define EDGESEG_MAX_SIDE 65535
#define EDGESEG_MAX_THREADS 64

enum edgeseg_status {
    EDGESEG_OK = 0,
    EDGESEG_INVALID_ARGUMENT = 1,
    EDGESEG_OUT_OF_MEMORY = 2,
    EDGESEG_NO_THREAD = 3 /* the operating system refused to start a worker thread */
};

enum edgeseg_filter { EDGESEG_BILINEAR = 0, EDGESEG_BICUBIC = 1 };

/* Owns tables, scratch memory and worker threads, so that frames of a size seen before allocate
 * nothing. Calls on one context from several threads take turns; contexts are independent. */
typedef struct edgeseg_context edgeseg_context;

/* Rows of interleaved 8-bit pixels of three channels. row_stride is in bytes and may be negative.
 */
typedef struct edgeseg_frame {
    const uint8_t* pixels;
    ptrdiff_t row_stride;
    int32_t width;
    int32_t height;
} edgeseg_frame;

/* Version of the edgeseg this library was built from, e.g. "0.1.0". */
EDGESEG_API const char* edgeseg_kernels_version(void);

/* Instruction sets of this build, from the slowest on; NULL at and after the end of the list. */
EDGESEG_API const char* edgeseg_isa_name(int index);

/* Whether this processor (and its operating system) can run that instruction set. */
EDGESEG_API int edgeseg_isa_supported(int index);

/* A context for the instruction set `isa` (an index; -1: the fastest supported). NULL if it is not
 * supported or memory is exhausted. */
EDGESEG_API edgeseg_context* edgeseg_context_create(int isa);
EDGESEG_API void edgeseg_context_destroy(edgeseg_context* context);

/* Index of the instruction set that the context uses. */
EDGESEG_API int edgeseg_context_isa(const edgeseg_context* context);

/* Resizes a frame as Pillow's Image.resize does.
 *
 * out: height x width x 3 bytes, contiguous, channels in the order of the frame.
 * Returns an edgeseg_status. */
EDGESEG_API int edgeseg_resize_u8(edgeseg_context* context, const edgeseg_frame* frame,
                                  int32_t width, int32_t height, int filter, int threads,
                                  uint8_t* out);

/* Resizes a BGR frame and writes (value * scale - mean) / std.
 *
 * mean, std: three values each, in the order R, G, B; std and scale are positive.
 * out: planes R, G, B of height x width floats, contiguous.
 * Returns an edgeseg_status. */
EDGESEG_API int edgeseg_resize_normalize(edgeseg_context* context, const edgeseg_frame* frame,
                                         int32_t width, int32_t height, int filter, double scale,
                                         const double* mean, const double* std, int threads,
                                         float* out);

#ifdef __cplusplus
}
#endif

#endif /* EDGESEG_KERNELS_H */
