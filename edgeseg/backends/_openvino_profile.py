"""Times of the layers of an OpenVINO model, by its performance counters."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

from edgeseg.backends.base import Array, LayerTime

__all__ = ["measure", "name_parts"]

_GENERATED = re.compile(r"\w+_\d+")


def name_parts(model: Any) -> None:
    """Name what an ONNX node was taken apart into after that node, in place.

    OpenVINO gives the node's name to the last operation of several, and numbers the others
    (``MVN_29``), so that their times could not be attributed. An operation without a name belongs
    to the node that its results lead to, if that is one.

    Args:
        model: an ``openvino.Model`` as read, before it is compiled.
    """
    owners: dict[str, set[str]] = {}
    for operation in reversed(list(model.get_ordered_ops())):
        name = operation.get_friendly_name()
        if name != operation.get_name():
            owners[operation.get_name()] = {name}
            continue
        readers = (
            target.get_node() for port in operation.outputs() for target in port.get_target_inputs()
        )
        found = {owner for reader in readers for owner in owners[reader.get_name()]}
        owners[operation.get_name()] = found
        if len(found) == 1 and operation.get_type_name() != "Constant":
            operation.set_friendly_name(f"{next(iter(found))}/{name}")


def measure(
    compiled: Any, request: Any, inputs: Mapping[str, Array], rounds: int
) -> tuple[LayerTime, ...]:
    """Median times of the layers that run, in their order.

    Args:
        compiled: the ``CompiledModel``, compiled with ``PERF_COUNT``.
        request: of it.
        inputs: for all inputs.
        rounds: runs that count; one goes ahead.
    """
    fused = _fused_names(compiled)
    times: dict[tuple[int, str], list[float]] = {}
    kinds: dict[tuple[int, str], str] = {}
    for turn in range(rounds + 1):
        request.infer(inputs, share_inputs=True)
        if turn == 0:
            continue
        for place, layer in enumerate(request.profiling_info):
            if layer.status.name != "EXECUTED":
                continue
            key = (place, layer.node_name)
            times.setdefault(key, []).append(1e3 * layer.real_time.total_seconds())
            kinds[key] = layer.node_type
    return tuple(
        LayerTime(fused.get(key[1], key[1]), kinds[key], statistics.median(values))
        for key, values in times.items()
    )


def _fused_names(compiled: Any) -> dict[str, str]:
    """The name of each layer with the operations that were fused into it."""
    names: dict[str, str] = {}
    for layer in compiled.get_runtime_model().get_ordered_ops():
        own = layer.get_friendly_name()
        notes = layer.get_rt_info()
        originals = ""
        if "originalLayersNames" in notes:
            originals = str(notes["originalLayersNames"].astype(str))
        parts = [part for part in originals.split(",") if part and part != own]
        # Numbers say nothing beside names.
        told = [part for part in parts if not _GENERATED.fullmatch(part)]
        names[own] = " + ".join((own, *told))
    return names
