"""A CUDA device through ``cuda-bindings``, without torch: memory, streams, events, graphs.

    with Gpu.open() as gpu:
        stream, frame = gpu.stream(), gpu.host((1080, 1920, 3), np.uint8)
        device = gpu.empty(frame.shape, frame.dtype)
        work = lambda: gpu.upload(device, frame.array, stream)
        work()
        graph = gpu.capture(stream, work)
        graph.launch(stream)
        stream.synchronize()

All that is made of a ``Gpu`` is freed by its own ``close``, or with the ``Gpu``.
"""

from __future__ import annotations

from edgeseg.gpu.buffers import DeviceBuffer, DeviceSpan, HostBuffer
from edgeseg.gpu.device import Gpu
from edgeseg.gpu.info import GpuInfo, gpus
from edgeseg.gpu.interchange import as_device_array
from edgeseg.gpu.streams import Event, Graph, Stream

__all__ = [
    "DeviceBuffer",
    "DeviceSpan",
    "Event",
    "Gpu",
    "GpuInfo",
    "Graph",
    "HostBuffer",
    "Stream",
    "as_device_array",
    "gpus",
]
