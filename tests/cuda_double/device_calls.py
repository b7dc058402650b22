"""Versions, errors, devices and memory."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

from .core import Core, Error, call, real
from .memory import DEVICE, HOST, MAPPED

# Functions are spelled as CUDA spells them.
# ruff: noqa: N802


class DeviceCalls(Core):
    @call
    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._driver

    @call
    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._version

    @call
    def cudaGetErrorString(self, error: Any) -> Any:
        return real.cudaGetErrorString(Error(error))

    @call
    def cudaGetErrorName(self, error: Any) -> Any:
        return real.cudaGetErrorName(Error(error))

    @call
    def cudaGetLastError(self) -> tuple[Any, ...]:
        last, self._last = self._last, Error.cudaSuccess
        return (last,)

    @call
    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if not self._devices:
            return self._refuse(Error.cudaErrorNoDevice), None
        return Error.cudaSuccess, self._devices

    @call
    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        if not 0 <= device < self._devices:
            return (self._refuse(Error.cudaErrorInvalidDevice),)
        self._thread.device = device
        return (Error.cudaSuccess,)

    @call
    def cudaGetDevice(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, getattr(self._thread, "device", 0)

    @call
    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        if not 0 <= device < self._devices:
            return self._refuse(Error.cudaErrorInvalidDevice), None
        name = b"Double of a GPU" + (b" %d" % device if self._devices > 1 else b"")
        total = self._pool.total_bytes
        return Error.cudaSuccess, SimpleNamespace(name=name, totalGlobalMem=total)

    @call
    def cudaDeviceGetAttribute(self, attr: Any, device: int) -> tuple[Any, ...]:
        if not 0 <= device < self._devices:
            return self._refuse(Error.cudaErrorInvalidDevice), None
        kinds = real.cudaDeviceAttr
        values = {
            kinds.cudaDevAttrComputeCapabilityMajor: 8,
            kinds.cudaDevAttrComputeCapabilityMinor: 7,
            kinds.cudaDevAttrIntegrated: int(self._integrated),
            kinds.cudaDevAttrCanMapHostMemory: 1,
        }
        return Error.cudaSuccess, values[attr]

    @call
    def cudaDeviceSynchronize(self) -> tuple[Any, ...]:
        if self._captures:
            # Whichever thread calls it: it would wait for streams that are not running.
            return (self._spoil(Error.cudaErrorStreamCaptureUnsupported, *self._captures),)
        return (self._complete(list(self._scheduler.pending)),)

    @call
    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._pool.free_bytes, self._pool.total_bytes

    @call
    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate(size, DEVICE)

    @call
    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return (self._free(int(devPtr), (DEVICE,)),)

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._allocate(size, MAPPED if flags & real.cudaHostAllocMapped else HOST)

    @call
    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return (self._free(int(ptr), (HOST, MAPPED)),)

    @call
    def cudaHostGetDevicePointer(self, pHost: int, flags: int) -> tuple[Any, ...]:
        block = self._pool.find(int(pHost), 1)
        if block is None or block.kind != MAPPED:
            return self._refuse(Error.cudaErrorInvalidValue), None
        return Error.cudaSuccess, int(pHost)

    @call
    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Any, ...]:
        kinds = real.cudaMemoryType
        block = self._pool.find(int(ptr), 1)
        if block is None:
            kind = kinds.cudaMemoryTypeUnregistered
        elif block.kind in (HOST, MAPPED):
            kind = kinds.cudaMemoryTypeHost
        else:
            kind = kinds.cudaMemoryTypeDevice
        device = 0 if block is None else block.device
        return Error.cudaSuccess, SimpleNamespace(type=kind, device=device)

    @call
    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: Any, stream: Any
    ) -> tuple[Any, ...]:
        return (self._copy(int(dst), count, int(src), count, count, 1, kind, int(stream)),)

    @call
    def cudaMemcpy2DAsync(
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: Any,
        stream: Any,
    ) -> tuple[Any, ...]:
        if width > dpitch or width > spitch:
            return (self._refuse(Error.cudaErrorInvalidPitchValue),)
        return (self._copy(int(dst), dpitch, int(src), spitch, width, height, kind, int(stream)),)

    @call
    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> tuple[Any, ...]:
        address = int(devPtr)
        if not self._pool.reachable(address, count):
            return (self._refuse(Error.cudaErrorInvalidValue),)

        def run() -> None:
            self._pool.require(address, count)
            ctypes.memset(address, value, count)

        return self._enqueue(int(stream), run)[:1]

    def _allocate(self, size: int, kind: str) -> tuple[Any, Any]:
        if own := self._own_capture():
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, own), None
        block = self._pool.allocate(size, kind, getattr(self._thread, "device", 0))
        if block is None:
            return self._refuse(Error.cudaErrorMemoryAllocation), None
        return Error.cudaSuccess, block.address

    def _free(self, address: int, kinds: tuple[str, ...]) -> Any:
        if own := self._own_capture():
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, own)
        if self._pool.release(address, kinds) is None:
            self._fault(f"freed at {address:#x}, where nothing is allocated")
            return self._refuse(Error.cudaErrorInvalidValue)
        return Error.cudaSuccess

    def _copy(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        rows: int,
        kind: Any,
        stream: int,
    ) -> Any:
        kinds = real.cudaMemcpyKind
        spans = {
            target: (rows - 1) * target_pitch + width,
            source: (rows - 1) * source_pitch + width,
        }
        host = {kinds.cudaMemcpyDeviceToHost: target, kinds.cudaMemcpyHostToDevice: source}.get(
            kind
        )
        if any(not self._pool.reachable(*span) for span in spans.items() if span[0] != host):
            return self._refuse(Error.cudaErrorInvalidValue)
        found = self._stream(stream)
        pageable = host is not None and self._pool.find(host, spans[host]) is None
        if pageable and found is not None and found.capture is not None:
            # CUDA would take the address, which nobody keeps.
            return self._spoil(Error.cudaErrorStreamCaptureUnsupported, found.capture)
        # What is not page-locked is read before the call returns.
        staged = ctypes.string_at(source, spans[source]) if pageable and host == source else None

        def run() -> None:
            for address, nbytes in spans.items():
                if not (pageable and address == host):
                    self._pool.require(address, nbytes, host=address == host)
            held = None if staged is None else ctypes.create_string_buffer(staged, len(staged))
            begin = source if held is None else ctypes.addressof(held)
            for row in range(rows):
                ctypes.memmove(target + row * target_pitch, begin + row * source_pitch, width)

        status, operation = self._enqueue(stream, run)
        if operation is not None and pageable and host == target:
            # What is not page-locked is written before the call returns.
            return self._complete([operation])
        return status
