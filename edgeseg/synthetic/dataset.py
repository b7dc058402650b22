"""Generated frames and labelled folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._files import atomic_directory, check_output
from edgeseg._progress import Progress, silent
from edgeseg.errors import InputError, OutputError
from edgeseg.synthetic.scene import Scene

__all__ = ["generate_dataset", "golden_frames", "scene_seeds"]

Frame = npt.NDArray[np.uint8]

_GOLDEN_SEED = 20_240_229


def scene_seeds(seed: int, count: int) -> list[int]:
    """Seeds of ``count`` scenes: others for every ``seed``; a longer list extends a shorter one."""
    return [
        int(s)
        for s in np.random.SeedSequence(seed).generate_state(count, np.uint64) >> np.uint64(1)
    ]


def golden_frames(count: int, height_px: int, width_px: int) -> list[Frame]:
    """Frames on which an engine is checked when it is loaded: always the same ones for a size.

    Args:
        count: how many, at least 1; each shows another scene.
        height_px: 16 to 4096.
        width_px: 16 to 4096.

    Returns:
        uint8 BGR arrays of shape (height_px, width_px, 3).

    Raises:
        InputError: an argument is out of range.
    """
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    seeds = scene_seeds(_GOLDEN_SEED, count)
    return [Scene(s, height_px, width_px, polyps=1 + s % 2).render(0.0)[0] for s in seeds]


def generate_dataset(
    folder: Path,
    count: int,
    *,
    seed: int,
    height_px: int = 288,
    width_px: int = 384,
    force: bool = False,
    progress: Progress = silent,
) -> None:
    """Write ``folder/image/NNNN.png`` and ``folder/mask/NNNN.png``, each pair of another scene.

    The folder appears whole or not at all.

    Args:
        folder: output folder.
        count: number of pairs, at least 1.
        seed: not negative; other seeds give other scenes, so that sets do not overlap.
        height_px: height of the frames.
        width_px: width of the frames.
        force: replace a folder that exists.
        progress: called with ("generate", written, count) after each pair.

    Raises:
        InputError: an argument is out of range.
        OutputError: the folder exists and ``force`` is not set, or cannot be written.
    """
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    check_output(folder, force=force)
    digits = max(4, len(str(count - 1)))
    with atomic_directory(folder, force=force) as temporary:
        for kind in ("image", "mask"):
            (temporary / kind).mkdir()
        for index, scene_seed in enumerate(scene_seeds(seed, count)):
            frame, mask = Scene(scene_seed, height_px, width_px).render(0.0)
            name = f"{index:0{digits}d}.png"
            for kind, picture in (("image", frame), ("mask", mask)):
                encoded, data = cv2.imencode(".png", picture)
                if not encoded:
                    raise OutputError(f"cannot encode {folder / kind / name} as PNG")
                (temporary / kind / name).write_bytes(data.tobytes())
            progress("generate", index + 1, count)
