"""The kernels on device memory, on a caller's stream.

They take what ``edgeseg.kernels`` takes, as arrays in device memory (anything with
``__cuda_array_interface__``: torch, cupy, numba; or ``DevicePointer``), write into arrays that are
given, and return as soon as the work is enqueued. Neither torch nor cuda-bindings is needed.

    settings = torch.from_numpy(cuda.fusion_settings(keep=0.8)).cuda()
    stream = torch.cuda.current_stream().cuda_stream
    cuda.prepare()
    cuda.fuse_views(views, settings=settings, mask=mask, state=state, stream=stream)

Every call but ``prepare`` and the making of a ``ResizePlan`` can be captured in a CUDA graph. The
graph keeps addresses, shapes, weights and colours; what lies in device memory, the settings of
the fusion and the threshold of ``smooth_z`` among them, is read anew at each replay. Arrays must
stay alive until the work is done, and must be ready on ``stream``, whose device is the current
one. ``stream`` is a ``cudaStream_t`` as an integer; 0 is the default stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import BackendUnavailableError, InputError, NativeLibraryError
from edgeseg.kernels import _blend, _fuse, _smooth, _views
from edgeseg.kernels._cuda_library import CudaLibrary, CudaLibraryInfo, library
from edgeseg.kernels._device_array import Block, DeviceArray, DevicePointer, read_array
from edgeseg.kernels._library import MAX_SIDE_PX, Frame
from edgeseg.kernels._resize import Resample, check_normalization, check_size, filter_index
from edgeseg.spec import FLIPS, Flip, ViewSpec, Weighting

__all__ = [
    "CudaLibraryInfo",
    "DeviceArray",
    "DevicePointer",
    "DeviceView",
    "ResizePlan",
    "available",
    "blend_overlay",
    "fuse_views",
    "fusion_settings",
    "library_info",
    "prepare",
    "resize_plan",
    "smooth_z",
    "unavailable_reason",
]

SETTINGS_BYTES = ctypes.sizeof(_fuse._Fusion)
"""Size of ``edgeseg_fusion``."""

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_FUSE_TYPES = (_POINTER, _INT, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)
_SMOOTH_TYPES = (
    *(_POINTER, _INT, _INT, ctypes.c_int64, _POINTER, _INT, _INT, _INT),
    *(_POINTER, _POINTER, _POINTER, _POINTER),
)
_BLEND_TYPES = (_POINTER, _POINTER, ctypes.c_ssize_t, _POINTER, _INT, _INT, _INT, _POINTER)
_CREATE_TYPES = (
    *(_INT, _INT, _POINTER, _INT, ctypes.c_int, ctypes.c_double),
    *(_POINTER, _POINTER, _POINTER),
)
_RUN_TYPES = (_POINTER, _POINTER, _POINTER)


@dataclass(frozen=True)
class DeviceView:
    """What the network said about one view of a frame, in device memory."""

    logits: DeviceArray
    """float32 or float16 (C, h, w), C-contiguous, on a grid of any size; one channel, or background
    first."""
    flip: Flip = "none"
    """How the network's input was mirrored; the logits are mirrored back."""


def library_info() -> CudaLibraryInfo:
    """Path, version and architectures of the CUDA library.

    Raises:
        NativeLibraryError: it is missing, of another version, or cannot be loaded.
    """
    return library().info()


def unavailable_reason() -> str | None:
    """Why the CUDA kernels cannot be used here; None if they can."""
    try:
        library().require_device()
    except (NativeLibraryError, BackendUnavailableError) as error:
        return str(error)
    return None


def available() -> bool:
    """Whether the library and a device are there; ``unavailable_reason`` says what is not."""
    return unavailable_reason() is None


def prepare(native: CudaLibrary | None = None) -> None:
    """Load the code of all kernels onto the current device, as must be done before a capture.

    Raises:
        BackendUnavailableError: there is no CUDA device.
        BackendError: the library holds no code for it.
        NativeLibraryError: the library is missing or of another version.
    """
    (native or library()).call("edgeseg_cuda_prepare", ())


def fusion_settings(
    *,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
) -> npt.NDArray[np.uint8]:
    """The settings of ``fuse_views`` as bytes, to be copied to the device.

    Args:
        weighting: of the views, pixel by pixel.
        temperature: positive, in nats; used by ``exp`` alone.
        threshold: 0 to 1; of the mask of one class, which is 1 where ``p > threshold``.
        keep: weight of the state, from 0 to below 1.
        reset: do not read the state, only write it.

    Returns:
        uint8 (20,): ``edgeseg_fusion``.

    Raises:
        InputError: an argument is not as described.
    """
    settings = _fuse._settings(weighting, temperature, threshold, keep, reset)
    packed: npt.NDArray[np.uint8] = np.frombuffer(bytes(settings), np.uint8).copy()
    return packed


