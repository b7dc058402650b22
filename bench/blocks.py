"""To which part of a model a layer of a compiled graph belongs, by the names of its ONNX nodes.

Exported nodes are called after their modules (``/backbone/blocks.3/attn/qkv/MatMul``), and
libraries keep those names in the names of their own layers: OpenVINO glues the names on both sides
of a layout change together, ONNX Runtime appends what it made of a node, TensorRT joins fused nodes
with ``+`` or gives the first and the last node of a region (``{ForeignNode[a...b]}``). A layer is
given to a block only if all nodes that its name names lie in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ATTENTION",
    "BLOCKS",
    "DECODER",
    "LAYOUT",
    "MLP",
    "OTHER",
    "PATCH_EMBED",
    "POSTPROCESSING",
    "PREPROCESSING",
    "SEVERAL",
    "block_of",
    "nodes_in",
]

PREPROCESSING = "preprocessing"
"""Of the frame, before the graph."""
PATCH_EMBED = "patch embed"
"""The convolution, and what makes tokens of its result."""
ATTENTION = "attention"
"""With its norm, its LayerScale and its residual sum."""
MLP = "MLP"
"""With its norm, its LayerScale and its residual sum."""
DECODER = "decoder"
"""What follows the last transformer block: norms and maps of the tapped tokens, head or probes."""
POSTPROCESSING = "post-processing"
"""The last resize in the graph, as products too, then fusion of views and read-out."""
LAYOUT = "layout and casts"
"""What a library inserts between layers and does not attribute to one."""
SEVERAL = "fused over several blocks"
OTHER = "other"

BLOCKS = (
    PREPROCESSING,
    PATCH_EMBED,
    ATTENTION,
    MLP,
    DECODER,
    POSTPROCESSING,
    SEVERAL,
    LAYOUT,
    OTHER,
)
"""All of them, in the order of the data."""

_RESIZES = frozenset({"resize", "upsample", "interpolate"})
_MOVES = frozenset(
    {
        "cast",
        "convert",
        "dequantizelinear",
        "memcpyfromhost",
        "memcpytohost",
        "permute",
        "quantizelinear",
        "reformat",
        "reorder",
        "reorderinput",
        "reorderoutput",
        "reshape",
        "transpose",
    }
)
"""Kinds, in lower case, of layers that move or convert and do not compute."""
# Such as ``image_QuantizeLinear`` and ``Reformatting CopyNode for Input Tensor 0 to image``.
_CONVERSION = re.compile(r"(^|_)(Cast|QuantizeLinear|DequantizeLinear)$|^Reformatting CopyNode ")

# ONNX Runtime joins a sum with the norm behind it, which as a rule opens another block, and gives
# the two a new name.
_JOINED = frozenset({"skiplayernormalization"})

# Not in the middle of a name, except where three dots end one.
_AFRESH = r"(?:(?<=\.\.\.)|(?<![A-Za-z0-9.]))"
_NODE = rf"{_AFRESH}/(?:views\.\d+/)?(?:(?:backbone|decoder|head|probes)/|[A-Z])"
_WEIGHT = rf"{_AFRESH}(?<!/)(?:backbone|decoder|head|probes)\."
_START = rf"(?:{_NODE}|{_WEIGHT})"
# A name runs on to the next one, to three dots, or to what cannot be part of one.
_MENTION = re.compile(rf"{_START}(?:(?!\.\.\.|{_NODE})[\w./-])*")
_VIEW = re.compile(r"/views\.(\d+)/")
_RANGE = re.compile(r"\[[^\[\]]*\.\.\.[^\[\]]*\]")

# A suffix tells the second of two nodes of a kind from the first; libraries append words of theirs.
_FIRST, _NOT_FIRST = r"(?!_\d)\w*", r"_\d\w*"
_RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.patch_embed\b", PATCH_EMBED),
    (r"backbone\.(prefix|cls_token|storage_tokens)", PATCH_EMBED),
    (rf"backbone\.(Reshape|Transpose|Concat|Pad|Add){_FIRST}$", PATCH_EMBED),
    (r"backbone\.(query|key)_(sine|cosine)", ATTENTION),
    (r"backbone\.blocks\.\d+\.(norm1|attn|gamma_1|ls1)", ATTENTION),
    # The last block drops tokens that nobody reads from its residual sum.
    (rf"backbone\.blocks\.\d+\.(Mul|Add|Slice){_FIRST}$", ATTENTION),
    (r"backbone\.blocks\.\d+\.(norm2|mlp|gamma_2|ls2)", MLP),
    (rf"backbone\.blocks\.\d+\.(Mul|Add){_NOT_FIRST}$", MLP),
    (r"backbone\.norm\b", DECODER),
    (r"backbone\.Slice", DECODER),
    (rf"backbone\.(Reshape|Transpose){_NOT_FIRST}$", DECODER),
    (r"(decoder|head)\.last\.", POSTPROCESSING),
    (r"(decoder|head|probes)\.", DECODER),
    (r"(Transpose|Reshape)", DECODER),
    (r"Resize", POSTPROCESSING),
)
_COMPILED = tuple((re.compile(pattern), block) for pattern, block in _RULES)
_TRANSFORMER_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.")


@dataclass(frozen=True)
class _Place:
    """Where a node stands: its block, and which of several views and transformer blocks."""

    block: str
    view: str
    index: str


def nodes_in(name: str) -> tuple[str, ...]:
    """The ONNX nodes and weights that a layer's name names, each once, in their order.

    Args:
        name: as a library calls a layer.
    """
    return tuple(dict.fromkeys(match.group().rstrip("./") for match in _MENTION.finditer(name)))


def block_of(name: str, kind: str = "", outputs: Sequence[str] = ()) -> str:
    """The block of a layer: one of ``BLOCKS``.

    Args:
        name: as the library calls it.
        kind: the library's word for what it does.
        outputs: names of the graph's outputs, since libraries call some layers after tensors.

    Returns:
        The block in which all named nodes lie; ``SEVERAL`` if they lie in several, or if the name
        gives the two ends of a region that leaves one transformer block; ``LAYOUT`` for conversions
        that the library does not attribute to one block; ``OTHER`` for what names no known node.
    """
    word = kind.rpartition(".")[2].lower()
    places = [_place(node) for node in nodes_in(name)]
    if not places:
        if word in _RESIZES and any(output in name for output in outputs):
            return POSTPROCESSING
        if name in outputs and word not in _MOVES:
            # OpenVINO calls a last product after its result: that of the last resize along x or y.
            return POSTPROCESSING
        if word in _JOINED:
            return SEVERAL
        return LAYOUT if word in _MOVES or _CONVERSION.search(name) else OTHER
    blocks = {place.block for place in places}
    if len(blocks) == 1 and not (_RANGE.search(name) and len(set(places)) > 1):
        return blocks.pop()
    return LAYOUT if word in _MOVES else SEVERAL


def _place(node: str) -> _Place:
    view = _VIEW.match(node)
    path = (node[view.end() :] if view else node.lstrip("/")).replace("/", ".")
    index = _TRANSFORMER_BLOCK.match(path)
    block = next((block for pattern, block in _COMPILED if pattern.match(path)), OTHER)
    return _Place(block, view[1] if view else "", index[1] if index else "")
