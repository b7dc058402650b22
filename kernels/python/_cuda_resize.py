"""``resize_normalize_views`` on the device; ``edgeseg.kernels.cuda`` offers it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from edgeseg.errors import InputError
from edgeseg.kernels import _views
from edgeseg.kernels._cuda_library import CudaLibrary, library
from edgeseg.kernels._device_array import DeviceArray, describe_frame, read_array, target_address
from edgeseg.kernels._library import MAX_SIDE_PX
from edgeseg.kernels._resize import Resample, check_normalization, check_size, filter_index
from edgeseg.spec import FLIPS, ViewSpec

__all__ = ["ResizePlan", "resize_plan"]

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_CREATE_TYPES = (
    *(_INT, _INT, _POINTER, _INT, ctypes.c_int, ctypes.c_double),
    *(_POINTER, _POINTER, _POINTER),
)
_RUN_TYPES = (_POINTER, _POINTER, _POINTER)


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
        described = describe_frame(source)
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

    It allocates device memory and waits until its tables are there.

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
        DeviceMemoryError: there is not enough memory on the device.
        NativeLibraryError: the library is missing or of another version.
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
        address = target_address(f"out of view {view.name}", array, np.float32, (shape,))
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
