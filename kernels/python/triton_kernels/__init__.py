"""The kernels in Triton, for people who are in PyTorch.

    from edgeseg.kernels import triton_kernels

    views = [(logits_256[0], "none"), (logits_256[1], "h"), (logits_512[0], "none")]
    probability, mask = triton_kernels.fuse_views(views, 512, 512, weighting="entropy")

They compute what ``edgeseg.kernels`` computes (``kernels/include/edgeseg/kernels.h``), on CUDA
tensors, on the current stream and without waiting for it. With ``TRITON_INTERPRET=1`` in the
environment before triton is imported, they run on CPU tensors in Triton's interpreter instead,
which is slow and made for tests. There are no gradients.

This package needs torch and triton (``pip install 'edgeseg[triton]'``) and is imported by nothing
else in edgeseg.

A call can be captured in a CUDA graph once a call of the same shapes has run, provided that
nothing has to be brought from the host: views come from ``pack_views``, settings from
``fusion_settings``, thresholds, weights and colours are tensors on the device.
"""

from __future__ import annotations

from edgeseg._optional import require

require("torch", "triton")
require("triton", "triton")

from edgeseg.kernels.triton_kernels._blend import blend_overlay  # noqa: E402
from edgeseg.kernels.triton_kernels._fuse import (  # noqa: E402
    Fused,
    PackedViews,
    View,
    fuse_views,
    fusion_settings,
    pack_views,
)
from edgeseg.kernels.triton_kernels._resize import resize_normalize_views  # noqa: E402
from edgeseg.kernels.triton_kernels._smooth import Smoothed, smooth_z  # noqa: E402

__all__ = [
    "Fused",
    "PackedViews",
    "Smoothed",
    "View",
    "blend_overlay",
    "fuse_views",
    "fusion_settings",
    "pack_views",
    "resize_normalize_views",
    "smooth_z",
]
