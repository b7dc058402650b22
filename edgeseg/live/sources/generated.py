"""Generated endoscopy as a source: for demonstrations and for trying things out."""

from __future__ import annotations

import math

import cv2
import numpy as np

from edgeseg.live.base import Picture
from edgeseg.live.sources import SourceOptions
from edgeseg.live.sources.played import Played, PlayedSource
from edgeseg.live.uri import TestPicture
from edgeseg.synthetic import Scene

__all__ = ["GeneratedSource"]

_SEED = 7
_FRAMES = 50
_RENDERED_PX = 640 * 480


class GeneratedSource(PlayedSource):
    """One scene, without end: 50 frames forwards, backwards, and forwards again.

    Rendering costs more than a camera would, so each frame is rendered once, with at most the
    pixels of 640x480, enlarged to the size that was asked for, and kept. While the first fifty come
    into being the rate may not be reached.
    """

    def __init__(self, wanted: TestPicture, options: SourceOptions, *, name: str) -> None:
        """Render nothing yet."""
        super().__init__(name=name, paced=options.pace != "none", loop=False)
        self._wanted = wanted
        self.rate = wanted.rate
        self.size = (wanted.width_px, wanted.height_px)

    def _play(self) -> Played:
        width, height = self._wanted.width_px, self._wanted.height_px
        scale = min(1.0, math.sqrt(_RENDERED_PX / (width * height)))
        scene = Scene(
            _SEED, max(16, round(height * scale)), max(16, round(width * scale)), polyps=1
        )
        kept: list[Picture] = []
        place = number = 0
        step = 1
        while True:
            if place == len(kept):
                small = scene.render(float(place / self._wanted.rate))[0]
                kept.append(np.asarray(cv2.resize(small, (width, height)), np.uint8))
            yield kept[place], float(number / self._wanted.rate)
            number += 1
            if not 0 <= place + step < _FRAMES:
                step = -step
            place += step
