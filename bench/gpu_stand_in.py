"""A torch module in the place of a TensorRT plan, for checking and timing everything around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from edgeseg.backends.base import StreamEngine
from edgeseg.kernels.cuda import DeviceArray
from edgeseg.spec import TensorSpec

__all__ = ["Answer", "TorchEngine", "answering", "empty_outputs"]

Answer = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""From an engine's inputs to its outputs, in the host's memory."""


class TorchEngine:
    """A torch module as a ``StreamEngine``: what TensorRT would be, for measuring the rest.

    Its memory comes from a pool of its own, filled by the calls before a capture, so that a graph
    never shares memory with what torch does elsewhere.
    """

    capturable = True

    def __init__(
        self,
        torch: Any,
        module: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._torch = torch
        self._module = module
        self._dtype = next(module.parameters()).dtype
        self._pool = torch.cuda.MemPool()
        self._streams: dict[int, Any] = {}
        self._seen: dict[tuple[Any, ...], Any] = {}

    def enqueue(self, tensors: Mapping[str, DeviceArray], stream: int) -> None:
        """One run of the module on ``stream``; see ``StreamEngine``."""
        torch = self._torch
        if stream not in self._streams:
            self._streams[stream] = torch.cuda.ExternalStream(stream)
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._streams[stream]),
            torch.cuda.use_mem_pool(self._pool),
        ):
            given = [self._tensor(tensors[port.name]) for port in self.inputs]
            answers = self._module(*(tensor.to(self._dtype) for tensor in given))
            if len(self.outputs) == 1 and not isinstance(answers, tuple):
                answers = (answers,)
            for port, answer in zip(self.outputs, answers, strict=True):
                self._tensor(tensors[port.name]).copy_(answer)

    def _tensor(self, array: DeviceArray) -> Any:
        """``array`` as torch sees it; made once an array, before any capture.

        Torch asks the driver whose memory it is, which a capture need not allow.
        """
        interface = array.__cuda_array_interface__
        key = (interface["data"][0], interface["shape"], interface["typestr"])
        if key not in self._seen:
            self._seen[key] = self._torch.as_tensor(array, device="cuda")
        return self._seen[key]


def answering(torch: Any, engine: StreamEngine) -> Answer:
    """An engine on the device as a function of arrays on the host."""
    stream = torch.cuda.Stream()

    def answer(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        given = {name: torch.from_numpy(tensor).cuda() for name, tensor in tensors.items()}
        answers = empty_outputs(torch, engine)
        torch.cuda.synchronize()
        engine.enqueue({**given, **answers}, stream.cuda_stream)
        torch.cuda.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in answers.items()}

    return answer


def empty_outputs(torch: Any, engine: StreamEngine) -> dict[str, Any]:
    """Memory on the device for an engine's outputs, by name."""
    return {
        port.name: torch.empty(port.shape, dtype=getattr(torch, port.dtype), device="cuda")
        for port in engine.outputs
    }
