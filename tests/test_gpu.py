"""``edgeseg.gpu`` over a stand-in for the CUDA run time (``cuda_double``)."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
from cuda_double import FakeRuntime
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceMemoryError,
    InputError,
    UsageError,
)
from edgeseg.gpu import Gpu, gpus
from edgeseg.kernels.cuda import DevicePointer


def test_a_device_is_described() -> None:
    runtime = FakeRuntime(
        devices=2, integrated=True, total_bytes=4 << 30, driver=12060, version=12090
    )
    first, second = gpus(runtime)
    assert (first.name, second.name) == ("Double of a GPU 0", "Double of a GPU 1")
    assert second.index == 1
    assert second.compute_capability == (8, 7)
    assert second.integrated and second.maps_host_memory
    assert second.total_bytes == 4 << 30
    assert second.driver_cuda == (12, 6)
    assert second.runtime_cuda == (12, 9)
    with Gpu.open(1, runtime) as gpu:
        assert gpu.info == second
        assert runtime.cudaGetDevice()[1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"driver": 0}, "no NVIDIA driver can be used"),
        (
            {"driver": 12060},
            r"driver serves CUDA 12\.6.*for CUDA 13\.0.*pip install 'cuda-bindings<13'",
        ),
        ({"devices": 0}, "no such CUDA device here.*no CUDA-capable device is detected"),
    ],
)
def test_what_is_missing_is_told_in_one_line(arguments: dict[str, Any], message: str) -> None:
    for use in (gpus, lambda runtime: Gpu.open(0, runtime)):
        with pytest.raises(BackendUnavailableError, match=message) as caught:
            use(FakeRuntime(**arguments))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_device_that_is_not_there_is_named(index: int) -> None:
    with pytest.raises(BackendUnavailableError, match=f"no CUDA device {index}: .* shows 2"):
        Gpu.open(index, FakeRuntime(devices=2))


def test_the_bindings_that_look_for_the_driver_themselves() -> None:
    """Up to 12.8 they raise where there is no driver, instead of giving a status."""

    class Old(FakeRuntime):
        def cudaGetDeviceCount(self) -> Any:  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(BackendUnavailableError, match=r"no NVIDIA driver .*libcuda"):
        gpus(Old())


def test_this_machine_has_devices_or_says_what_is_missing() -> None:
    """With the real bindings."""
    try:
        found = gpus()
    except BackendUnavailableError as error:
        assert "\n" not in str(error)
        assert "another backend" in str(error) or "pip install" in str(error)
    else:
        assert [info.index for info in found] == list(range(len(found)))
        assert all(info.total_bytes > 0 for info in found)


def test_everything_is_freed_with_the_device() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        stream, event = gpu.stream(), gpu.event()
        memory = gpu.empty((3, 5), np.float32)
        page_locked, mapped = gpu.host((7,), np.uint8), gpu.host((7,), np.uint8, mapped=True)
        gpu.capture(stream, lambda: gpu.copy(memory, memory.view(), stream))
        memory.close()
        memory.close()
        assert runtime.live() == {
            "host memory": 2, "streams": 1, "events": 1, "executables": 1
        }  # fmt: skip
    runtime.assert_clean()
    gpu.close()
    for use in (
        lambda: memory.address,
        lambda: memory.__cuda_array_interface__,
        lambda: page_locked.array,
        lambda: mapped.device,
        lambda: stream.handle,
        lambda: event.record(1),
        lambda: gpu.empty((1,), np.uint8),
        gpu.stream,
        gpu.synchronize,
    ):
        with pytest.raises(BackendError, match="closed"):
            use()
    runtime.assert_clean()


def test_what_fails_half_way_leaks_nothing() -> None:
    """Every call of a whole session fails once."""

    def session(runtime: FakeRuntime) -> None:
        with Gpu.open(runtime=runtime) as gpu:
            stream, other = gpu.stream(), gpu.stream()
            event, start, end = gpu.event(), gpu.event(timing=True), gpu.event(timing=True)
            target, source = gpu.zeros((4, 4), np.float32), gpu.zeros((4, 4), np.float32)
            page_locked = gpu.host((4, 4), np.float32, mapped=True)
            start.record(stream)
            gpu.upload(source, page_locked.array, stream)
            end.record(stream)

            def work() -> None:
                event.record(stream)
                other.wait(event)
                gpu.copy(target, source, other)
                event.record(other)
                stream.wait(event)

            graph = gpu.capture(stream, work)
            graph.launch(stream)
            gpu.download(page_locked.array, target, stream)
            stream.synchronize()
            assert end.done() and end.elapsed_ms(start) > 0

    whole = FakeRuntime()
    session(whole)
    whole.assert_clean()
    places = [
        (name, number)
        for name, count in whole.calls.items()
        if "Destroy" not in name and "Free" not in name and "Version" not in name
        and not name.startswith("cudaGetError") and name != "cudaGetLastError"
        for number in range(1, count + 1)
    ]  # fmt: skip
    assert len(places) > 30
    for name, number in places:
        runtime = FakeRuntime(fail={name: number})
        if name == "cudaDeviceSynchronize":
            session(runtime)  # what closing waits for is logged only
        else:
            with pytest.raises(BackendError):
                session(runtime)
        assert runtime.live() == {}, (name, number)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_memory_that_runs_out_is_told_and_the_rest_is_freed(number: int) -> None:
    runtime = FakeRuntime(fail={"cudaMalloc": number}, total_bytes=64 << 20)
    with (
        pytest.raises(
            DeviceMemoryError, match=r"2\.0 MiB were asked for, \d+ of 64 MiB are free.*smaller"
        ),
        Gpu.open(runtime=runtime) as gpu,
    ):
        for _ in range(3):
            gpu.empty((1 << 21,), np.uint8)
    runtime.assert_clean()


def test_more_memory_than_there_is() -> None:
    runtime = FakeRuntime(total_bytes=1 << 20)
    with Gpu.open(runtime=runtime) as gpu:
        assert gpu.memory_bytes() == (1 << 20, 1 << 20)
        held = gpu.empty((1 << 19,), np.uint8)
        assert gpu.memory_bytes() == (1 << 19, 1 << 20)
        with pytest.raises(DeviceMemoryError):
            gpu.empty(((1 << 19) + 1,), np.uint8)
        held.close()
        gpu.empty(((1 << 19) + 1,), np.uint8)
    runtime.assert_clean()


def test_an_error_stays_what_it_was_when_closing_fails_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a fault on the device every call answers the same."""
    runtime = FakeRuntime()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(BackendError, match=r"cudaStreamSynchronize failed: .*illegal memory access"),
        Gpu.open(runtime=runtime) as gpu,
    ):
        stream = gpu.stream()
        target = gpu.empty((4,), np.uint8)
        runtime.enqueue(stream.handle, lambda: None, [(target.address + 4096, 4)])
        stream.synchronize()
    assert "cudaFree failed" in caplog.text


