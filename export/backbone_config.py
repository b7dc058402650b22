"""The DINOv3 vision transformer as its keys and shapes tell it; no torch here.

Two spellings of the same weights exist: Meta's (``storage_tokens``, ``blocks.N.ls1.gamma``,
``rope_embed.periods``, https://github.com/facebookresearch/dinov3) and timm's (``reg_token``,
``blocks.N.gamma_1``, timm.models.eva).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeseg.errors import CheckpointShapeError
from edgeseg.export.shapes import Shapes, count_children, dimensions

__all__ = [
    "BackboneConfig",
    "Spelling",
    "backbone_shapes",
    "optional_keys",
    "read_backbone_config",
    "spelling_of",
    "tap_indices",
]

Spelling = Literal["meta", "timm"]

PATCH_PX = 16
_HEAD_WIDTH = 64
_LARGE_DEPTH = 24
_LARGE_TAPS = (4, 11, 17, 23)
_MIN_DEPTH = 4


@dataclass(frozen=True)
class BackboneConfig:
    """Everything that the code of a DINOv3 ViT leaves open."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    """Hidden width of the MLP (of each half of it when gated)."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    registers: int = 4
    """Register ("storage") tokens between the class token and the patch tokens."""
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise CheckpointShapeError(
                f"a width of {self.width} cannot be shared by {self.heads} heads, each a "
                "multiple of 4 wide"
            )
        if self.depth < _MIN_DEPTH:
            raise CheckpointShapeError(
                f"the backbone has {self.depth} blocks; the heads tap four different ones"
            )

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens: one class token, then the registers."""
        return 1 + self.registers


def tap_indices(depth: int) -> tuple[int, int, int, int]:
    """The blocks whose outputs the heads read, as the authors chose them for 12 and 24 blocks.

    Other depths take the last block of each quarter, which is what the choice for 12 does too.
    """
    if depth == _LARGE_DEPTH:
        return _LARGE_TAPS
    first, second, third, fourth = (depth * (i + 1) // 4 - 1 for i in range(4))
    return first, second, third, fourth


def spelling_of(shapes: Shapes, prefix: str = "backbone.") -> Spelling:
    """Whose names the backbone's keys, which begin with ``prefix``, are.

    Raises:
        CheckpointShapeError: neither ``storage_tokens`` nor ``reg_token`` is there.
    """
    if prefix + "storage_tokens" in shapes:
        return "meta"
    if prefix + "reg_token" in shapes:
        return "timm"
    raise CheckpointShapeError(
        f"the checkpoint has neither '{prefix}storage_tokens' (Meta's spelling) nor "
        f"'{prefix}reg_token' (timm's): its backbone is not a DINOv3 ViT"
    )


def read_backbone_config(shapes: Shapes, prefix: str = "backbone.") -> BackboneConfig:
    """Read the hyper-parameters off a backbone's keys, which begin with ``prefix``, and shapes.

    Heads: width / (4 x number of ``rope_embed.periods``), or width / 64 where timm's spelling
    leaves the periods out.

    Raises:
        CheckpointShapeError: a key is missing, or shapes contradict each other.
    """
    meta = spelling_of(shapes, prefix) == "meta"
    patches = f"{prefix}patch_embed.proj.weight"
    width, *_ = dimensions(shapes, patches, (None, 3, PATCH_PX, PATCH_PX))
    depth = count_children(shapes, f"{prefix}blocks.")
    tokens = f"{prefix}storage_tokens" if meta else f"{prefix}reg_token"
    _, registers, _ = dimensions(shapes, tokens, (1, None, width))
    head_width = _HEAD_WIDTH
    periods = f"{prefix}rope_embed.periods"
    if periods in shapes:
        head_width = 4 * dimensions(shapes, periods, (None,))[0]
    if width % head_width:
        source = (
            f"{periods!r} has shape {shapes[periods]}" if periods in shapes else f"no {periods!r}"
        )
        raise CheckpointShapeError(
            f"{source}, so heads are {head_width} wide, which does not divide the width {width} "
            f"of {patches!r}"
        )
    block = f"{prefix}blocks.0."
    gated = f"{block}mlp.w1.weight" if meta else f"{block}mlp.fc1_g.weight"
    plain = f"{block}mlp.fc1.weight"
    mlp_width, _ = dimensions(shapes, gated if gated in shapes else plain, (None, width))
    bias = f"{block}attn.qkv.bias" if meta else f"{block}attn.q_bias"
    return BackboneConfig(
        width=width,
        depth=depth,
        heads=width // head_width,
        mlp_width=mlp_width,
        mlp="swiglu" if gated in shapes else "gelu",
        registers=registers,
        qkv_bias=bias in shapes,
    )


def backbone_shapes(config: BackboneConfig, spelling: Spelling) -> dict[str, tuple[int, ...]]:
    """Every key that a backbone of this configuration may hold in this spelling, with its shape."""
    width, meta = config.width, spelling == "meta"
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "storage_tokens" if meta else "reg_token": (1, config.registers, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, PATCH_PX, PATCH_PX),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if meta:
        shapes["rope_embed.periods"] = (config.head_width // 4,)
    for index in range(config.depth):
        block = _block_shapes(config, meta=meta)
        shapes |= {f"blocks.{index}.{key}": shape for key, shape in block.items()}
    return shapes


def optional_keys(shapes: Shapes) -> frozenset[str]:
    """Keys that a checkpoint may leave out: without effect here, or with a known default."""
    return frozenset(
        key
        for key in shapes
        if key.endswith(("mask_token", "rope_embed.periods", "attn.qkv.bias_mask"))
    )


def _block_shapes(config: BackboneConfig, *, meta: bool) -> dict[str, tuple[int, ...]]:
    width, hidden = config.width, config.mlp_width
    shapes: dict[str, tuple[int, ...]] = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "ls1.gamma" if meta else "gamma_1": (width,),
        "ls2.gamma" if meta else "gamma_2": (width,),
    }
    if config.qkv_bias and meta:
        shapes |= {"attn.qkv.bias": (3 * width,), "attn.qkv.bias_mask": (3 * width,)}
    elif config.qkv_bias:
        shapes |= {"attn.q_bias": (width,), "attn.v_bias": (width,)}
    *up, down = _mlp_layers(config.mlp, meta=meta)
    for name in up:
        shapes |= {f"mlp.{name}.weight": (hidden, width), f"mlp.{name}.bias": (hidden,)}
    return shapes | {f"mlp.{down}.weight": (width, hidden), f"mlp.{down}.bias": (width,)}


def _mlp_layers(mlp: str, *, meta: bool) -> tuple[str, ...]:
    """The names of the layers into the hidden width, then of the one out of it."""
    if mlp == "gelu":
        return ("fc1", "fc2")
    return ("w1", "w2", "w3") if meta else ("fc1_g", "fc1_x", "fc2")
