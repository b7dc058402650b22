"""What one would write in torch instead of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgeseg.spec import Flip

__all__ = ["blend", "decision", "fusion", "resize"]


def fusion(torch: Any, flips: Sequence[Flip], size_px: tuple[int, int]) -> Callable[..., Any]:
    """Entropy-weighted fusion of one class with smoothing over time, as a composition of torch.

    The copies of one resolution are a batch: the network gives them so.

    Args:
        torch: the module.
        flips: of the copies of every resolution, in their order.
        size_px: (height, width) of the result.

    Returns:
        A function of the logits (a list with a float tensor (copies, 1, h, w) for each resolution),
        the state (H, W), which it updates, and the mask (H, W), which it writes.
    """
    functional = torch.nn.functional
    log2 = 0.6931471805599453

    def mirrored_back(batch: Any) -> Any:
        copies = []
        for copy, flip in zip(batch, flips, strict=True):
            axes = [axis for axis, letter in ((-1, "h"), (-2, "v")) if letter in flip]
            copies.append(torch.flip(copy, axes) if axes else copy)
        return torch.stack(copies)

    def fuse(logits: Sequence[Any], state: Any, mask: Any, keep: float, threshold: float) -> Any:
        probabilities = []
        for batch in logits:
            upright = mirrored_back(batch.float())
            large = functional.interpolate(
                upright, size=size_px, mode="bilinear", align_corners=False
            )
            probabilities.append(torch.sigmoid(large))
        p = torch.cat(probabilities)
        q = p.clamp(1e-7, 1.0 - 1e-7)
        entropy = -(q * torch.log(q) + (1.0 - q) * torch.log1p(-q))
        weight = (1.0 - entropy / log2).clamp_min(0.0) + 1e-12
        fused = (weight * p).sum(0) / weight.sum(0)
        state.copy_(keep * state + (1.0 - keep) * fused[0])
        mask.copy_(state > threshold)
        return state

    return fuse


def decision(torch: Any, size_px: tuple[int, int]) -> Callable[..., Any]:
    """The mask of one view: interpolation, then a comparison or an argmax.

    Args:
        torch: the module.
        size_px: (height, width) of the mask.

    Returns:
        A function of the planes, float (C, h, w), the mask (H, W), which it writes, and the level
        of one class (a tensor of one element).
    """
    interpolate = torch.nn.functional.interpolate

    def decide(planes: Any, mask: Any, level: Any) -> Any:
        large = interpolate(planes[None], size=size_px, mode="bilinear", align_corners=False)[0]
        mask.copy_(large[0] > level if len(planes) == 1 else large.argmax(0))
        return mask

    return decide


def blend(torch: Any, colours: Any, alpha: float) -> Callable[..., Any]:
    """A translucent fill without an outline, in place.

    Args:
        torch: the module.
        colours: float32 (classes + 1, 3), on the device; the first is not used.
        alpha: opacity, 0 to 1.

    Returns:
        A function of the frame, uint8 (H, W, 3), and the mask, uint8 (H, W).
    """

    def draw(frame: Any, mask: Any) -> Any:
        mixed = frame.float() * (1.0 - alpha) + colours[mask.long()] * alpha
        frame.copy_(torch.where((mask > 0)[..., None], mixed.round().to(torch.uint8), frame))
        return frame

    return draw


def resize(
    torch: Any, sizes_px: Sequence[tuple[int, int]], flips: Sequence[Flip], mean: Any, std: Any
) -> Callable[..., Any]:
    """Antialiased bilinear resampling in float, normalisation and mirrored copies.

    Not what Pillow computes: torch does not round between the passes.

    Args:
        torch: the module.
        sizes_px: (height, width) of each view.
        flips: of the copies of every view.
        mean: float32 (3, 1, 1), on the device.
        std: float32 (3, 1, 1), on the device.

    Returns:
        A function of the BGR frame, uint8 (H, W, 3).
    """
    functional = torch.nn.functional

    def views(frame: Any) -> list[Any]:
        planes = frame.flip(2).permute(2, 0, 1)[None].float()
        made = []
        for size in sizes_px:
            small = functional.interpolate(
                planes, size=size, mode="bilinear", align_corners=False, antialias=True
            )
            tensor = (small[0].round().clamp(0.0, 255.0) / 255.0 - mean) / std
            copies = []
            for flip in flips:
                axes = [axis for axis, letter in ((-1, "h"), (-2, "v")) if letter in flip]
                copies.append(torch.flip(tensor, axes) if axes else tensor)
            made.append(torch.stack(copies))
        return made

    return views
