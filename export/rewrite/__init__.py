"""Exact rewrites: the same function with less work, at a fixed input size.

DINOv3 decoders are mostly linear maps between small grids, which can be associated in another
order. Each function here holds one such change with its derivation, takes modules as loaded from a
checkpoint and returns modules for export; weights are computed in float64 and rounded once. No
general compiler does this: the algebra needs to know that weights are constants whose products may
be formed, which is a choice about rounding, and that the input size is fixed.

``algebra`` has what all of them share, ``resampling`` the bilinear matrices, ``backbone`` the
transformer, and each family's decoder has a module of its own. Decoders here take tokens after the
final LayerNorm *without* its affine part, and fold in the one that they are given: its shift alone,
since its scale has to stay where it is for the sake of INT8 (``backbone.without_shift``).
"""
