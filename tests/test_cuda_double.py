"""The stand-in for the CUDA run time finds what it is there to find."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_double import FakeRuntime, fake_kernels

from edgeseg.errors import BackendError
from edgeseg.gpu import Gpu
from edgeseg.kernels import cuda, reference_blend, reference_fuse
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels._fuse import View
from edgeseg.spec import ViewSpec

Array = npt.NDArray[Any]
SEEDS = range(24)


def survives(program: Callable[[FakeRuntime, Gpu], bool]) -> list[bool]:
    """For each seed whether the program gave the right result."""
    results = []
    for seed in SEEDS:
        runtime = FakeRuntime(seed)
        with Gpu.open(runtime=runtime) as gpu:
            results.append(program(runtime, gpu))
        assert not runtime.live()
    return results


def transfer(gpu: Gpu, *, joins: bool, waits: bool, frames: int = 1) -> bool:
    """Up on one stream, across on another, down on a third, ``frames`` times over one memory."""
    streams = [gpu.stream() for _ in range(3)]
    events = [gpu.event() for _ in range(3)]
    first, second = gpu.zeros((64,), np.uint8), gpu.zeros((64,), np.uint8)
    sources = [gpu.host((64,), np.uint8) for _ in range(frames)]
    targets = [gpu.host((64,), np.uint8) for _ in range(frames)]
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        source.array[...] = number + 1
        if joins and number:
            streams[0].wait(events[1])
            streams[1].wait(events[2])
        gpu.upload(first, source.array, streams[0])
        events[0].record(streams[0])
        if joins:
            streams[1].wait(events[0])
        gpu.copy(second, first, streams[1])
        events[1].record(streams[1])
        if joins:
            streams[2].wait(events[1])
        gpu.download(target.array, second, streams[2])
        events[2].record(streams[2])
    if waits:
        streams[2].synchronize()
    return all((target.array == n + 1).all() for n, target in enumerate(targets))


def test_joined_streams_are_right_for_every_seed() -> None:
    assert all(survives(lambda _, gpu: transfer(gpu, joins=True, waits=True)))
    assert all(survives(lambda _, gpu: transfer(gpu, joins=True, waits=True, frames=3)))


def test_a_missing_join_is_wrong_for_some_seed() -> None:
    results = survives(lambda _, gpu: transfer(gpu, joins=False, waits=True))
    assert results.count(False) >= len(SEEDS) // 4


def test_a_host_that_does_not_wait_reads_what_was_there_before() -> None:
    assert not any(survives(lambda _, gpu: transfer(gpu, joins=True, waits=False)))


def test_a_buffer_that_is_filled_again_too_early_is_wrong_for_some_seed() -> None:
    """The second frame overtakes the first, which is joined with itself alone."""

    def program(_: FakeRuntime, gpu: Gpu) -> bool:
        up, work, event = gpu.stream(), gpu.stream(), gpu.event()
        memory = gpu.zeros((8,), np.uint8)
        sources = [gpu.host((8,), np.uint8) for _ in range(2)]
        results = [gpu.host((8,), np.uint8) for _ in range(2)]
        for number in range(2):
            sources[number].array[...] = number + 1
            gpu.upload(memory, sources[number].array, up)
            event.record(up)
            work.wait(event)
            gpu.download(results[number].array, memory, work)
        work.synchronize()
        return all((results[number].array == number + 1).all() for number in range(2))

    assert False in survives(program)


def test_page_locked_memory_that_changes_before_the_copy_is_found() -> None:
    def program(_: FakeRuntime, gpu: Gpu) -> bool:
        stream, source, target = gpu.stream(), gpu.host((8,), np.uint8), gpu.zeros((8,), np.uint8)
        source.array[...] = 1
        gpu.upload(target, source.array, stream)
        source.array[...] = 2
        result = gpu.host((8,), np.uint8)
        gpu.download(result.array, target, stream)
        stream.synchronize()
        return bool((result.array == 1).all())

    assert not any(survives(program))


def test_other_memory_is_read_at_once_and_written_before_the_call_returns() -> None:
    def program(_: FakeRuntime, gpu: Gpu) -> bool:
        stream, target = gpu.stream(), gpu.zeros((8,), np.uint8)
        source, result = np.ones(8, np.uint8), np.zeros(8, np.uint8)
        gpu.upload(target, source, stream)
        source[...] = 2
        gpu.download(result, target, stream)
        return bool((result == 1).all())

    assert all(survives(program))


@pytest.mark.parametrize("seed", range(6))
def test_freed_memory_that_is_used_is_found(seed: int) -> None:
    """A copy that was enqueued before the memory was freed without waiting."""
    runtime = FakeRuntime(seed)
    stream = runtime.cudaStreamCreateWithFlags(1)[1]
    first, second = runtime.cudaMalloc(64)[1], runtime.cudaMalloc(64)[1]
    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    assert runtime.cudaMemcpyAsync(first, second, 64, kind, stream) == (0,)
    assert runtime.cudaFree(second) == (0,)
    (status,) = runtime.cudaStreamSynchronize(stream)
    assert status == runtime.cudaError_t.cudaErrorIllegalAddress
    # Nothing works after that.
    assert runtime.cudaMalloc(1) == (status, None)
    with pytest.raises(AssertionError, match=r"64 bytes .* were freed"):
        runtime.check()


def test_writing_where_nothing_is_allocated_is_found() -> None:
    def beside(runtime: FakeRuntime, array: Array) -> None:
        whole = np.lib.stride_tricks.as_strided(array, (9,))
        whole[8] = 0

    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        page_locked = gpu.host((8,), np.uint8)
        runtime.check()
        beside(runtime, page_locked.array)
    with pytest.raises(AssertionError, match="written beside 8 bytes of page-locked memory"):
        runtime.check()

    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        page_locked = gpu.host((8,), np.uint8)
        kept = page_locked.array
        page_locked.close()
        kept[0] = 0
    with pytest.raises(AssertionError, match="written after they were freed"):
        runtime.check()


def test_freeing_twice_and_not_freeing_is_found() -> None:
    runtime = FakeRuntime()
    address = runtime.cudaMalloc(8)[1]
    with pytest.raises(AssertionError, match=r"not freed: \{'memory': 1\}"):
        runtime.assert_clean()
    runtime.cudaFree(address)
    runtime.assert_clean()
    assert runtime.cudaFree(address)[0] != 0
    with pytest.raises(AssertionError, match="nothing is allocated"):
        runtime.assert_clean()


def test_fresh_memory_is_not_a_number() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        for dtype in (np.float16, np.float32, np.float64):
            assert np.isnan(runtime.read(gpu.empty((5,), dtype))).all()


def begin(runtime: FakeRuntime) -> tuple[Any, Any, Any]:
    """A stream that captures, another one, and an event."""
    captured, other = (runtime.cudaStreamCreateWithFlags(1)[1] for _ in range(2))
    event = runtime.cudaEventCreateWithFlags(2)[1]
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert runtime.cudaStreamBeginCapture(captured, mode) == (0,)
    return captured, other, event


Step = Callable[[FakeRuntime, Any, Any, Any], Any]
ILLEGAL: dict[str, tuple[Step, str]] = {
    "waiting": (lambda r, s, o, e: r.cudaStreamSynchronize(s), "StreamCaptureUnsupported"),
    "waiting for another": (
        lambda r, s, o, e: r.cudaStreamSynchronize(o),
        "StreamCaptureUnsupported",
    ),
    "waiting for all": (lambda r, s, o, e: r.cudaDeviceSynchronize(), "StreamCaptureUnsupported"),
    "allocating": (lambda r, s, o, e: r.cudaMalloc(1), "StreamCaptureUnsupported"),
    "locking": (lambda r, s, o, e: r.cudaHostAlloc(1, 0), "StreamCaptureUnsupported"),
    "freeing": (lambda r, s, o, e: r.cudaFree(1), "StreamCaptureUnsupported"),
    "asking": (lambda r, s, o, e: r.cudaEventQuery(e), "StreamCaptureUnsupported"),
    "asking for the mark": (
        lambda r, s, o, e: (r.cudaEventRecord(e, s), r.cudaEventSynchronize(e))[1],
        "CapturedEvent",
    ),
    "the default stream": (
        lambda r, s, o, e: (r.enqueue(0, lambda: None),),
        "StreamCaptureImplicit",
    ),
    "an event from outside": (
        lambda r, s, o, e: (r.cudaEventRecord(e, o), r.cudaStreamWaitEvent(s, e, 0))[1],
        "StreamCaptureIsolation",
    ),
    "destroying": (lambda r, s, o, e: r.cudaStreamDestroy(s), "StreamCaptureUnsupported"),
    "capturing twice": (lambda r, s, o, e: r.cudaStreamBeginCapture(s, 1), "IllegalState"),
    "another's end": (
        lambda r, s, o, e: (
            r.cudaEventRecord(e, s),
            r.cudaStreamWaitEvent(o, e, 0),
            r.cudaStreamEndCapture(o),
        )[2],
        "StreamCaptureUnmatched",
    ),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_what_cuda_forbids_spoils_a_capture(what: str) -> None:
    runtime = FakeRuntime()
    stream, other, event = begin(runtime)
    step, error = ILLEGAL[what]
    assert step(runtime, stream, other, event)[0].name == f"cudaError{error}"
    after = runtime.enqueue(stream, lambda: None)
    assert after.name == "cudaErrorStreamCaptureInvalidated"
    status, graph = runtime.cudaStreamEndCapture(stream)
    assert (status.name, graph) == ("cudaErrorStreamCaptureInvalidated", None)
    assert runtime.enqueue(stream, lambda: None) == 0
    assert runtime.cudaStreamSynchronize(stream) == (0,)


def test_a_capture_that_is_not_joined_fails() -> None:
    runtime = FakeRuntime()
    stream, other, event = begin(runtime)
    runtime.cudaEventRecord(event, stream)
    runtime.cudaStreamWaitEvent(other, event, 0)
    runtime.enqueue(other, lambda: None)
    status, graph = runtime.cudaStreamEndCapture(stream)
    assert (status.name, graph) == ("cudaErrorStreamCaptureUnjoined", None)
    # Both streams are as before.
    assert runtime.enqueue(other, lambda: None) == 0
    assert runtime.cudaStreamSynchronize(other) == (0,)


def test_other_threads_may_work_while_one_captures() -> None:
    runtime = FakeRuntime()
    stream, other, _ = begin(runtime)
    results = []

    def elsewhere() -> None:
        results.append(runtime.cudaMalloc(1)[0])
        results.append(runtime.enqueue(other, lambda: None))
        results.append(runtime.cudaStreamSynchronize(other)[0])
        results.append(runtime.cudaStreamEndCapture(stream)[0])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert results[:3] == [0, 0, 0]
    assert results[3].name == "cudaErrorStreamCaptureWrongThread"


def launch_branches_twice(seed: int) -> list[str]:
    """What ran, in which order."""
    runtime = FakeRuntime(seed)
    ran: list[str] = []
    with Gpu.open(runtime=runtime) as gpu:
        stream, branch, event = gpu.stream(), gpu.stream(), gpu.event()

        def work() -> None:
            runtime.enqueue(stream.handle, lambda: ran.append("first"))
            event.record(stream)
            branch.wait(event)
            runtime.enqueue(branch.handle, lambda: ran.append("left"))
            event.record(branch)
            runtime.enqueue(stream.handle, lambda: ran.append("right"))
            stream.wait(event)
            runtime.enqueue(stream.handle, lambda: ran.append("last"))

        graph = gpu.capture(stream, work)
        assert not ran
        graph.launch(stream)
        graph.launch(branch)
        gpu.synchronize()
    return ran


def test_a_graph_keeps_the_order_of_its_branches_alone() -> None:
    """Two branches run in either order; what joins them comes last; launches follow each other."""
    orders = set()
    for seed in range(40):
        ran = launch_branches_twice(seed)
        for launch in (ran[:4], ran[4:]):
            assert launch[0] == "first" and launch[3] == "last"
            assert set(launch[1:3]) == {"left", "right"}
        orders.add(tuple(ran))
    assert len(orders) == 4


def test_the_default_stream_waits_for_blocking_streams_alone() -> None:
    runtime = FakeRuntime()
    blocking, free = (runtime.cudaStreamCreateWithFlags(flag)[1] for flag in (0, 1))
    ran: list[str] = []
    runtime.enqueue(blocking, lambda: ran.append("blocking"))
    runtime.enqueue(free, lambda: ran.append("free"))
    runtime.enqueue(0, lambda: ran.append("default"))
    runtime.enqueue(blocking, lambda: ran.append("blocking again"))
    runtime.cudaStreamSynchronize(blocking)
    assert [name for name in ran if name != "free"] == ["blocking", "default", "blocking again"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("graphs", [False, True])
def test_kernels_run_on_streams(host: CudaLibrary, graphs: bool, seed: int) -> None:
    """A frame's way over three kernels, with host memory that is gone when they run."""
    rng = np.random.default_rng(5)
    frame = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    logits = 3 * rng.standard_normal((2, 4, 4)).astype(np.float32)
    colours = np.array([[10, 200, 30]], np.uint8)
    view = ViewSpec(8, 8, ("none",))
    runtime = FakeRuntime(seed)
    native = fake_kernels(runtime, host)
    cuda.prepare(native)
    with Gpu.open(runtime=runtime) as gpu:
        stream = gpu.stream()
        canvas, shown = gpu.empty(frame.shape, np.uint8), gpu.host(frame.shape, np.uint8)
        tensor, settings = gpu.empty((1, 3, 8, 8), np.float32), gpu.empty((20,), np.uint8)
        mask, answers = gpu.empty((12, 10), np.uint8), gpu.empty(logits.shape, np.float32)
        gpu.upload(settings, cuda.fusion_settings(weighting="mean"), stream)
        gpu.upload(answers, logits, stream)
        gpu.upload(canvas, frame, stream)
        plan = cuda.resize_plan(
            (12, 10), [view], [tensor],
            resample="bilinear", mean=(0, 0, 0), std=(1, 1, 1), native=native,
        )  # fmt: skip

        def work() -> None:
            on = {"stream": stream.handle, "native": native}
            plan.run(canvas, stream=stream.handle)
            views = [cuda.DeviceView(answers)]
            cuda.fuse_views(views, 12, 10, settings=settings, mask=mask, **on)
            cuda.blend_overlay(canvas, mask, colours.copy(), alpha=0.5, **on)

        if graphs:
            gpu.capture(stream, work).launch(stream)
        else:
            work()
        gpu.download(shown.array, canvas, stream)
        stream.synchronize()
        _, wanted = reference_fuse.fuse_views(
            [View(logits)], 12, 10, weighting="mean", temperature=1.0, threshold=0.5,
            keep=0.0, reset=False, state=None,
        )  # fmt: skip
        assert 0 < wanted.sum() < wanted.size
        np.testing.assert_array_equal(runtime.read(mask), wanted)
        np.testing.assert_array_equal(
            shown.array,
            reference_blend.blend_overlay(frame, wanted, colours, alpha=0.5, outline_px=0),
        )
        assert np.isfinite(runtime.read(tensor)).all()
        plan.close()
    runtime.assert_clean()
    assert not native.plans


