"""Inference libraries behind one seam."""
