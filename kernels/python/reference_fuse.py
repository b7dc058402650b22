"""What ``fuse_views`` computes, in float64: clear, slow, and written independently of it.

Resampling is a product with dense interpolation matrices; probabilities, entropies and weights
follow the formulas, with logarithms of probabilities taken from the logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edgeseg.kernels._fuse import View
from edgeseg.spec import Weighting

__all__ = ["fuse_views", "interpolation_matrix", "probabilities", "resample"]

Float64 = npt.NDArray[np.float64]

_LARGEST = 65504.0


def fuse_views(
    views: Sequence[View],
    height_px: int,
    width_px: int,
    *,
    weighting: Weighting = "entropy",
    temperature: float = 1.0,
    threshold: float = 0.5,
    keep: float = 0.0,
    reset: bool = False,
    state: npt.NDArray[np.floating] | None = None,
    probability: npt.NDArray[np.floating] | None = None,
    mask: npt.NDArray[np.uint8] | None = None,
) -> tuple[Float64, npt.NDArray[np.uint8]]:
    """As ``edgeseg.kernels.fuse_views``, for checked arguments; arrays may be of float64.

    Returns the probabilities in float64 (rounded where they are written to an array that was given)
    and the mask.
    """
    channels = views[0].logits.shape[0]
    shape = (channels, height_px, width_px)
    probabilities_of, logarithms, valid = _activated(views, height_px, width_px)
    weights = _weights(probabilities_of, logarithms, weighting, temperature)
    # A view that is left out has weight 0, in the plain mean as well.
    weights = np.where(valid, weights, 0.0)
    weights = np.where(weights.sum(axis=0) > 0.0, weights, valid)
    total = weights.sum(axis=0)
    certain = np.zeros((probabilities_of.shape[1], 1, 1))
    certain[0] = 1.0
    weighted = (weights[:, np.newaxis] * probabilities_of).sum(axis=0)
    fused = np.where(total > 0.0, weighted / np.where(total > 0.0, total, 1.0), certain)
    result = fused[1:] if channels == 1 else fused
    if state is not None:
        before = np.asarray(state, np.float64).reshape(shape)
        usable = np.isfinite(before).all(axis=0) & (not reset)
        before = np.where(usable, before, 0.0)
        result = np.where(usable, keep * before + (1.0 - keep) * result, result)
        state[...] = result.reshape(state.shape)
    if channels == 1:
        result = result[0]
        decided = (result > threshold).astype(np.uint8)
    else:
        decided = result.argmax(axis=0).astype(np.uint8)
    if probability is not None:
        probability[...] = result
    if mask is not None:
        mask[...] = decided
    return result, decided


def interpolation_matrix(size_in: int, size_out: int) -> Float64:
    """(size_out, size_in): bilinear, half-pixel centres, edges replicated."""
    matrix = np.zeros((size_out, size_in))
    for index in range(size_out):
        position = Fraction(2 * index + 1, 2) * Fraction(size_in, size_out) - Fraction(1, 2)
        position = min(max(position, Fraction(0)), Fraction(size_in - 1))
        lower = math.floor(position)
        share = float(position - lower)
        matrix[index, lower] = 1.0 - share
        if share > 0.0:
            matrix[index, lower + 1] = share
    return matrix


def resample(view: View, height_px: int, width_px: int) -> Float64:
    """Logits of a view, mirrored back, as (C, height_px, width_px); NaN where NaN takes part."""
    logits = view.logits.astype(np.float64)
    if view.flip in ("h", "hv"):
        logits = logits[:, :, ::-1]
    if view.flip in ("v", "hv"):
        logits = logits[:, ::-1]
    logits = np.nan_to_num(logits, nan=np.nan, posinf=_LARGEST, neginf=-_LARGEST)
    rows = interpolation_matrix(logits.shape[1], height_px)
    columns = interpolation_matrix(logits.shape[2], width_px)
    values = rows @ np.where(np.isnan(logits), 0.0, logits) @ columns.T
    touched = (rows > 0.0) @ np.isnan(logits).astype(np.float64) @ (columns > 0.0).T
    return np.where(touched > 0.0, np.nan, values)


def probabilities(logits: Float64) -> tuple[Float64, Float64]:
    """Softmax over axis 0 and its logarithm."""
    shifted = logits - logits.max(axis=0)
    logarithm = shifted - np.log(np.exp(shifted).sum(axis=0))
    return np.exp(logarithm), logarithm


def _activated(
    views: Sequence[View], height_px: int, width_px: int
) -> tuple[Float64, Float64, npt.NDArray[np.bool_]]:
    """Probabilities and their logarithms (V, max(C, 2), H, W), background first; where valid."""
    results = []
    valid = []
    for view in views:
        logits = resample(view, height_px, width_px)
        usable = ~np.isnan(logits).any(axis=0)
        logits = np.where(usable, logits, 0.0)
        if len(logits) == 1:
            # A sigmoid is the softmax over the logit and 0.
            logits = np.concatenate([np.zeros_like(logits), logits])
        results.append(probabilities(logits))
        valid.append(usable)
    p, logarithm = (np.stack(parts) for parts in zip(*results, strict=True))
    return p, logarithm, np.stack(valid)


def _weights(p: Float64, logarithm: Float64, weighting: str, temperature: float) -> Float64:
    """(V, H, W)."""
    classes = p.shape[1]
    if weighting == "mean":
        return np.ones((p.shape[0], *p.shape[2:]))
    entropy = -(p * logarithm).sum(axis=1)
    if weighting == "exp":
        # Relative to the least entropy of each pixel, which cancels in the weighted mean.
        weights: Float64 = np.exp(-(entropy - entropy.min(axis=0)) / temperature)
        return weights
    # ln C - H is the Kullback-Leibler divergence from the uniform distribution:
    # mean of u ln u - u + 1 with u = C p, whose parts are positive, so that nothing cancels but
    # within each of them; near u = 1 they are a series in ln u.
    y = logarithm + math.log(classes)
    near = np.clip(y, -0.03, 0.03)
    series = np.zeros_like(y)
    for k in range(9, 1, -1):
        series = series * near + (k - 1) / math.factorial(k)
    parts = np.where(near == y, series * near**2, np.exp(y) * (y - 1.0) + 1.0)
    divergence: Float64 = parts.mean(axis=1)
    return divergence / math.log(classes)
