"""An engine of host arrays as one that works on a stream of a ``FakeRuntime``."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_double import FakeRuntime

from edgeseg.backends.base import Engine
from edgeseg.errors import BackendError
from edgeseg.kernels.cuda import DeviceArray


class StreamDouble(Engine):
    """Computes with ``engine`` when the runtime gets to it, from and into device memory."""

    def __init__(
        self, runtime: FakeRuntime, engine: Engine, *, capturable: bool = True, fail: int = 0
    ) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.info)
        self.capturable = capturable
        self.enqueued = 0
        self.ran = 0
        self._runtime = runtime
        self._engine = engine
        self._fail = fail
        """The call of ``enqueue``, from 1 on, that is refused."""

    def enqueue(self, tensors: Mapping[str, DeviceArray], stream: int) -> None:
        self.enqueued += 1
        if self.enqueued == self._fail:
            raise BackendError("the double refuses this call")
        arrays = {name: _as_numpy(tensor) for name, tensor in tensors.items()}

        def run() -> None:
            self.ran += 1
            answers = self._engine.infer({s.name: arrays[s.name].copy() for s in self.inputs})
            for name, answer in answers.items():
                arrays[name][...] = answer

        touches = [(a.ctypes.data, a.nbytes) for a in arrays.values()]
        status = self._runtime.enqueue(stream, run, touches)
        if status != 0:
            raise BackendError(f"the stream refuses the double's work: {status}")

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self._engine.infer(inputs)

    def _close(self) -> None:
        self._engine.close()


def _as_numpy(array: DeviceArray) -> np.ndarray:
    interface = {**array.__cuda_array_interface__, "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=interface))
