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

/* Several results of one frame: a size, and how its copies are mirrored. */
enum edgeseg_flip { EDGESEG_FLIP_NONE = 0, EDGESEG_FLIP_H = 1, EDGESEG_FLIP_V = 2 };

typedef struct edgeseg_view_target {
    int32_t width;
    int32_t height;
    int32_t flip_count;   /* at least 1 */
    const int32_t* flips; /* flip_count sums of edgeseg_flip */
    float* out;           /* flip_count x 3 x height x width, contiguous */
} edgeseg_view_target;

/* edgeseg_resize_normalize into several sizes and mirrorings; each size is resampled once.
 * Returns an edgeseg_status; nothing is written unless it is EDGESEG_OK. */
EDGESEG_API int edgeseg_resize_normalize_views(edgeseg_context* context, const edgeseg_frame* frame,
                                               const edgeseg_view_target* targets, int32_t count,
                                               int filter, double scale, const double* mean,
                                               const double* std, int threads);

#define EDGESEG_MAX_VIEWS 256
#define EDGESEG_MAX_CHANNELS 255

enum edgeseg_dtype { EDGESEG_FLOAT32 = 0, EDGESEG_FLOAT16 = 1 };
enum edgeseg_weighting {
    EDGESEG_WEIGHT_ENTROPY = 0, /* 1 - H / ln(max(C, 2)) */
    EDGESEG_WEIGHT_EXP = 1,     /* exp(-H / temperature) */
    EDGESEG_WEIGHT_MEAN = 2     /* 1 */
};

/* The logits of one view: `channels` planes of height x width, contiguous, as the network gave them
 * for an image mirrored by `flips`. */
typedef struct edgeseg_view {
    const void* logits;
    int32_t width;
    int32_t height;
    int32_t dtype; /* edgeseg_dtype */
    int32_t flips; /* sum of edgeseg_flip */
} edgeseg_view;

/* Read at each call; nothing of it is compiled in. */
typedef struct edgeseg_fusion {
    int32_t weighting; /* edgeseg_weighting */
    float temperature; /* of EDGESEG_WEIGHT_EXP, positive, in nats */
    float threshold;   /* of the mask of one class, 0 to 1 */
    float keep;        /* weight of `state`, 0 to 1 (1 excluded) */
    int32_t reset;     /* other than 0: `state` is not read */
} edgeseg_fusion;

/* Fuses views into probabilities, smooths them over time and decides the mask, in one pass.
 *
 * Each view is mirrored back, resampled to width x height (bilinear, half-pixel centres, edges
 * replicated) and activated (one channel: sigmoid, counted as two classes; more: softmax). With
 * H = -sum p ln p, the fused p is sum w p / sum w, and the plain mean where all weights vanish.
 * Then p <- keep * state + (1 - keep) * p, and that is the new state.
 *
 * Infinite logits count as +-65504. Where a logit that takes part in a pixel is NaN, its view is
 * left out of that pixel; where no view is left, the pixel is background for certain. A state that
 * is not finite counts as reset, for that pixel.
 *
 * channels: 1 to EDGESEG_MAX_CHANNELS; channel 0 of several is the background.
 * state: channels x height x width, read and written; NULL: no smoothing over time.
 * probability: channels x height x width; NULL: not wanted; may be the same as `state`.
 * mask: height x width; one channel: p > threshold; more: the largest, at a tie the lower; NULL:
 * not wanted.
 * Returns an edgeseg_status. */
EDGESEG_API int edgeseg_fuse_views(edgeseg_context* context, const edgeseg_view* views,
                                   int32_t count, int32_t channels, int32_t width, int32_t height,
                                   const edgeseg_fusion* fusion, int threads, float* state,
                                   float* probability, uint8_t* mask);

/* Largest radius of edgeseg_smooth_z. */
#define EDGESEG_MAX_RADIUS 1024

/* Weighted sum along the depth of a volume, edges replicated.
 *
 * volume: channels x depth x plane, contiguous; plane is rows times columns.
 * weights: of the distances 0 to radius, symmetric; radius at most EDGESEG_MAX_RADIUS.
 * first, count: the slices wanted, so that a volume can be done in slabs that bring their
 * neighbours.
 * Voxels that are NaN count as 0, infinite ones as +-65504.
 * out: channels x count x plane; NULL: not wanted. It must not overlap `volume`.
 * mask: count x plane; one channel: value > *threshold, more: the largest, the lower one at a tie;
 * NULL: not wanted.
 * Returns an edgeseg_status. */
EDGESEG_API int edgeseg_smooth_z(edgeseg_context* context, const float* volume, int32_t channels,
                                 int32_t depth, int64_t plane, const float* weights, int32_t radius,
                                 int32_t first, int32_t count, const float* threshold, int threads,
                                 float* out, uint8_t* mask);

/* Largest outline_px of edgeseg_blend_overlay. */
#define EDGESEG_MAX_OUTLINE 127

/* Rows of interleaved 8-bit pixels of three channels that are drawn on. row_stride is in bytes and
 * may be negative; rows must not overlap. */
typedef struct edgeseg_canvas {
    uint8_t* pixels;
    ptrdiff_t row_stride;
    int32_t width;
    int32_t height;
} edgeseg_canvas;

/* Blends the colours of a mask into a frame, in place.
 *
 * mask: height x width class indices, rows `mask_stride` bytes apart; 0 and indices above `classes`
 * are left alone.
 * colours: classes (1 to EDGESEG_MAX_CHANNELS) x 3 bytes, in the order of the frame's channels.
 * alpha: 0 to 256; a pixel of class k becomes (p * (256 - alpha) + colour * alpha + 128) >> 8.
 * outline_px: pixels of class k with a pixel of another index at most so far away in x and in y
 * (within the frame) get the colour itself; 0: no outline; at most EDGESEG_MAX_OUTLINE.
 * Returns an edgeseg_status. */
EDGESEG_API int edgeseg_blend_overlay(edgeseg_context* context, const edgeseg_canvas* frame,
                                      const uint8_t* mask, ptrdiff_t mask_stride,
                                      const uint8_t* colours, int32_t classes, int32_t alpha,
                                      int32_t outline_px, int threads);

#ifdef __cplusplus
}
#endif

#endif /* EDGESEG_KERNELS_H */
