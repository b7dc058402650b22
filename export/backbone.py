"""The DINOv3 ViT in torch: timm's implementation, loaded through timm's own checkpoint filter.

timm's ``vit_*_patch16_dinov3_qkvb`` reproduces Meta's code exactly; any size is reached by
keyword arguments to one variant. The plain ``*_dinov3`` variants drop the qkv bias, which trained
checkpoints may have.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeseg.errors import InputError
from edgeseg.export.backbone_config import (
    PATCH_PX,
    BackboneConfig,
    tap_indices,
)

__all__ = ["Dinov3Backbone", "meta_state_dict"]

_VARIANT = "vit_small_patch16_dinov3_qkvb"


class Dinov3Backbone(nn.Module):
    """The transformer, giving the features of some of its blocks.

    As Meta's ``get_intermediate_layers``: the output of each tapped block passes the final norm,
    and only its patch tokens are returned. Parameter names are timm's, without prefix.

    Args:
        config: the hyper-parameters.
        taps: indices of the tapped blocks, ascending; the four of SegDINO by default.
    """

    def __init__(self, config: BackboneConfig, taps: tuple[int, ...] | None = None) -> None:
        super().__init__()
        import timm

        vit = timm.create_model(
            _VARIANT,
            pretrained=False,
            num_classes=0,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            # timm truncates width * ratio; the half keeps rounding errors away from the boundary.
            mlp_ratio=(config.mlp_width + 0.5) / config.width,
            swiglu_mlp=config.mlp == "swiglu",
            swiglu_align_to=1,
            num_reg_tokens=config.registers,
            qkv_bias=config.qkv_bias,
        )
        self.config = config
        self.taps = tap_indices(config.depth) if taps is None else taps
        self.cls_token = vit.cls_token
        self.reg_token = vit.reg_token
        self.patch_embed = vit.patch_embed
        self.rope = vit.rope
        self.blocks = vit.blocks
        self.norm = vit.norm

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the tapped features.

        Args:
            image: (N, 3, H, W) float32, normalised; H and W multiples of 16.

        Returns:
            One (N, width, H/16, W/16) map for each of ``self.taps``.

        Raises:
            InputError: H or W is not a multiple of 16.
        """
        rows, columns = (side_px // PATCH_PX for side_px in image.shape[-2:])
        return tuple(
            tapped.transpose(1, 2).reshape(len(tapped), -1, rows, columns)
            for tapped in self.tokens(image)
        )

    def tokens(self, image: Tensor) -> tuple[Tensor, ...]:
        """The same features as `forward`'s, as tokens in the order of rows.

        Returns:
            One (N, H/16 * W/16, width) for each of ``self.taps``.

        Raises:
            InputError: H or W is not a multiple of 16.
        """
        height_px, width_px = image.shape[-2:]
        if height_px % PATCH_PX or width_px % PATCH_PX:
            raise InputError(
                f"the image is {height_px}x{width_px}; both must be multiples of {PATCH_PX}"
            )
        patches = self.patch_embed.proj(image)
        rows, columns = patches.shape[-2:]
        prefix = torch.cat((self.cls_token, self.reg_token), dim=1).expand(len(patches), -1, -1)
        tokens = torch.cat((prefix, patches.flatten(2).transpose(1, 2)), dim=1)
        rope = self.rope.get_embed(shape=(rows, columns))
        tapped = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, rope=rope)
            if index in self.taps:
                tapped.append(self.norm(tokens[:, self.config.prefix_tokens :]))
        return tuple(tapped)

    def load_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a backbone's state dict (no prefix), in Meta's or timm's spelling.

        timm's filter drops the key bias and the RoPE periods. Both are taken from the checkpoint
        here where it has them: Meta multiplies the bias by ``bias_mask`` (which is zero for keys in
        every released model), and released periods are rounded to bfloat16.
        """
        from timm.models.eva import checkpoint_filter_fn

        # Of no use here, and timm's filter takes it for the sign of another architecture.
        weights = {key: value.float() for key, value in state.items() if key != "mask_token"}
        if "storage_tokens" in weights:
            weights = {key: _masked(key, value, weights) for key, value in weights.items()}
        self.load_state_dict(checkpoint_filter_fn(dict(weights), self), strict=True)
        with torch.no_grad():
            if (periods := weights.get("rope_embed.periods")) is not None:
                self.rope.periods.copy_(periods)
            for index, block in enumerate(self.blocks):
                bias = weights.get(f"blocks.{index}.attn.qkv.bias")
                if bias is not None:
                    block.attn.k_bias.copy_(bias.chunk(3)[1])


def meta_state_dict(backbone: Dinov3Backbone) -> dict[str, Tensor]:
    """The backbone's weights in Meta's spelling: how the authors' training scripts save it.

    Returns:
        Detached tensors on the CPU, named without prefix.
    """
    config = backbone.config
    state = {key: value.detach().cpu() for key, value in backbone.state_dict().items()}
    saved = {
        "cls_token": state["cls_token"],
        "storage_tokens": state["reg_token"],
        "mask_token": torch.zeros(1, config.width),
        "rope_embed.periods": backbone.rope.periods.detach().cpu().clone(),
    }
    mask = torch.ones(3 * config.width)
    mask[config.width : 2 * config.width] = 0
    for key, value in state.items():
        if key in ("cls_token", "reg_token") or key.endswith("v_bias"):
            continue
        if key.endswith("attn.q_bias"):
            block = key.removesuffix("attn.q_bias")
            keys = backbone.get_buffer(f"{block}attn.k_bias").detach().cpu()
            saved[f"{block}attn.qkv.bias"] = torch.cat((value, keys, state[f"{block}attn.v_bias"]))
            saved[f"{block}attn.qkv.bias_mask"] = (
                torch.ones_like(mask) if keys.any() else mask.clone()
            )
        else:
            saved[_meta_name(key, gated=config.mlp == "swiglu")] = value
    return saved


def _meta_name(key: str, *, gated: bool) -> str:
    key = key.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")
    if gated:
        key = (
            key.replace("mlp.fc1_g", "mlp.w1")
            .replace("mlp.fc1_x", "mlp.w2")
            .replace("mlp.fc2", "mlp.w3")
        )
    return key


def _masked(key: str, value: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    mask = weights.get(key + "_mask")
    return value if mask is None else value * mask
