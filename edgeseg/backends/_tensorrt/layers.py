"""What the compiled layers are, as TensorRT's engine inspector tells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["LayerDetail", "describe_layers", "layer_information", "uses_dla"]

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class LayerDetail:
    """One layer of an engine."""

    name: str
    kind: str
    """TensorRT's word, such as ``gemm`` or ``Reformat``; empty where the plan does not hold it."""
    nodes: tuple[str, ...]
    """Names of the ONNX nodes it computes, as far as TensorRT tells."""

    @property
    def label(self) -> str:
        """The name, followed by those ONNX nodes that it does not mention."""
        # Whole names: ``/blocks.0/Mul_1`` does not mention ``/blocks.0/Mul``. Myelin appends words.
        missing = [
            node
            for node in self.nodes
            if not re.search(rf"(?<![\w/]){re.escape(node)}(?=_myl|[^\w/]|$)", self.name)
        ]
        return f"{self.name} [{', '.join(missing)}]" if missing else self.name


def layer_information(lib: Any, engine: trt.ICudaEngine) -> dict[str, Any]:
    """The inspector's report: ``Layers``, and ``Bindings`` where TensorRT lists them.

    A report that is no JSON is returned whole under ``Text``, with ``Layers`` empty.
    """
    inspector: trt.EngineInspector = engine.create_engine_inspector()
    text = str(inspector.get_engine_information(lib.LayerInformationFormat.JSON))
    try:
        report = json.loads(text)
    except ValueError:
        return {"Layers": [], "Text": text}
    if not isinstance(report, dict) or not isinstance(report.get("Layers"), list):
        return {"Layers": [], "Text": text}
    return report


def describe_layers(report: Mapping[str, Any]) -> tuple[LayerDetail, ...]:
    """The layers of a report in the order in which they run."""
    return tuple(_detail(entry) for entry in report["Layers"])


def _detail(entry: object) -> LayerDetail:
    if not isinstance(entry, dict):  # a plan without details lists bare names
        return LayerDetail(str(entry), "", ())
    nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(str(entry.get("Metadata", "")))))
    return LayerDetail(str(entry.get("Name", "")), str(entry.get("LayerType", "")), nodes)


def uses_dla(layers: tuple[LayerDetail, ...]) -> bool:
    """Whether a layer runs on a DLA core, whose work no CUDA graph can hold.

    TensorRT copies what a DLA core reads and writes in layers named after that memory.
    """
    return any(
        "DLA" in layer.kind or layer.name.endswith((" to nvm", " from nvm")) for layer in layers
    )
