"""Anatomical slicing: one fixed orientation on the screen, whatever the order of a file.

A network that was trained on pictures of one orientation must see the same one always. Slices are
shown as radiologists look at them:

==========  =======================  ======================  ====================
axis        slices run               rows run (top, down)    columns run (left, right)
==========  =======================  ======================  ====================
axial       inferior to superior     anterior to posterior   right to left
coronal     posterior to anterior    superior to inferior    right to left
sagittal    left to right            superior to inferior    anterior to posterior
==========  =======================  ======================  ====================

The axes of an oblique scan are the anatomical ones that they are closest to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from edgeseg._optional import require
from edgeseg.errors import UsageError
from edgeseg.volume.nifti import Geometry

__all__ = ["AXES", "Axis", "SliceOrder", "check_axis", "slice_order"]

Axis = Literal["sagittal", "coronal", "axial"]
AXES: tuple[Axis, ...] = get_args(Axis)

# Anatomical axis (0 left-right, 1 posterior-anterior, 2 inferior-superior) of stack, rows and
# columns, and whether it runs towards right, anterior or superior there.
_VIEWS: dict[str, tuple[tuple[int, bool], tuple[int, bool], tuple[int, bool]]] = {
    "axial": ((2, True), (1, False), (0, False)),
    "coronal": ((1, True), (2, False), (0, False)),
    "sagittal": ((0, True), (2, False), (1, False)),
}

Voxels = TypeVar("Voxels", bound=np.generic)


@dataclass(frozen=True)
class SliceOrder:
    """How a file's voxels (i, j, k) become slices (slice, row, column), and back.

    Attributes:
        axes: the file's axes along the stack, the rows and the columns.
        reversed_: whether each of them runs backwards there.
        spacing_mm: between slices, rows and columns.
    """

    axes: tuple[int, int, int]
    reversed_: tuple[bool, bool, bool]
    spacing_mm: tuple[float, float, float]

    def to_slices(self, voxels: npt.NDArray[Voxels]) -> npt.NDArray[Voxels]:
        """A view (slice, row, column) of voxels in file order."""
        slices: npt.NDArray[Voxels] = voxels.transpose(self.axes)[self._steps()]
        return slices

    def to_file(self, slices: npt.NDArray[Voxels]) -> npt.NDArray[Voxels]:
        """A view in file order of voxels (slice, row, column)."""
        i, j, k = (self.axes.index(axis) for axis in range(3))
        voxels: npt.NDArray[Voxels] = slices[self._steps()].transpose(i, j, k)
        return voxels

    def _steps(self) -> tuple[Any, ...]:
        return tuple(slice(None, None, -1 if back else None) for back in self.reversed_)


def check_axis(axis: str) -> None:
    """Refuse a name that is no slicing direction.

    Raises:
        UsageError: with those that are.
    """
    if axis not in AXES:
        raise UsageError(f"unknown axis {axis!r}: choose {', '.join(AXES)}")


def slice_order(geometry: Geometry, axis: Axis) -> SliceOrder:
    """How the voxels of a file become slices along an anatomical axis.

    Raises:
        UsageError: there is no such axis.
    """
    check_axis(axis)
    orientations = require("nibabel.orientations", "volumes")
    # Row per file axis: the anatomical axis it follows, and 1 or -1 for its direction.
    found = orientations.io_orientation(geometry.affine)
    file_axis = {int(anatomical): number for number, (anatomical, _) in enumerate(found)}
    ascending = [bool(direction > 0) for _, direction in found]
    view = _VIEWS[axis]
    stack, row, column = (file_axis[anatomical] for anatomical, _ in view)
    back = [ascending[file_axis[anatomical]] != upward for anatomical, upward in view]
    spacing = geometry.spacing_mm
    return SliceOrder(
        (stack, row, column),
        (back[0], back[1], back[2]),
        (spacing[stack], spacing[row], spacing[column]),
    )
