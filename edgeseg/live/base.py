"""What a live session passes around: captured frames, shown pictures, and the two ends.

Times are seconds of ``time.monotonic``, which every process of a machine shares and nobody sets.
"""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeseg._closing import Closing

__all__ = [
    "POLICIES",
    "Captured",
    "LiveFrame",
    "LiveSink",
    "LiveSource",
    "Picture",
    "Policy",
    "Reason",
    "Shown",
    "SinkPolicy",
    "State",
]

Picture = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""

Policy = Literal["wait", "drop-oldest", "drop-latest"]
"""What happens to a frame for which there is no room: its source waits; it takes the place of the
oldest one that waits; it is dropped itself."""
POLICIES: tuple[Policy, ...] = get_args(Policy)

State = Literal["current", "predicted", "none"]
"""The mask in a picture: computed on this very frame; moved here from an earlier frame; absent."""

Reason = Literal[
    "starting",
    "no signal",
    "frozen picture",
    "black picture",
    "engine stalled",
    "engine failed",
    "result too old",
]
"""Why there is no current result."""

SinkPolicy = Literal["wait", "drop-oldest"]


@dataclass(frozen=True)
class Captured:
    """A frame as its source delivers it."""

    image: Picture
    """Owned by whoever receives it; nobody writes on it afterwards."""
    captured_s: float
    """When it was captured: by the driver's stamp where there is one, else when its last byte was
    there. Never later than its delivery."""
    media_s: float | None = None
    """Time stamp of the medium itself, from its first frame on; None if it has none."""


@dataclass(frozen=True)
class LiveFrame:
    """A captured frame with its place in the session."""

    index: int
    """0 for the first one that was captured; goes on over reconnections. -1: nothing was captured
    yet, the picture is a blank one."""
    image: Picture
    """Nobody writes on it: engine, display and sinks look at it at the same time."""
    captured_s: float
    media_s: float | None = None
    segment: int = 0
    """Another number means that nothing may be carried over from the frames before: the source was
    lost in between, or its frames have another size."""


@dataclass(frozen=True)
class Shown:
    """A picture as it is displayed, with all that may be said about its mask.

    ``mask`` belongs to ``frame``: with the state "current" it was computed on it, with "predicted"
    it was moved to it from frame ``mask_index``, with "none" there is no mask.
    """

    number: int
    """0 for the first picture that was shown."""
    frame: LiveFrame
    """The frame that the picture shows."""
    picture: Picture
    """With mask, status line or sign drawn; nobody writes on it."""
    mask: npt.NDArray[np.uint8] | None
    """(H, W) of the frame's size, 0 background, else the index of the class."""
    state: State
    reason: Reason | None
    """Why there is no mask; None exactly if there is one."""
    detail: str
    """More about the reason, for a person; "" if there is a mask."""
    mask_index: int | None
    """Index of the frame that the mask was computed on."""
    age_ms: float | None
    """Age of the frame that the mask was computed on at the time ``shown_s``; None without."""
    frame_age_ms: float
    """Age of the frame that the picture shows at the time ``shown_s``."""
    shown_s: float
    """When the picture was complete."""

    def age_now_ms(self) -> float | None:
        """How old the frame behind the mask is by now; None without a mask."""
        if self.age_ms is None:
            return None
        return self.age_ms + 1e3 * (time.monotonic() - self.shown_s)


class LiveSource(Closing):
    """Delivers frames, one after the other, to the one thread that calls ``open`` and ``read``.

    After ``open`` has returned, ``size`` and ``rate`` are known as far as they ever are. A source
    that was lost can be opened again after ``close``. ``close`` may be called twice.
    """

    name: str
    """What a person may read: the URI without user name and password."""
    is_live: bool
    """Frames come whether or not anybody takes them, and may come back after they stopped."""
    silence_is_loss: bool = True
    """A live source that is silent for long is gone, and opening it again may help. False for what
    may pause, or would start from its beginning."""
    begins_when_read: bool = False
    """Nothing is missed by reading the first frame late: what is played begins then."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels of the frames to come; None if unknown."""
    rate: Fraction | None = None
    """Frames per second; None if unknown."""

    @abc.abstractmethod
    def open(self) -> None:
        """Connect and make ready to read.

        Raises:
            SourceLostError: not there now, but it may come (a server that does not answer yet).
            DataError: no such thing, no permission, not a video: trying again is useless.
            MissingDependencyError: a program or library is not installed.
        """

    @abc.abstractmethod
    def read(self, timeout_s: float) -> Captured | None:
        """The next frame; None if none came within ``timeout_s``.

        Raises:
            EndOfStreamError: a source that is not live has delivered everything.
            SourceLostError: the connection or the device is gone; ``open`` again may help.
            DataError: it cannot go on, and opening it again is useless. For a file that is cut:
                after the last frame that can be read.
        """


class LiveSink(Closing):
    """Takes shown pictures, in order, from the one thread that it is given.

    The overlay never waits for a sink: each has a thread and a small buffer of its own.
    """

    name: str
    """What a person may read: the URI without secrets."""
    policy: SinkPolicy = "drop-oldest"
    """"wait" for what must get every picture of a source that can wait. With a live source every
    sink drops the oldest."""

    @property
    def how(self) -> str:
        """What it works by, for a person: an encoder, a program; "" where there is no choice."""
        return ""

    @abc.abstractmethod
    def write(self, shown: Shown) -> None:
        """Show or store one picture. Sizes may change from one picture to the next.

        Raises:
            SinkLostError: it is gone, but ``reopen`` may bring it back (a server restarted).
            OutputError: it cannot go on (the disk is full). ``close`` follows.
        """

    def reopen(self) -> None:
        """Connect again after a ``SinkLostError``; the default has nothing to connect.

        Raises:
            SinkLostError: not yet.
            OutputError: never again.
        """
        return
