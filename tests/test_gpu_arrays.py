"""Arrays of other CUDA libraries, through ``__cuda_array_interface__`` and DLPack."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from cuda_double import FakeRuntime
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import InputError
from edgeseg.gpu import Gpu, as_device_array

Array = npt.NDArray[Any]
CUDA, CUDA_HOST, MANAGED, CPU, ROCM = 2, 3, 13, 1, 10
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NEW_CAPSULE = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))
CAPSULE_NAME = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)


class Producer:
    """A library that shares an array through DLPack, field by field as ``dlpack.h`` lays it out."""

    _shared: ClassVar[list[Producer]] = []
    """They outlive their capsules, as the contract is."""

    def __init__(
        self,
        values: Array,
        *,
        device: tuple[int, int] = (CUDA, 0),
        version: tuple[int, int] | None = (1, 0),
        flags: int = 0,
        offset_bytes: int = 0,
        strides: bool = True,
        understands_versions: bool = True,
        **wrong: Any,
    ) -> None:
        self.values = values
        self.device = device
        self.streams: list[Any] = []
        self.deleted = 0
        self.capsule: Any = None
        self._understands_versions = understands_versions
        rank = values.ndim
        fields = {
            "address": values.ctypes.data - offset_bytes,
            "rank": rank,
            "code": CODES[values.dtype.kind],
            "bits": 8 * values.dtype.itemsize,
            "lanes": 1,
            "shape": values.shape,
            "device": device,
            **wrong,
        }
        # The C structures, written with offsets of a 64-bit machine.
        self._shape = (ctypes.c_int64 * max(rank, 1))(*fields["shape"])
        steps = [stride // values.dtype.itemsize for stride in values.strides]
        self._strides = (ctypes.c_int64 * max(rank, 1))(*steps)
        tensor = b"".join(
            (
                np.array([fields["address"]], "<u8").tobytes(),
                np.array([*fields["device"], fields["rank"]], "<i4").tobytes(),
                np.array([fields["code"], fields["bits"]], "u1").tobytes(),
                np.array([fields["lanes"]], "<u2").tobytes(),
                np.array([ctypes.addressof(self._shape)], "<u8").tobytes(),
                np.array([ctypes.addressof(self._strides) if strides else 0], "<u8").tobytes(),
                np.array([offset_bytes], "<u8").tobytes(),
            )
        )
        assert len(tensor) == 48
        self._deleter = DELETER(self._delete)
        deleter = ctypes.cast(self._deleter, ctypes.c_void_p).value
        if version is None:
            whole = tensor + np.array([0, deleter], "<u8").tobytes()
            self.name = b"dltensor"
        else:
            head = np.array(version, "<u4").tobytes()
            whole = head + np.array([0, deleter, flags], "<u8").tobytes() + tensor
            self.name = b"dltensor_versioned"
        self._whole = ctypes.create_string_buffer(whole, len(whole))

    def _delete(self, address: int) -> None:
        assert address == ctypes.addressof(self._whole)
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: Any = None, **more: Any) -> Any:
        if more and not self._understands_versions:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        self._shared.append(self)
        self.capsule = NEW_CAPSULE(ctypes.addressof(self._whole), self.name, None)
        return self.capsule


class Interface:
    """A library that has ``__cuda_array_interface__`` alone."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = interface


def seen(array: Any) -> Array:
    """What a reader of the interface reads."""
    return np.array(SimpleNamespace(__array_interface__=array.__cuda_array_interface__))


