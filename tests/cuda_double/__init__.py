"""A stand-in for ``cuda.bindings.runtime`` on host memory, and for the kernels on top of it.

``FakeRuntime`` has the functions that ``edgeseg.gpu`` calls, with the same parameters and tuples.
What is enqueued runs as late as it can: when something waits for it, in a random order (``seed``)
that keeps only the order within a stream and what events say. So a missing join, a buffer that is
used again too early, or a host that reads before it waits gives wrong data for some seed.

    runtime = FakeRuntime(seed=3)
    with Gpu.open(runtime=runtime) as gpu:
        kernels = fake_kernels(runtime, host)           # the fixture of conftest.py
        cuda.fuse_views(..., stream=stream.handle, native=kernels)
        runtime.enqueue(stream.handle, lambda: ...)     # work of any other double
    runtime.assert_clean()

Rules that it keeps to, from the CUDA Runtime API reference ("Stream Management", "Event
Management", "Graph Management", "API synchronization behavior") and the CUDA programming guide
("Stream capture"). Where CUDA leaves something open, it is as unkind as CUDA may be.
"""

from __future__ import annotations

from .kernels import FakeKernels, fake_kernels
from .memory import OutsideArray
from .runtime import FakeRuntime

__all__ = ["FakeKernels", "FakeRuntime", "OutsideArray", "fake_kernels"]