def fuse_views(
    views: Sequence[DeviceView],
    height_px: int,
    width_px: int,
    *,
    settings: DeviceArray,
    state: DeviceArray | None = None,
    probability: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.fuse_views`` on the device: fuse, smooth over time, decide the mask.

    Args:
        views: 1 to 256, of the same number of channels (1 to 255), sides 1 to 65535.
        height_px: rows of the result, 1 to 65535.
        width_px: columns of the result, 1 to 65535.
        settings: uint8 (20,), the bytes of ``fusion_settings``.
        state: C-contiguous float32 (C, H, W), or (H, W) for one channel; probabilities of the
            frames before, updated in place. None: no smoothing over time, whatever ``keep`` is.
        probability: C-contiguous float32 (C, H, W), or (H, W) for one channel; may be ``state``.
        mask: C-contiguous uint8 (H, W).
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described, or nothing is to be written.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    check_size(height_px, width_px, 1)
    if state is None and probability is None and mask is None:
        raise InputError("nothing to write: give a state, a probability or a mask")
    described, channels = _describe(views)
    plane = (height_px, width_px)
    whole = (channels, *plane)
    shapes = (plane, whole) if channels == 1 else (whole,)
    given = read_array("settings", settings, (np.uint8,))
    if given.nbytes != SETTINGS_BYTES:
        raise InputError(
            f"settings are the {SETTINGS_BYTES} bytes of fusion_settings(), got {given.nbytes}"
        )
    (native or library()).call(
        "edgeseg_cuda_fuse_views",
        _FUSE_TYPES,
        ctypes.addressof(described),
        len(described),
        channels,
        width_px,
        height_px,
        given.address,
        _target("state", state, np.float32, shapes),
        _target("probability", probability, np.float32, shapes),
        _target("mask", mask, np.uint8, (plane,)),
        stream,
    )


def smooth_z(
    volume: DeviceArray,
    weights: npt.NDArray[np.floating[Any]],
    *,
    first: int = 0,
    count: int | None = None,
    threshold: DeviceArray | None = None,
    out: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.smooth_z`` on the device: smooth along the depth, decide the mask.

    Args:
        volume: C-contiguous float32 (C, D, H, W), 1 to 255 channels, or (D, H, W); at most 65535
            slices.
        weights: in host memory, at the distances 0 to radius, finite, radius at most 1024.
        first: the first slice that is wanted.
        count: how many slices are wanted; None for all from ``first`` on.
        threshold: float32 of one element; needed by the mask of one channel.
        out: C-contiguous float32 (C, count, H, W), or (count, H, W) for a volume without an axis of
            channels; it must not overlap ``volume``.
        mask: C-contiguous uint8 (count, H, W).
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described, or nothing is to be written.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    source = read_array("volume", volume, (np.float32,))
    if len(source.shape) not in (3, 4):
        raise InputError(f"a volume is (C, D, H, W) or (D, H, W), got {source.shape}")
    *lead, depth, height, width = source.shape
    channels = lead[0] if lead else 1
    if channels > _smooth.MAX_CHANNELS or depth > MAX_SIDE_PX:
        raise InputError(
            f"a volume has at most {_smooth.MAX_CHANNELS} channels and {MAX_SIDE_PX} slices, got "
            f"{source.shape}"
        )
    taps = _smooth._check_weights(weights)
    if count is None:
        count = depth - first
    if not (0 <= first < depth and 1 <= count <= depth - first):
        raise InputError(f"slices {first} to {first + count} are not among 0 to {depth}")
    if out is None and mask is None:
        raise InputError("nothing to write: give out or mask")
    level = None
    if mask is not None and channels == 1:
        if threshold is None:
            raise InputError("the mask of one channel needs a threshold")
        level = read_array("threshold", threshold, (np.float32,)).address
    shape = (count, height, width)
    smoothed = _target("out", out, np.float32, ((*lead, *shape),))
    if smoothed is not None:
        size = 4 * channels * count * height * width
        if smoothed < source.address + source.nbytes and source.address < smoothed + size:
            raise InputError("out must not overlap the volume")
    (native or library()).call(
        "edgeseg_cuda_smooth_z",
        _SMOOTH_TYPES,
        source.address,
        channels,
        depth,
        height * width,
        taps.ctypes.data,
        len(taps) - 1,
        first,
        count,
        level,
        smoothed,
        _target("mask", mask, np.uint8, (shape,)),
        stream,
    )


def blend_overlay(
    frame: DeviceArray,
    mask: DeviceArray,
    colours_bgr: npt.NDArray[np.uint8] | Sequence[Sequence[int]],
    *,
    alpha: float,
    outline_px: int = 0,
    stream: int = 0,
    native: CudaLibrary | None = None,
) -> None:
    """``edgeseg.kernels.blend_overlay`` on the device: blend a mask's colours into a frame.

    Args:
        frame: uint8 (H, W, 3), sides 1 to 65535; rows may be any distance apart.
        mask: uint8 (H, W), class indices; 0 and indices without a colour are left alone. Rows may
            be any distance apart.
        colours_bgr: of the classes from 1 on, each three values 0 to 255 in the order of the
            frame's channels; 1 to 255 of them, in host memory.
        alpha: opacity, 0 to 1.
        outline_px: pixels with one of another index at most so far away in x and in y get the
            colour itself; 0: no outline, 127 at most.
        stream: to enqueue on.
        native: the library to use instead of this installation's.

    Raises:
        InputError: an argument is not as described.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version.
    """
    canvas = read_array("frame", frame, (np.uint8,), contiguous=False, writeable=True)
    described = _describe_frame(canvas)
    if canvas.shape[0] > 1 and abs(canvas.strides[0]) < 3 * canvas.shape[1]:
        raise InputError("the rows of a frame that is drawn on must not overlap")
    labels = read_array("mask", mask, (np.uint8,), contiguous=False)
    if labels.shape != canvas.shape[:2] or (labels.shape[1] > 1 and labels.strides[1] != 1):
        raise InputError(
            f"mask must have the shape {canvas.shape[:2]} and rows without gaps, got "
            f"{labels.shape} with strides {labels.strides}"
        )
    packed = _blend._colours(colours_bgr)
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must lie between 0 and 1, got {alpha}")
    if not 0 <= outline_px <= _blend.MAX_OUTLINE_PX:
        raise InputError(f"outlines are 0 to {_blend.MAX_OUTLINE_PX} pixels wide, got {outline_px}")
    (native or library()).call(
        "edgeseg_cuda_blend_overlay",
        _BLEND_TYPES,
        ctypes.addressof(described),
        labels.address,
        labels.strides[0],
        packed.ctypes.data,
        len(packed),
        round(_blend.ALPHA_STEPS * alpha),
        outline_px,
        stream,
    )


class ResizePlan:
    """``edgeseg.kernels.resize_normalize_views`` for frames of one size, on the device.

    Made by ``resize_plan``. It owns device memory until ``close``, before which its runs must have
    finished; runs of one plan must follow each other on one stream.
    """

    def __init__(
        self, native: CudaLibrary, handle: int, frame_px: tuple[int, int], out: Sequence[object]
    ) -> None:
        self._native = native
        self._handle = handle
        self._out = tuple(out)
        self.frame_px = frame_px
        """(height, width) of the frames."""

    def __enter__(self) -> ResizePlan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, frame: DeviceArray, *, stream: int = 0) -> None:
        """Resample a frame into the arrays of the plan.

        Args:
            frame: uint8 (H, W, 3), BGR, of the size of the plan; rows may be any distance apart.
            stream: to enqueue on.

        Raises:
            InputError: the frame is not as described, or the plan is closed.
            BackendError: CUDA refused the work.
        """
        if not self._handle:
            raise InputError("the plan is closed: make another with resize_plan()")
        source = read_array("frame", frame, (np.uint8,), contiguous=False)
        described = _describe_frame(source)
        if source.shape[:2] != self.frame_px:
            raise InputError(f"the plan is for frames of {self.frame_px}, got {source.shape[:2]}")
        self._native.call(
            "edgeseg_cuda_resize_run",
            _RUN_TYPES,
            self._handle,
            ctypes.addressof(described),
            stream,
        )

    def close(self) -> None:
        """Free the plan's memory. Closing twice does nothing."""
        handle, self._handle = self._handle, 0
        if handle:
            self._native.call("edgeseg_cuda_resize_destroy", (_POINTER,), handle)


def resize_plan(
    frame_px: tuple[int, int],
    views: Sequence[ViewSpec],
    out: Sequence[DeviceArray],
    *,
    resample: Resample,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 1.0 / 255.0,
    native: CudaLibrary | None = None,
) -> ResizePlan:
    """Make the plan that resamples and normalises frames into several sizes and mirrorings.

    It allocates device memory and waits for the device.

    Args:
        frame_px: (height, width) of the frames, 1 to 65535 each.
        views: 1 to 256 sizes and flips.
        out: for each view C-contiguous float32 (len(flips), 3, height_px, width_px), RGB, on the
            current device, where every run writes.
        resample: Pillow's filter of that name, antialiased.
        mean: three values in the order R, G, B, in units of ``value * scale``.
        std: three positive values in the order R, G, B, in units of ``value * scale``.
        scale: positive factor applied to the 8-bit values first.
        native: the library to use instead of this installation's.

    Returns:
        The plan, which keeps ``out`` alive.

    Raises:
        InputError: an argument is not as described.
        BackendUnavailableError: there is no CUDA device.
        BackendError: CUDA refused the work.
        NativeLibraryError: the library is missing or of another version, or memory is exhausted.
    """
    height, width = frame_px
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        raise InputError(f"the sides of a frame are 1 to {MAX_SIDE_PX} pixels, got {frame_px}")
    if not 1 <= len(views) <= _views.MAX_VIEWS or len(out) != len(views):
        raise InputError(
            f"1 to {_views.MAX_VIEWS} views are made at once, each with an array in out; got "
            f"{len(views)} and {len(out)}"
        )
    check_normalization(scale, mean, std)
    targets = (_views._ViewTarget * len(views))()
    lists = []
    for index, (view, array) in enumerate(zip(views, out, strict=True)):
        check_size(view.height_px, view.width_px, 1)
        shape = (len(view.flips), 3, view.height_px, view.width_px)
        address = _target(f"out of view {view.name}", array, np.float32, (shape,))
        flips = (ctypes.c_int32 * len(view.flips))(*map(FLIPS.index, view.flips))
        lists.append(flips)  # alive until the call has returned
        targets[index] = _views._ViewTarget(
            view.width_px, view.height_px, len(view.flips), flips, address
        )
    chosen = native or library()
    handle = ctypes.c_void_p()
    means, stds = (ctypes.c_double * 3)(*mean), (ctypes.c_double * 3)(*std)
    chosen.call(
        "edgeseg_cuda_resize_create",
        _CREATE_TYPES,
        width,
        height,
        ctypes.addressof(targets),
        len(views),
        filter_index(resample),
        scale,
        ctypes.addressof(means),
        ctypes.addressof(stds),
        ctypes.addressof(handle),
    )
    return ResizePlan(chosen, int(handle.value or 0), (height, width), out)


def _describe(views: Sequence[DeviceView]) -> tuple[ctypes.Array[_fuse._View], int]:
    if not 1 <= len(views) <= _fuse.MAX_VIEWS:
        raise InputError(f"1 to {_fuse.MAX_VIEWS} views can be fused, got {len(views)}")
    described = (_fuse._View * len(views))()
    channels = 0
    for index, view in enumerate(views):
        name = f"logits of view {index}"
        logits = read_array(name, view.logits, (np.float32, np.float16))
        if len(logits.shape) != 3:
            raise InputError(f"{name} must have the shape (C, h, w), got {logits.shape}")
        found, height, width = logits.shape
        channels = channels or found
        if found != channels:
            raise InputError(
                f"views must have the same classes, but view 0 has {channels} channel(s) and view "
                f"{index} has {found}"
            )
        if found > _fuse.MAX_CHANNELS or max(height, width) > MAX_SIDE_PX:
            raise InputError(
                f"{name} have at most {_fuse.MAX_CHANNELS} channels and sides up to {MAX_SIDE_PX}, "
                f"got {logits.shape}"
            )
        if view.flip not in FLIPS:
            raise InputError(
                f"flip of view {index} must be one of {', '.join(FLIPS)}, got {view.flip!r}"
            )
        described[index] = _fuse._View(
            logits.address, width, height, _fuse._DTYPES[logits.dtype], FLIPS.index(view.flip)
        )
    return described, channels


def _describe_frame(block: Block) -> Frame:
    """``edgeseg_frame`` or ``edgeseg_canvas``, which have the same fields."""
    if len(block.shape) != 3 or block.shape[2] != 3 or max(block.shape[:2]) > MAX_SIDE_PX:
        raise InputError(
            f"a frame has the shape (H, W, 3), sides up to {MAX_SIDE_PX}, got {block.shape}"
        )
    height, width = block.shape[:2]
    if block.strides[2] != 1 or (width > 1 and block.strides[1] != 3):
        raise InputError(f"pixels of a frame must follow each other, got strides {block.strides}")
    return Frame(block.address, block.strides[0], width, height)


def _target(
    name: str, array: DeviceArray | None, dtype: npt.DTypeLike, shapes: Sequence[tuple[int, ...]]
) -> int | None:
    if array is None:
        return None
    block = read_array(name, array, (dtype,), writeable=True)
    if block.shape not in shapes:
        raise InputError(
            f"{name} must have the shape {' or '.join(map(str, shapes))}, got {block.shape}"
        )
    return block.address