@given(
    rows=st.integers(1, 6),
    width=st.integers(1, 9),
    gaps=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_rows_of_any_pitch_are_copied(
    rows: int, width: int, gaps: tuple[int, int], dtype: Any, seed: int
) -> None:
    """Up, across and down; what lies between the rows stays as it was."""
    rng = np.random.default_rng(seed)
    runtime = FakeRuntime(seed)
    values = rng.integers(0, 100, (rows, width, 3)).astype(dtype)
    wide = np.full((rows, width + gaps[0], 3), 101, dtype)
    wide[:, :width] = values
    canvas = runtime.array(np.full((rows, width + gaps[1], 3), 102, dtype))
    with Gpu.open(runtime=runtime) as gpu:
        stream = gpu.stream()
        packed, back = gpu.zeros(values.shape, dtype), gpu.host(wide.shape, dtype)
        back.array[...] = 103
        pitched = Pitched(canvas, width)
        gpu.upload(packed, wide[:, :width], stream)
        gpu.copy(pitched, packed, stream)
        gpu.download(back.array[:, :width], pitched, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back.array[:, :width], values)
        assert (back.array[:, width:] == 103).all()
        assert (canvas.values[:, width:] == 102).all()
    runtime.assert_clean()


class Pitched:
    """The first columns of an array on the device."""

    def __init__(self, whole: Any, width: int) -> None:
        self._whole = whole
        self._width = width

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        part = self._whole.values[:, : self._width]
        return {**part.__array_interface__, "strides": part.strides}


def test_copies_that_do_not_fit_are_refused() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        stream, memory = gpu.stream(), gpu.zeros((4, 6), np.uint8)
        values = np.zeros((4, 6), np.uint8)
        with pytest.raises(InputError, match=r"uint8 \(6, 4\)"):
            gpu.upload(memory, values.reshape(6, 4), stream)
        with pytest.raises(InputError, match="must be float32, got uint8"):
            gpu.upload(memory, values.astype(np.float32), stream)
        for view in (np.zeros((4, 13), np.uint8)[:, :12:2], values[::-1], values[:, ::-1]):
            with pytest.raises(InputError, match="rows without gaps"):
                gpu.upload(memory, view, stream)
        values.flags.writeable = False
        with pytest.raises(InputError, match="read-only"):
            gpu.download(values, memory, stream)
        with pytest.raises(InputError, match="__cuda_array_interface__"):
            gpu.download(np.zeros(3, np.uint8), np.zeros(3, np.uint8), stream)  # type: ignore[arg-type]
        assert not runtime.calls.get("cudaMemcpyAsync")


@pytest.mark.parametrize("shape", [(0,), (3, -1)])
def test_memory_without_elements_is_refused(shape: tuple[int, ...]) -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        for make in (gpu.empty, gpu.zeros, gpu.host):
            with pytest.raises(InputError, match="cannot hold"):
                make(shape, np.uint8)
        with pytest.raises(InputError, match="object"):
            gpu.empty((2,), object)


def test_views_share_the_memory() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        whole = gpu.zeros((4, 2, 3), np.float32)
        rows = whole.view(rows=slice(1, 3))
        assert (rows.shape, rows.address) == ((2, 2, 3), whole.address + 24)
        one = whole.view((2, 3), rows=slice(3, 4))
        assert (one.shape, one.nbytes, one.address) == ((2, 3), 24, whole.address + 72)
        bits = rows.view(dtype=np.uint8)
        assert (bits.shape, bits.dtype) == ((2, 2, 12), np.uint8)
        stream = gpu.stream()
        gpu.upload(one, np.full((2, 3), 7, np.float32), stream)
        stream.synchronize()
        expected = np.zeros((4, 2, 3), np.float32)
        expected[3] = 7
        np.testing.assert_array_equal(runtime.read(whole), expected)
        for wrong in (
            {"shape": (5, 5)},
            {"rows": slice(4, 5)},
            {"rows": slice(0, 4, 2)},
            {"rows": slice(2, 1)},
            {"dtype": np.float64},
            {"shape": (-4, -6)},
        ):
            with pytest.raises(InputError):
                whole.view(**wrong)  # type: ignore[arg-type]
        whole.close()
        with pytest.raises(BackendError, match="closed"):
            _ = one.__cuda_array_interface__
    runtime.assert_clean()


def test_mapped_memory_is_one_for_host_and_device() -> None:
    runtime = FakeRuntime(integrated=True)
    with Gpu.open(runtime=runtime) as gpu:
        stream, memory = gpu.stream(), gpu.host((2, 3), np.int32, mapped=True)
        memory.array[...] = [[1, 2, 3], [4, 5, 6]]
        copied = gpu.empty((2, 3), np.int32)
        gpu.copy(copied, memory.device, stream)
        stream.synchronize()
        np.testing.assert_array_equal(runtime.read(copied), memory.array)
        with pytest.raises(UsageError, match="mapped=True"):
            _ = gpu.host((1,), np.uint8).device
    runtime.assert_clean()


def test_a_device_that_reaches_no_host_memory_refuses_to_map() -> None:
    class Isolated(FakeRuntime):
        def cudaDeviceGetAttribute(self, attr: Any, device: int) -> Any:  # noqa: N802
            status, value = super().cudaDeviceGetAttribute(attr, device)
            return status, 0 if attr == self.cudaDeviceAttr.cudaDevAttrCanMapHostMemory else value

    with Gpu.open(runtime=Isolated()) as gpu:
        gpu.host((1,), np.uint8)
        with pytest.raises(BackendUnavailableError, match="cannot reach"):
            gpu.host((1,), np.uint8, mapped=True)


def test_events_tell_when_work_is_done_and_how_long_it_took() -> None:
    runtime = FakeRuntime(3)
    with Gpu.open(runtime=runtime) as gpu:
        stream = gpu.stream()
        start, end = gpu.event(timing=True), gpu.event(timing=True)
        ran = []
        assert end.done()
        start.record(stream)
        runtime.enqueue(stream.handle, lambda: ran.append(1))
        end.record(stream)
        assert not ran
        with pytest.raises(BackendError, match="not ready"):
            end.elapsed_ms(start)
        while not end.done():
            pass
        assert ran == [1]
        assert 0 < end.elapsed_ms(start) == -start.elapsed_ms(end)
        with pytest.raises(BackendError, match="timing=True"):
            end.elapsed_ms(gpu.event())
    runtime.assert_clean()


def test_a_graph_runs_what_was_captured_at_each_launch() -> None:
    runtime = FakeRuntime(1)
    with Gpu.open(runtime=runtime) as gpu:
        stream = gpu.stream()
        source, target = gpu.host((3,), np.uint8), gpu.host((3,), np.uint8)
        memory = gpu.zeros((3,), np.uint8)
        target.array[...] = 0

        def work() -> None:
            gpu.upload(memory, source.array, stream)
            gpu.download(target.array, memory, stream)

        graph = gpu.capture(stream, work)
        stream.synchronize()
        assert (target.array == 0).all()
        for value in (5, 9):
            source.array[...] = value
            graph.launch(stream)
            stream.synchronize()
            np.testing.assert_array_equal(target.array, [value] * 3)
        graph.close()
        with pytest.raises(BackendError, match="Graph is closed"):
            graph.launch(stream)
    runtime.assert_clean()


def test_a_capture_that_fails_leaves_the_stream_usable() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        stream, other, event = gpu.stream(), gpu.stream(), gpu.event()
        memory, source = gpu.zeros((3,), np.uint8), gpu.host((3,), np.uint8)

        def waits() -> None:
            gpu.upload(memory, source.array, stream)
            stream.synchronize()

        def hides() -> None:
            with pytest.raises(BackendError):
                stream.synchronize()

        def forgets_to_join() -> None:
            event.record(stream)
            other.wait(event)
            gpu.upload(memory, source.array, other)

        def stumbles() -> None:
            event.record(stream)
            other.wait(event)
            raise ZeroDivisionError

        with pytest.raises(BackendError, match=r"cudaStreamSynchronize failed: .*capturing"):
            gpu.capture(stream, waits)
        with pytest.raises(BackendError, match=r"cannot be captured.*previous error"):
            gpu.capture(stream, hides)
        with pytest.raises(BackendError, match=r"cannot be captured.*unjoined"):
            gpu.capture(stream, forgets_to_join)
        with pytest.raises(BackendError, match=r"cudaMalloc failed: .*capturing"):
            gpu.capture(stream, lambda: gpu.empty((1,), np.uint8).close())
        with pytest.raises(BackendError, match=r"cudaMemcpyAsync failed: .*capturing"):
            gpu.capture(stream, lambda: gpu.upload(memory, np.zeros(3, np.uint8), stream))
        with pytest.raises(ZeroDivisionError):
            gpu.capture(stream, stumbles)
        assert runtime.live() == {
            "memory": 1, "host memory": 1, "streams": 2, "events": 1
        }  # fmt: skip
        for used in (stream, other):
            source.array[...] += 1
            gpu.upload(memory, source.array, used)
            used.synchronize()
            np.testing.assert_array_equal(runtime.read(memory), source.array)
    runtime.assert_clean()


def test_a_capture_is_not_disturbed_by_other_threads() -> None:
    """Freeing memory waits for the device, which would spoil the capture."""
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        stream, doomed = gpu.stream(), gpu.zeros((3,), np.uint8)
        memory, source = gpu.zeros((3,), np.uint8), gpu.host((3,), np.uint8)
        waiting = threading.Thread(target=lambda: (gpu.make_current(), doomed.close()))

        def work() -> None:
            waiting.start()
            waiting.join(0.05)
            assert waiting.is_alive()
            gpu.upload(memory, source.array, stream)

        gpu.capture(stream, work)
        waiting.join(10)
        assert runtime.live()["memory"] == 1
    runtime.assert_clean()


@pytest.mark.parametrize("seed", range(8))
def test_closing_waits_for_work_that_uses_the_memory(seed: int) -> None:
    runtime = FakeRuntime(seed)
    with Gpu.open(runtime=runtime) as gpu:
        stream, source = gpu.stream(), gpu.host((100,), np.uint8)
        kept, memory = gpu.zeros((100,), np.uint8), gpu.empty((100,), np.uint8)
        source.array[...] = 4
        gpu.upload(memory, source.array, stream)
        gpu.copy(kept, memory, stream)
        memory.close()
        source.close()
        stream.close()
        np.testing.assert_array_equal(runtime.read(kept), np.full(100, 4, np.uint8))
    runtime.assert_clean()


def test_bare_pointers_can_be_copied() -> None:
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu:
        stream, memory = gpu.stream(), gpu.zeros((2, 2), np.uint8)
        values = np.array([[1, 2], [3, 4]], np.uint8)
        gpu.upload(DevicePointer(memory.address, (2, 2), np.uint8), values, stream.handle)
        stream.synchronize()
        np.testing.assert_array_equal(runtime.read(memory), values)


@pytest.mark.parametrize(
    "name", ["cudaMemsetAsync", "cudaStreamSynchronize", "cudaHostGetDevicePointer"]
)
def test_memory_that_cannot_be_made_ready_is_freed_at_once(name: str) -> None:
    runtime = FakeRuntime(fail={name: 1})
    with Gpu.open(runtime=runtime) as gpu:
        with pytest.raises(BackendError, match=f"{name} failed"):
            _ = (gpu.zeros((3,), np.uint8), gpu.host((3,), np.uint8, mapped=True))
        kept = 1 if name == "cudaHostGetDevicePointer" else 0
        assert sum(runtime.live().values()) == kept
    runtime.assert_clean()


def test_an_error_is_not_left_to_whoever_asks_next() -> None:
    """The run time keeps its last error, and other libraries ask it after a launch of theirs."""
    runtime = FakeRuntime(total_bytes=1)
    with Gpu.open(runtime=runtime) as gpu:
        assert runtime.cudaMalloc(2)[0] != 0
        assert runtime.cudaGetLastError()[0] != 0
        with pytest.raises(DeviceMemoryError):
            gpu.empty((2,), np.uint8)
        assert runtime.cudaGetLastError() == (0,)