@given(
    shape=st.lists(st.integers(1, 5), max_size=4),
    dtype=st.sampled_from(["u1", "i2", "i4", "i8", "f2", "f4", "f8", "u4", "?"]),
    version=st.sampled_from([None, (1, 0), (1, 3)]),
    step=st.sampled_from([1, 2, -1]),
    offset_bytes=st.sampled_from([0, 64]),
)
@settings(max_examples=80, deadline=None)
def test_a_capsule_is_read_as_its_producer_meant_it(
    shape: list[int],
    dtype: str,
    version: tuple[int, int] | None,
    step: int,
    offset_bytes: int,
) -> None:
    sides = [*shape[:-1], 2 * shape[-1]] if shape else []
    values = np.arange(int(np.prod(sides))).reshape(sides).astype(dtype)
    if shape:
        values = values[..., ::step]
    producer = Producer(values, version=version, offset_bytes=offset_bytes)
    taken = as_device_array(producer, 7)
    np.testing.assert_array_equal(seen(taken), values)
    interface = taken.__cuda_array_interface__
    assert interface["data"] == (values.ctypes.data, False)
    assert interface["typestr"] == values.dtype.str
    assert producer.streams == [7]
    assert CAPSULE_NAME(producer.capsule) == b"used_" + producer.name
    assert producer.deleted == 0
    del taken
    assert producer.deleted == 1


def test_without_strides_an_array_is_contiguous() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    taken = as_device_array(Producer(values, strides=False), 1)
    np.testing.assert_array_equal(seen(taken), values)


@pytest.mark.parametrize(
    ("kind", "stream", "told"),
    [(CUDA, 0, 1), (CUDA, 5, 5), (MANAGED, 0, 1), (CUDA_HOST, 5, None)],
)
def test_the_producer_is_told_which_stream_reads(kind: int, stream: int, told: int | None) -> None:
    producer = Producer(np.zeros(3, np.uint8), device=(kind, 0))
    as_device_array(producer, stream)
    assert producer.streams == [told]


def test_producers_from_before_dlpack_1_are_understood() -> None:
    producer = Producer(np.arange(3), version=None, understands_versions=False)
    np.testing.assert_array_equal(seen(as_device_array(producer, 3)), [0, 1, 2])
    assert producer.streams == [3]


def test_read_only_memory_stays_so() -> None:
    taken = as_device_array(Producer(np.zeros(3, np.uint8), flags=1), 1)
    assert taken.__cuda_array_interface__["data"][1] is True
    runtime = FakeRuntime()
    with Gpu.open(runtime=runtime) as gpu, pytest.raises(InputError, match="read-only"):
        gpu.upload(taken, np.zeros(3, np.uint8), gpu.stream())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": (CPU, 0)}, "device of DLPack type 1.*numpy"),
        ({"device": (ROCM, 0)}, "device of DLPack type 10"),
        ({"version": (2, 0)}, r"DLPack 2\.0 is not known"),
        ({"code": 4, "bits": 16}, "code 4 with 16 bits"),
        ({"code": 2, "bits": 8}, "code 2 with 8 bits"),
        ({"lanes": 4}, "4 lanes"),
        ({"rank": -1}, "-1 axes"),
        ({"rank": 1000}, "1000 axes"),
        ({"shape": (3, 0)}, "empty"),
        ({"shape": (3, -2)}, "empty"),
        ({"address": 0}, "empty"),
    ],
)
def test_what_cannot_be_read_is_refused_and_left_to_its_producer(
    wrong: dict[str, Any], message: str
) -> None:
    producer = Producer(np.zeros((3, 2), np.float32), **wrong)
    with pytest.raises(InputError, match=message):
        as_device_array(producer, 1)
    assert producer.deleted == 0
    if producer.capsule is not None:
        assert CAPSULE_NAME(producer.capsule) == producer.name


def test_a_capsule_on_another_device_than_announced_is_refused() -> None:
    producer = Producer(np.zeros(2, np.uint8), device=(CPU, 0))
    producer.device = (CUDA, 0)
    with pytest.raises(InputError, match="device type 1 is no memory"):
        as_device_array(producer, 1)


