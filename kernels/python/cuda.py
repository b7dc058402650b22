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
the fusion, the threshold of ``smooth_z`` and the level of ``decide_mask`` among them, is read
anew at each replay. Arrays must stay alive until the work is done, and must be ready on
``stream``, whose device is the current one. ``stream`` is a ``cudaStream_t`` as an integer; 0 is
the default stream.
"""

from __future__ import annotations

from edgeseg.errors import BackendUnavailableError, NativeLibraryError
from edgeseg.kernels._cuda_blend import blend_overlay
from edgeseg.kernels._cuda_decide import decide_mask
from edgeseg.kernels._cuda_fuse import SETTINGS_BYTES, DeviceView, fuse_views, fusion_settings
from edgeseg.kernels._cuda_library import CudaLibrary, CudaLibraryInfo, library
from edgeseg.kernels._cuda_resize import ResizePlan, resize_plan
from edgeseg.kernels._cuda_smooth import smooth_z
from edgeseg.kernels._device_array import DeviceArray, DevicePointer

__all__ = [
    "SETTINGS_BYTES",
    "CudaLibraryInfo",
    "DeviceArray",
    "DevicePointer",
    "DeviceView",
    "ResizePlan",
    "available",
    "blend_overlay",
    "decide_mask",
    "fuse_views",
    "fusion_settings",
    "library_info",
    "prepare",
    "resize_plan",
    "smooth_z",
    "unavailable_reason",
]


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
