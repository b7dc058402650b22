"""A CUDA device through ``cuda-bindings``, without torch: memory, streams, events, graphs.

with Gpu.open() as gpu:
    stream, frame = gpu.stream(), gpu.host((1080, 1920, 3), np.uint8)
    device = gpu.empty(frame.shape, frame.dtype)
    gpu.upload(device, frame.array, stream)
    graph = gpu.capture(stream, lambda: engine.enqueue(tensors, stream.handle))
    graph.launch(stream)
    stream.synchronize()
"""

from __future__ import annotations

from edgeseg.gpu.buffers import DeviceBuffer, DeviceSpan, HostBuffer
from edgeseg.gpu.device import Gpu, GpuInfo, gpus
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
