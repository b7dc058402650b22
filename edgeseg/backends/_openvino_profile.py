"""Times of the layers of an OpenVINO model, by its performance counters."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from edgeseg.backends.base import Array, LayerTime

__all__ = ["measure", "name_parts"]

_MODELS = 5
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
    compile_model: Callable[[], Any], inputs: Mapping[str, Array], rounds: int, *, cumulative: bool
) -> tuple[LayerTime, ...]:
    """Median times of the layers that run, in their order.

    The CPU's counters hold, in whole microseconds, the mean over all runs since the model was
    compiled. So a few models are compiled in turn, the mean over a share of the rounds is taken
    from each by what its counters say before and after, and the medians are over those means.
    Layers of less than a microsecond are left out: the library says that they did not run.

    Args:
        compile_model: compiles the model anew, with ``PERF_COUNT``.
        inputs: for all inputs.
        rounds: runs that count.
        cumulative: whether counters hold such means; otherwise those of the last run.
    """
    times: dict[tuple[int, str], list[float]] = {}
    kinds: dict[tuple[int, str], str] = {}
    names: dict[str, str] = {}

    def run(request: Any) -> dict[tuple[int, str], float]:
        request.infer(inputs, share_inputs=True)
        found = {}
        for place, layer in enumerate(request.profiling_info):
            if layer.status.name == "EXECUTED":
                key = (place, str(layer.node_name))
                found[key] = 1e3 * layer.real_time.total_seconds()
                kinds[key] = str(layer.node_type)
        return found

    for share in _shares(rounds) if cumulative else (rounds,):
        compiled = compile_model()
        names.update(_fused_names(compiled))
        request = compiled.create_infer_request()
        warm = run(request)
        counted = [run(request) for _ in range(share)]
        if cumulative:
            last = counted[-1]
            counted = [{k: ((share + 1) * ms - warm.get(k, 0.0)) / share for k, ms in last.items()}]
        for found in counted:
            for key, ms in found.items():
                times.setdefault(key, []).append(max(ms, 0.0))
    return tuple(
        LayerTime(names.get(key[1], key[1]), kinds[key], statistics.median(times[key]))
        for key in sorted(times)
    )


def _shares(rounds: int) -> tuple[int, ...]:
    """The rounds in up to five parts, the larger ones first."""
    parts = min(_MODELS, rounds)
    return tuple(rounds // parts + (part < rounds % parts) for part in range(parts))


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
