"""Every error that edgeseg raises on purpose.

    EdgesegError
    ├── UsageError                   a call or a command line that cannot be meant (exit code 2)
    ├── MissingDependencyError       an optional library is not installed; names the pip line
    ├── NativeLibraryError           the compiled kernels are missing or of another version
    ├── CheckpointError              not a checkpoint, truncated, unsafe to load
    │   ├── UnknownFamilyError       a state dict, but of no model family that is known
    │   └── CheckpointShapeError     a known family whose tensors contradict each other
    ├── ExportError                  the ONNX graph could not be made or differs from the original
    ├── DataError                    an image, mask, folder or video that cannot be used
    │   ├── TruncatedVideoError      a video that breaks off before its end
    │   ├── EndOfStreamError         a source has delivered everything
    │   └── SourceLostError          a camera or stream is gone, and may come back
    ├── CalibrationError             no, too few or overlapping calibration images
    ├── BundleError                  not a bundle, or one of another schema
    │   └── BundleIntegrityError     a file of the bundle is missing or was changed
    ├── BackendError                 an inference library refused the model or failed while running
    │   ├── BackendUnavailableError  a named backend or device is not on this machine
    │   ├── DeviceMemoryError        the device has not enough memory left
    │   ├── PlanError                a compiled plan that is corrupt or belongs to another machine
    │   ├── GoldenMismatchError      an engine that loads but computes something else
    │   └── StalledError             an engine that does not return
    ├── InputError                   an array of the wrong shape, dtype or layout
    └── OutputError                  the result cannot be written, or would overwrite something
        └── SinkLostError            a display or stream is gone, and may come back

A message says what is wrong, where, and what to do next. Errors that have a natural builtin
counterpart inherit it as well, so that ``except ValueError`` and the like work as expected.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BundleError",
    "BundleIntegrityError",
    "CalibrationError",
    "CheckpointError",
    "CheckpointShapeError",
    "DataError",
    "DeviceMemoryError",
    "EdgesegError",
    "EndOfStreamError",
    "ExportError",
    "GoldenMismatchError",
    "InputError",
    "MissingDependencyError",
    "NativeLibraryError",
    "OutputError",
    "PlanError",
    "SinkLostError",
    "SourceLostError",
    "StalledError",
    "TruncatedVideoError",
    "UnknownFamilyError",
    "UsageError",
]


class EdgesegError(Exception):
    """Base of all deliberate errors; ``exit_code`` is what the command line returns for it."""

    exit_code: int = 1


class UsageError(EdgesegError, ValueError):
    """Arguments that contradict each other or have no meaning."""

    exit_code = 2


class MissingDependencyError(EdgesegError, ImportError):
    """An optional dependency is needed and not installed."""


class NativeLibraryError(EdgesegError):
    """The compiled kernel library is absent, or was built for another version of edgeseg."""


class CheckpointError(EdgesegError):
    """The checkpoint cannot be read, or cannot be read safely."""


class UnknownFamilyError(CheckpointError):
    """The keys of the state dict belong to no registered model family."""


class CheckpointShapeError(CheckpointError):
    """The keys belong to a family, but shapes contradict it or each other."""


class ExportError(EdgesegError):
    """The ONNX export failed, or its result does not equal the torch formulation."""


class DataError(EdgesegError):
    """An input picture, mask, folder or video is missing, unreadable or inconsistent."""


class TruncatedVideoError(DataError):
    """The video ended before its container said it would, or a packet could not be decoded."""


class EndOfStreamError(DataError):
    """A live session's source has delivered everything it had; an end, not a failure."""


class SourceLostError(DataError):
    """A camera was unplugged, a server went away, a stream broke: opening it again may help."""


class CalibrationError(EdgesegError):
    """Calibration cannot be done, or would not mean what the user thinks."""


class BundleError(EdgesegError):
    """The folder is not a bundle that this version can read."""


class BundleIntegrityError(BundleError):
    """A file of the bundle is missing or does not have the recorded hash."""


class BackendError(EdgesegError):
    """The inference library failed to compile or to run the model."""


class BackendUnavailableError(BackendError):
    """The requested backend or device does not exist on this machine."""


class DeviceMemoryError(BackendError):
    """An allocation on the device failed for want of memory."""


class PlanError(BackendError):
    """A compiled plan cannot be used: cut off, changed, or made for another device or version."""


class GoldenMismatchError(BackendError):
    """The loaded engine's answers to the bundle's golden frames are outside their tolerance."""


class StalledError(BackendError):
    """A call of the engine has not returned for so long that it is given up."""


class InputError(EdgesegError, ValueError):
    """An array has the wrong shape, dtype, layout or value range."""


class OutputError(EdgesegError, OSError):
    """The output exists already, or cannot be written."""


class SinkLostError(OutputError):
    """Whoever took the pictures is gone for now: a server restarted, a viewer's pipe closed."""
