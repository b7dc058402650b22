"""Measurements: medians and ratios, interleaved with their baselines in one process."""
