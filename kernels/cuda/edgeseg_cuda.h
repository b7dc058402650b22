/* The C interface of libedgeseg_cuda: the kernels of edgeseg/kernels.h on device memory.
 *
 * Every function below that takes a stream enqueues its work there and returns: it neither waits,
 * nor allocates, nor copies to or from the host, so it can be captured in a CUDA graph. A graph
 * keeps what is passed by value or through host pointers as it was when it was captured, and reads
 * anew what lies in device memory.
 *
 * Device pointers and the stream belong to the device that is current; pointers are aligned as what
 * they point to. Call edgeseg_cuda_prepare
 * once for each device before capturing: the first launch of a kernel may load its code, which a
 * capture does not allow. */
#ifndef EDGESEG_CUDA_H
#define EDGESEG_CUDA_H

#include "edgeseg/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Functions return an edgeseg_status, or EDGESEG_CUDA_ERROR plus a cudaError_t. */
#define EDGESEG_CUDA_ERROR 1000

/* Version of the edgeseg this library was built from, e.g. "0.1.0". */
EDGESEG_API const char* edgeseg_cuda_version(void);

/* What machine code and PTX this library holds, as CMake's CUDA_ARCHITECTURES, or "native". */
EDGESEG_API const char* edgeseg_cuda_architectures(void);

/* What a status means, in words. The text is static. */
EDGESEG_API const char* edgeseg_cuda_error(int status);

/* Counts the devices; a machine without a device or driver gives an error and a count of 0. */
EDGESEG_API int edgeseg_cuda_device_count(int* count);

/* Loads the code of every kernel onto the current device. */
EDGESEG_API int edgeseg_cuda_prepare(void);

/* edgeseg_fuse_views.
 *
 * views: on the host, with their logits on the device; height x width of the result at most
 * EDGESEG_MAX_SIDE each.
 * fusion, state, probability, mask: on the device; `fusion` is read when the kernel runs. A
 * weighting that does not exist counts as EDGESEG_WEIGHT_MEAN there, since nobody is left to be
 * told. */
EDGESEG_API int edgeseg_cuda_fuse_views(const edgeseg_view* views, int32_t count, int32_t channels,
                                        int32_t width, int32_t height, const edgeseg_fusion* fusion,
                                        float* state, float* probability, uint8_t* mask,
                                        void* stream);

/* edgeseg_smooth_z.
 *
 * weights: on the host; volume, threshold, out, mask: on the device. `threshold` is read when the
 * kernel runs; it may be NULL where there is no mask or more than one channel. */
EDGESEG_API int edgeseg_cuda_smooth_z(const float* volume, int32_t channels, int32_t depth,
                                      int64_t plane, const float* weights, int32_t radius,
                                      int32_t first, int32_t count, const float* threshold,
                                      float* out, uint8_t* mask, void* stream);

/* edgeseg_blend_overlay.
 *
 * frame: on the host, with its pixels on the device; mask: on the device; colours: on the host. */
EDGESEG_API int edgeseg_cuda_blend_overlay(const edgeseg_canvas* frame, const uint8_t* mask,
                                           ptrdiff_t mask_stride, const uint8_t* colours,
                                           int32_t classes, int32_t alpha, int32_t outline_px,
                                           void* stream);

/* Decides the mask from the logits or probabilities of one view.
 *
 * planes: channels (1 to EDGESEG_MAX_CHANNELS) x height x width of `dtype` (edgeseg_dtype),
 * contiguous, sides up to EDGESEG_MAX_SIDE. They are resampled bilinearly to the window of the
 * mask: half-pixel centres and edges replicated, or with `align_corners` other than 0 the corners'
 * centres laid onto each other. A sample of weight 0 takes no part. mask: mask_height x mask_width,
 * sides up to EDGESEG_MAX_SIDE, rows `mask_stride` bytes apart (it may be negative; rows must not
 * overlap); all of it is written. The window, which lies within it, gets 1 where value > *level for
 * one channel; for more the channel of the largest value, the lower one at a tie, where NaN in
 * channel 0 wins and in another loses. The rest gets 0. level: read when the kernel runs; NULL with
 * more than one channel. counts: max(channels, 2) numbers of the window's pixels that got each
 * index, set and not added; NULL: not wanted.
 *
 * Everything but level, planes, mask and counts, which lie on the device, is passed by value. */
EDGESEG_API int edgeseg_cuda_decide_mask(const void* planes, int32_t dtype, int32_t channels,
                                         int32_t width, int32_t height, uint8_t* mask,
                                         ptrdiff_t mask_stride, int32_t mask_width,
                                         int32_t mask_height, int32_t window_x, int32_t window_y,
                                         int32_t window_width, int32_t window_height,
                                         int32_t align_corners, const float* level,
                                         uint32_t* counts, void* stream);

/* What edgeseg_resize_normalize_views needs for frames of one size: tables and the 8-bit rows
 * between the two passes, on the current device. Runs of one plan must not overlap. */
typedef struct edgeseg_cuda_resize edgeseg_cuda_resize;

/* Makes a plan, ready for work on any stream; the only function here that allocates, and it waits
 * until its tables are on the device.
 *
 * targets: on the host, with `out` on the device, where every run writes.
 * mean, std: three values each, in the order R, G, B; std and scale are positive. */
EDGESEG_API int edgeseg_cuda_resize_create(int32_t frame_width, int32_t frame_height,
                                           const edgeseg_view_target* targets, int32_t count,
                                           int filter, double scale, const double* mean,
                                           const double* std, edgeseg_cuda_resize** plan);
/* The device must have finished the plan's runs. */
EDGESEG_API int edgeseg_cuda_resize_destroy(edgeseg_cuda_resize* plan);

/* frame: on the host, with its pixels on the device, of the size of the plan. */
EDGESEG_API int edgeseg_cuda_resize_run(const edgeseg_cuda_resize* plan, const edgeseg_frame* frame,
                                        void* stream);

#ifdef __cplusplus
}
#endif

#endif /* EDGESEG_CUDA_H */
