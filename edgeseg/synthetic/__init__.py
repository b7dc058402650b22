"""Generated endoscopy with known polyps: for demonstrations, self-tests and a first training.

A frame is never a patient's, so it may be kept in a bundle, shown and shared. Nothing here claims
to stand for clinical images.
"""

from edgeseg.synthetic.dataset import generate_dataset, golden_frames, scene_seeds
from edgeseg.synthetic.scene import Scene

__all__ = ["Scene", "generate_dataset", "golden_frames", "scene_seeds"]