def test_a_used_capsule_is_refused() -> None:
    class Twice(Producer):
        def __dlpack__(self, **more: Any) -> Any:
            return self.capsule or super().__dlpack__(**more)

    producer = Twice(np.zeros(2, np.uint8))
    kept = as_device_array(producer, 1)
    with pytest.raises(InputError, match="used before"):
        as_device_array(producer, 1)
    del kept
    assert producer.deleted == 1


@pytest.mark.parametrize("value", [np.zeros(3, np.uint8), [1, 2], None, Producer])
def test_what_lies_in_host_memory_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"numpy array|expected an array in device memory"):
        as_device_array(value, 1)


def test_tensors_of_torch_in_host_memory_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="DLPack type 1"):
        as_device_array(torch.zeros(3), 1)
    with pytest.raises(InputError, match=r"does not show its memory|DLPack type 1"):
        as_device_array(torch.zeros(3, requires_grad=True), 1)


def test_an_interface_is_taken_as_it_is() -> None:
    runtime = FakeRuntime()
    array = runtime.array(np.zeros((2, 3), np.uint8))
    with Gpu.open(runtime=runtime) as gpu:
        assert gpu.adopt(array, gpu.stream()) is array
        memory = gpu.empty((2,), np.uint8)
        assert gpu.adopt(memory, gpu.stream()) is memory
        assert gpu.adopt(gpu.host((2,), np.uint8, mapped=True).device, gpu.stream())
    assert "cudaStreamWaitEvent" not in runtime.calls
    runtime.assert_clean()


@pytest.mark.parametrize("says", [True, False])
def test_the_reader_waits_for_the_stream_that_the_interface_names(says: bool) -> None:
    """What another library still computes is read when it is done."""
    right = []
    for seed in range(20):
        runtime = FakeRuntime(seed)
        array = runtime.array(np.zeros(8, np.uint8))
        with Gpu.open(runtime=runtime) as gpu:
            producer, reader, result = gpu.stream(), gpu.stream(), gpu.host((8,), np.uint8)
            runtime.enqueue(producer.handle, lambda a=array: a.values.fill(5))  # type: ignore[misc]
            interface = dict(array.__cuda_array_interface__, version=3)
            interface["stream"] = producer.handle if says else None
            taken = gpu.adopt(Interface(interface), reader)
            gpu.download(result.array, taken, reader)
            reader.synchronize()
            right.append(bool((result.array == 5).all()))
        runtime.assert_clean()
    assert all(right) if says else not all(right)


@pytest.mark.parametrize("named", [0, "default", -1.5])
def test_a_stream_that_is_none_is_refused(named: object) -> None:
    runtime = FakeRuntime()
    interface = dict(runtime.array(np.zeros(3)).__cuda_array_interface__, version=3, stream=named)
    with pytest.raises(InputError, match="as its stream"):
        as_device_array(Interface(interface), 5, runtime=runtime)


def test_libraries_that_name_no_stream_are_asked_through_dlpack() -> None:
    """As torch, whose interface is of version 2: DLPack lets it order its work."""

    class Both(Producer):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return dict(self.values.__array_interface__, version=2)

    producer = Both(np.arange(4))
    np.testing.assert_array_equal(seen(as_device_array(producer, 9)), producer.values)
    assert producer.streams == [9]


def test_memory_of_another_device_is_refused() -> None:
    runtime = FakeRuntime(devices=2)
    array = runtime.array(np.zeros(4, np.uint8), device=1)
    with Gpu.open(0, runtime) as gpu:
        with pytest.raises(InputError, match=r"lies on CUDA device 1, but device 0"):
            gpu.adopt(array, gpu.stream())
        host = Interface(dict(np.zeros(3).__array_interface__))
        with pytest.raises(InputError, match="none that a CUDA device can reach"):
            gpu.adopt(host, gpu.stream())
        with pytest.raises(InputError, match="__cuda_array_interface__"):
            gpu.adopt(Interface({"version": 3, "shape": (3,)}), gpu.stream())
    with Gpu.open(1, runtime) as gpu:
        assert gpu.adopt(array, gpu.stream()) is array
