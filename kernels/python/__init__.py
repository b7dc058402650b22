"""Compiled kernels and their numpy reference.

    tensor = edgeseg.kernels.resize_normalize(
        frame, 256, 256, resample="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )

The compiled library is loaded on first use. There is no fallback: without it these functions raise
``NativeLibraryError``, whose message holds the command that builds it.
"""

from __future__ import annotations

from edgeseg.kernels._blend import MAX_OUTLINE_PX, blend_overlay
from edgeseg.kernels._fuse import Fused, View, fuse_views
from edgeseg.kernels._library import LibraryInfo, library_info
from edgeseg.kernels._resize import resize_normalize, resize_u8
from edgeseg.kernels._smooth import Smoothed, gaussian_weights, smooth_z
from edgeseg.kernels._views import resize_normalize_views

__all__ = [
    "MAX_OUTLINE_PX",
    "Fused",
    "LibraryInfo",
    "Smoothed",
    "View",
    "blend_overlay",
    "fuse_views",
    "gaussian_weights",
    "library_info",
    "resize_normalize",
    "resize_normalize_views",
    "resize_u8",
    "smooth_z",
]
