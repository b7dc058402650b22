"""A stand-in for the module ``tensorrt`` that needs neither a GPU nor TensorRT.

It has the names of one version of the bindings that edgeseg uses, with that version's numbers of
enum members, and no others. A plan names the ONNX file it was built from; an engine runs it with
another library, on a stream of the CUDA stand-in, whose memory is that of the host. What the real
library leaves undefined is reported: ``complaints`` lists what must not happen, ``alive`` what was
not freed.
"""

from __future__ import annotations

import enum
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorrt_double_build as build_side
import tensorrt_double_run as run_side

from edgeseg.backends import EngineOptions, open_engine
from edgeseg.backends.base import Engine

VERSIONS = ("10.3.0", "10.13.3", "10.16.1", "11.4.0")


@dataclass
class Faults:
    """What is to go wrong; a text is what the library logs about it."""

    builder_start: str = ""
    runtime_start: str = ""
    build: str = ""
    build_note: str = ""
    """Logged as an error by a build that succeeds."""
    deserialize: str = ""
    context: str = ""
    address: str = ""
    execute: dict[int, str] = field(default_factory=dict)
    """By the number of the call, from 1 on, of all contexts."""
    unsupported: tuple[str, ...] = ()
    """ONNX operators that the parser does not know."""
    invalid: tuple[str, ...] = ()
    """Names of nodes that the parser cannot read."""
    parse_silent: bool = False
    """The parser fails and lists no error."""
    timing_cache: bool = False
    """None is accepted."""
    inspector: str | None = None
    """What the inspector says instead."""
    on_step: Callable[[], None] | None = None
    """Called in each step of a build."""


class FakeTensorRt:
    """The module. Classes and enums are its attributes, as in the real one."""

    def __init__(
        self,
        version: str,
        runtime: Any | None,
        compute: Callable[[Path], Engine],
        *,
        dla_cores: int = 0,
        device: str = "a stand-in",
    ) -> None:
        self.__version__ = version
        self.faults = Faults()
        self.complaints: list[str] = []
        self.timed_layers: list[str] = []
        """Names of the layers whose kernels builds had to time."""
        self.builds: list[dict[str, Any]] = []
        """What each build was asked for."""
        self._cuda = runtime
        self._compute = compute
        self._dla_cores = dla_cores
        self._device = device
        self._executions = 0
        self._serialized: Any = None
        self._objects: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        for name, members in _enums(int(version.split(".", maxsplit=1)[0])).items():
            setattr(self, name, _Enum(name, members))
        for side in (build_side, run_side):
            for cls in side.CLASSES:
                body = {"__slots__": ("__weakref__",), "_lib": self}
                setattr(self, cls.__name__, type(cls.__name__, (cls,), body))
        self.ILogger.Severity = _Enum("Severity", _SEVERITIES)

    def alive(self) -> Counter[str]:
        """How many objects there are of each class that holds memory."""
        return Counter(type(one).__name__ for one in self._objects)


class _Member(enum.Enum):
    """As pybind11's: an integer only for those who ask, equal to nothing but itself."""

    def __int__(self) -> int:
        return int(self.value)

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def _Enum(name: str, members: dict[str, int]) -> Any:  # noqa: N802 - it makes a class
    return _Member(name, members)


_SEVERITIES = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}


def _enums(major: int) -> dict[str, dict[str, int]]:
    """Enums of a version. 11 removed members, and gave the others new numbers."""
    old = major < 11
    return {
        "BuilderFlag": {"GPU_FALLBACK": 3, "TF32": 6, "FP16": 0, "INT8": 1}
        if old
        else {"GPU_FALLBACK": 3, "TF32": 6},
        "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        if old
        else {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1, "PREFER_AOT_PYTHON_PLUGINS": 2},
        "MemoryPoolType": {"WORKSPACE": 0},
        "DeviceType": {"GPU": 0, "DLA": 1},
        "ProfilingVerbosity": {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2},
        "LayerInformationFormat": {"ONELINE": 0, "JSON": 1},
        "TensorIOMode": {"NONE": 0, "INPUT": 1, "OUTPUT": 2},
        "TensorLocation": {"DEVICE": 0, "HOST": 1},
        "TensorFormat": {"LINEAR": 0, "CHW4": 3},
        "DataType": {
            "FLOAT": 0,
            "HALF": 1,
            "INT8": 2,
            "INT32": 3,
            "BOOL": 4,
            "UINT8": 5,
            "FP8": 6,
            "BF16": 7,
            "INT64": 8,
        },
        "ErrorCode": {"SUCCESS": 0, "INVALID_GRAPH": 5, "INVALID_NODE": 6, "UNSUPPORTED_NODE": 8},
    }


def tensorrt_double(
    version: str = "10.3.0",
    runtime: Any | None = None,
    *,
    compute: Callable[[Path], Engine] | None = None,
    dla_cores: int = 0,
    device: str = "a stand-in",
) -> Any:
    """A stand-in for the module of one of ``VERSIONS``.

    Args:
        version: of the bindings.
        runtime: the ``FakeRuntime`` whose streams engines work on; None where nothing is run.
        compute: opens the ONNX file that a plan names; None does so with OpenVINO.
        dla_cores: of the device.
        device: its name, which plans and timing caches are bound to.
    """
    return FakeTensorRt(version, runtime, compute or _openvino, dla_cores=dla_cores, device=device)


def _openvino(path: Path) -> Engine:
    """OpenVINO's engine for a file; those of small ones are kept, as tests write the same ones."""
    data = path.read_bytes()
    if len(data) > _SMALL_BYTES:
        return open_engine(path, "openvino", EngineOptions(threads=1))
    if data not in _opened:
        _opened[data] = open_engine(path, "openvino", EngineOptions(threads=1))
    return _opened[data]


_SMALL_BYTES = 1 << 14
_opened: dict[bytes, Engine] = {}
