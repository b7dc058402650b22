"""Pictures for viewers: what a view shows, and one JPEG of it however many look."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import OutputError
from edgeseg.live.base import Picture, Shown
from edgeseg.overlay import Colour, default_colours
from edgeseg.video.palette_png import with_palette

__all__ = ["VIEWS", "Encoded", "PictureEncoder", "View", "Views"]

_LOG = logging.getLogger(__name__)

View = Literal["overlay", "original", "mask"]
VIEWS: tuple[View, ...] = get_args(View)

_CLASSES = 255
_PNG_EFFORT = 1  # of 9: more takes several times as long for a few per cent


class Views:
    """What each view shows of a picture."""

    def __init__(self, colours: Sequence[Colour] = ()) -> None:
        """Prepare the colours of classes 1, 2 and so on; the default ones come after those."""
        given = tuple(colours)[:_CLASSES]
        self._palette = ((0, 0, 0), *given, *default_colours(_CLASSES)[len(given) :])
        self._table = np.array(self._palette, np.uint8)[:, ::-1]

    def picture(self, shown: Shown, view: View) -> Picture:
        """uint8 (H, W, 3), BGR. Without a mask every view is the picture with its sign: an old
        frame that is shown without it would look alive."""
        if shown.mask is None or view == "overlay":
            return shown.picture
        return shown.frame.image if view == "original" else self._table[shown.mask]

    def png(self, shown: Shown, view: View) -> bytes:
        """A view in full size; the mask as class indices with a palette.

        Raises:
            OutputError: there is no mask to store, or it cannot be encoded.
        """
        if view == "mask":
            if shown.mask is None:
                raise OutputError(f"there is no mask now: {shown.reason}")
            return with_palette(_encoded(".png", shown.mask, _PNG_EFFORT), self._palette)
        return _encoded(".png", self.picture(shown, view), _PNG_EFFORT)


def _encoded(suffix: str, picture: npt.NDArray[np.uint8], setting: int) -> bytes:
    name = cv2.IMWRITE_JPEG_QUALITY if suffix == ".jpg" else cv2.IMWRITE_PNG_COMPRESSION
    done, data = cv2.imencode(suffix, picture, [name, setting])
    if not done:
        raise OutputError(f"a picture of shape {picture.shape} cannot be stored as {suffix}")
    return cast("npt.NDArray[np.uint8]", data).tobytes()


@dataclass(frozen=True)
class Encoded:
    """One view of one picture."""

    view: View
    shown: Shown
    jpeg: bytes
    width_px: int
    height_px: int


class PictureEncoder:
    """A thread that encodes the newest picture, in the views that somebody waits for.

    Whoever offers a picture never waits for it. A view that nobody waits for is not encoded.
    """

    def __init__(
        self,
        views: Views,
        ready: Callable[[Encoded], None],
        *,
        quality: int,
        max_width_px: int,
    ) -> None:
        """Start the thread.

        Args:
            views: what the views show.
            ready: is called in the thread with each picture.
            quality: of the JPEG, 1 to 100.
            max_width_px: wider pictures are made smaller.
        """
        self._views = views
        self._ready = ready
        self._quality = quality
        self._max_width_px = max_width_px
        self._changed = threading.Condition()
        self._newest: Shown | None = None
        self._wanted: frozenset[View] = frozenset()
        self._done: dict[View, Shown] = {}
        self._encodes = dict.fromkeys(VIEWS, 0)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="page-encoder", daemon=True)
        self._thread.start()

    @property
    def newest(self) -> Shown | None:
        """The newest picture; None before the first and after the end."""
        with self._changed:
            return self._newest

    @property
    def encodes(self) -> dict[View, int]:
        """How many pictures were encoded for each view."""
        with self._changed:
            return dict(self._encodes)

    def offer(self, shown: Shown) -> None:
        """Make this the newest picture."""
        with self._changed:
            self._newest = shown
            self._changed.notify()

    def clear(self) -> None:
        """There is no newest picture any more."""
        with self._changed:
            self._newest = None
            self._done.clear()

    def want(self, views: AbstractSet[View]) -> None:
        """From now on somebody waits for these views, and for no others."""
        with self._changed:
            self._wanted = frozenset(views)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._newest = None
            self._changed.notify()
        self._thread.join()

    def _due(self) -> frozenset[View]:
        if self._newest is None:
            return frozenset()
        return frozenset(view for view in self._wanted if self._done.get(view) is not self._newest)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._due():
                    self._changed.wait()
                if self._closed:
                    return
                due, shown = self._due(), self._newest
                assert shown is not None
                # Who waited gets this one; who waits for another one says so anew.
                self._wanted -= due
                self._done.update(dict.fromkeys(due, shown))
            try:
                self._encode(shown, due)
            except Exception:
                # One picture is missing; viewers cover the last one when it grows too old.
                _LOG.exception("picture %d could not be encoded for the page", shown.number)
                with self._changed:
                    self._wanted |= due

    def _encode(self, shown: Shown, views: frozenset[View]) -> None:
        made: list[tuple[Picture, Encoded]] = []
        for view in sorted(views):
            picture = self._views.picture(shown, view)
            # Without a mask all views are the same picture.
            same = next((one for source, one in made if source is picture), None)
            if same is None:
                small = self._fitted(picture, exact=view == "mask")
                jpeg = _encoded(".jpg", small, self._quality)
                one = Encoded(view, shown, jpeg, small.shape[1], small.shape[0])
                with self._changed:
                    self._encodes[view] += 1
            else:
                one = Encoded(view, shown, same.jpeg, same.width_px, same.height_px)
            made.append((picture, one))
            self._ready(one)

    def _fitted(self, picture: Picture, *, exact: bool) -> Picture:
        height, width = picture.shape[:2]
        if width <= self._max_width_px:
            return picture
        size = (self._max_width_px, max(1, round(height * self._max_width_px / width)))
        way = cv2.INTER_NEAREST if exact else cv2.INTER_AREA
        return cast("Picture", cv2.resize(picture, size, interpolation=way))
