"""Volumes: NIfTI files as stacks of slices, and masks of slices as NIfTI files.

- ``nifti``: reading and writing, nothing but one checked 3-D scan
- ``slices``: anatomical slicing directions, whatever the order of a file
- ``intensity``: scanner values to 8-bit grey slices
- ``zsmooth``: Gaussian smoothing across slices, in slabs
- ``segmenting``: slices through a model
- ``distance``, ``scores``: Dice, IoU and HD95 in three dimensions
- ``montage``: one picture to look at
"""
