"""The CUDA kernels, compiled for the host, on the streams of the double."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeseg.errors import BackendError
from edgeseg.kernels import _fuse, _views
from edgeseg.kernels._cuda_library import CudaLibrary, CudaLibraryInfo
from edgeseg.kernels._library import Frame

from .core import Error, real
from .memory import IllegalAddressError
from .runtime import FakeRuntime


@dataclass(frozen=True)
class Entry:
    """What a function's arguments are; the last one is the stream it works on."""

    device: tuple[int, ...] = ()
    """Those that point to device memory, or are 0."""
    host: Mapping[int, Callable[[tuple[Any, ...]], int]] = field(default_factory=dict)
    """Those that point to host memory, which is read when the function is called and not when the
    work runs, with the number of bytes."""
    inside: Mapping[int, tuple[type[ctypes.Structure], str]] = field(default_factory=dict)
    """Those of ``host`` that are structures, with the field that points to device memory."""


def _size(kind: type[ctypes.Structure], count: int | None = None) -> Callable[..., int]:
    """Of one structure, or of as many as argument ``count`` says."""
    return lambda arguments: ctypes.sizeof(kind) * (1 if count is None else arguments[count])


ENTRIES = {
    "edgeseg_cuda_fuse_views": Entry(
        device=(5, 6, 7, 8),
        host={0: _size(_fuse._View, 1)},
        inside={0: (_fuse._View, "logits")},
    ),
    "edgeseg_cuda_smooth_z": Entry(
        device=(0, 8, 9, 10), host={4: lambda arguments: 4 * (arguments[5] + 1)}
    ),
    "edgeseg_cuda_blend_overlay": Entry(
        device=(1,),
        host={0: _size(Frame), 3: lambda arguments: 3 * arguments[4]},
        inside={0: (Frame, "pixels")},
    ),
    "edgeseg_cuda_decide_mask": Entry(device=(0, 5, 14, 15)),
    "edgeseg_cuda_resize_run": Entry(host={1: _size(Frame)}, inside={1: (Frame, "pixels")}),
}


class FakeKernels(CudaLibrary):
    """See ``fake_kernels``."""

    def __init__(self, runtime: FakeRuntime, host_library: CudaLibrary) -> None:
        self._runtime = runtime
        self._host = host_library
        self._prepared = False
        self.path = host_library.path
        self.version = host_library.version
        self.plans: dict[int, tuple[int, ...]] = {}
        """Resize plans that are not destroyed, and where they write."""

    def info(self) -> CudaLibraryInfo:
        return self._host.info()

    def require_device(self) -> None:
        pass

    def error_text(self, status: int) -> str:
        if status > 1000:
            return str(real.cudaGetErrorString(Error(status - 1000))[1].decode())
        return self._host.error_text(status)

    def call(self, name: str, types: Sequence[Any], *arguments: Any) -> None:
        if name == "edgeseg_cuda_prepare":
            self._require_no_capture(name)
            self._prepared = True
            self._host.call(name, types, *arguments)
        elif name == "edgeseg_cuda_resize_create":
            self._require_no_capture(name)
            self._host.call(name, types, *arguments)
            targets = (_views._ViewTarget * arguments[3]).from_address(arguments[2])
            plan = ctypes.c_void_p.from_address(arguments[8]).value
            assert plan
            self.plans[plan] = tuple(target.out for target in targets)
        elif name == "edgeseg_cuda_resize_destroy":
            self._require_no_capture(name)
            if self.plans.pop(arguments[0], None) is None:
                self._runtime._fault("a resize plan was destroyed twice")
                return
            self._host.call(name, types, *arguments)
        else:
            if not self._prepared:
                # The first launch may load the code of a kernel.
                self._require_no_capture(name)
            self._enqueue(name, types, arguments)

    def _enqueue(self, name: str, types: Sequence[Any], arguments: tuple[Any, ...]) -> None:
        assert name in ENTRIES, f"say in {__name__} what the arguments of {name} are"
        entry = ENTRIES[name]
        copies = {
            index: ctypes.create_string_buffer(
                ctypes.string_at(arguments[index], size(arguments)), size(arguments)
            )
            for index, size in entry.host.items()
        }
        touched = [arguments[index] for index in entry.device if arguments[index]]
        for index, (kind, pointer) in entry.inside.items():
            structures = (kind * (len(copies[index]) // ctypes.sizeof(kind))).from_buffer(
                copies[index]
            )
            touched += [getattr(structure, pointer) for structure in structures]
        plan = arguments[0] if name == "edgeseg_cuda_resize_run" else None
        touched += self.plans.get(plan, ()) if plan is not None else ()

        def run() -> None:
            if plan is not None and plan not in self.plans:
                raise IllegalAddressError("a resize plan was used after it was destroyed")
            kept = [
                ctypes.addressof(copies[index]) if index in copies else argument
                for index, argument in enumerate(arguments[:-1])
            ]
            self._host.call(name, types, *kept, 0)

        status = self._runtime.enqueue(arguments[-1], run, [(address, 1) for address in touched])
        if status != 0:
            self._fail(name, status)

    def _require_no_capture(self, name: str) -> None:
        own = self._runtime._own_capture()
        if own is not None:
            self._fail(name, self._runtime._spoil(Error.cudaErrorStreamCaptureUnsupported, own))

    def _fail(self, name: str, error: Any) -> None:
        raise BackendError(f"{name} failed: {self.error_text(1000 + error)} (CUDA error {error})")


def fake_kernels(runtime: FakeRuntime, host_library: CudaLibrary) -> FakeKernels:
    """The kernels of ``host_library`` (the fixture ``host``), on the streams of ``runtime``.

    To be given as ``native`` to what ``edgeseg.kernels.cuda`` offers. A kernel that refuses its
    arguments does so when it runs: whatever waits for it raises.
    """
    return FakeKernels(runtime, host_library)