def test_kernels_on_freed_memory_are_found(host: CudaLibrary) -> None:
    runtime = FakeRuntime()
    native = fake_kernels(runtime, host)
    stream = int(runtime.cudaStreamCreateWithFlags(1)[1])
    frame, mask = runtime.cudaMalloc(48)[1], runtime.cudaMalloc(16)[1]
    cuda.blend_overlay(
        cuda.DevicePointer(frame, (4, 4, 3), np.uint8), cuda.DevicePointer(mask, (4, 4), np.uint8),
        [(1, 2, 3)], alpha=0.5, stream=stream, native=native,
    )  # fmt: skip
    runtime.cudaFree(mask)
    assert runtime.cudaStreamSynchronize(stream)[0].name == "cudaErrorIllegalAddress"
    with pytest.raises(AssertionError, match="were freed"):
        runtime.check()


@pytest.mark.parametrize("prepared", [True, False])
def test_kernels_refuse_what_cannot_be_captured(host: CudaLibrary, prepared: bool) -> None:
    """The default stream, and kernels whose code is not loaded."""
    runtime = FakeRuntime()
    native = fake_kernels(runtime, host)
    frame = runtime.array(np.zeros((4, 4, 3), np.uint8))
    mask = runtime.array(np.zeros((4, 4), np.uint8))
    if prepared:
        cuda.prepare(native)
    with Gpu.open(runtime=runtime) as gpu:
        stream = gpu.stream()
        used = 0 if prepared else stream.handle

        def work() -> None:
            cuda.blend_overlay(frame, mask, [(1, 2, 3)], alpha=0.5, stream=used, native=native)

        with pytest.raises(BackendError, match="edgeseg_cuda_blend_overlay failed"):
            gpu.capture(stream, work)
    runtime.assert_clean()
