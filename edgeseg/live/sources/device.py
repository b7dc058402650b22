"""Cameras and capture cards: what Linux shows as /dev/videoN."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import stat
import struct
import time
from pathlib import Path
from typing import Any

import av

from edgeseg.errors import DataError, EdgesegError, SourceLostError
from edgeseg.live.sources import SourceOptions
from edgeseg.live.sources.fetcher import Fetcher
from edgeseg.live.sources.stream import StreamSource, because

__all__ = ["DeviceSource", "driver_time"]

_log = logging.getLogger(__name__)

_POLL_S = 0.2
_OLDEST_STAMP_S = 5.0

# <linux/videodev2.h>: VIDIOC_QUERYCAP fills struct v4l2_capability.
_CAPABILITY = struct.Struct("16s32s32sIII12x")
_QUERYCAP = 2 << 30 | _CAPABILITY.size << 16 | ord("V") << 8
_CAPTURE = 0x1
_CAPTURE_PLANES = 0x1000
_HAS_DEVICE_CAPS = 0x80000000


class DeviceSource(StreamSource):
    """A V4L2 device, read by FFmpeg.

    ``captured_s`` is the driver's own stamp, where it is of a clock that this machine has. Size,
    rate and format are asked for; what the driver gives instead is logged as a warning.
    """

    def __init__(self, device: Path, options: SourceOptions, *, name: str) -> None:
        """Open nothing yet."""
        super().__init__(name=name, timeout_s=options.timeout_s)
        self._device = device
        self._options = options
        self._descriptor: int | None = None
        self._has_stamps: bool | None = None

    def _connect(self) -> Any:
        self._look_at()
        options = {}
        if self._options.width_px and self._options.height_px:
            options["video_size"] = f"{self._options.width_px}x{self._options.height_px}"
        if self._options.rate:
            rate = self._options.rate
            options["framerate"] = f"{rate.numerator}/{rate.denominator}"
        if self._options.codec:
            options["input_format"] = self._options.codec
        problem: EdgesegError
        try:
            container = av.open(
                str(self._device), format="v4l2", options=options, timeout=(self._timeout_s,) * 2
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            problem = self._problem(error)
        else:
            self._descriptor = descriptor_of(self._device)
            return container
        raise problem

    def _announce(self, stream: Any, size: tuple[int, int]) -> None:
        super()._announce(stream, size)
        wanted = (self._options.width_px, self._options.height_px)
        if wanted not in ((None, None), size):
            _log.warning("%s: the driver gives %dx%d instead of %sx%s", self.name, *size, *wanted)
        if self._options.rate and self.rate and abs(self.rate / self._options.rate - 1) > 0.01:
            _log.warning(
                "%s: the driver gives %.5g frames per second instead of %.5g",
                self.name, float(self.rate), float(self._options.rate),
            )  # fmt: skip

    def _await_data(self, fetcher: Fetcher) -> None:
        """Reading a frame blocks without end if the camera stops sending: wait here instead."""
        if self._descriptor is None:
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        given_up_s = time.monotonic() + self._timeout_s
        while not fetcher.stopped:
            if poll.poll(1e3 * _POLL_S):
                return
            if time.monotonic() > given_up_s:
                raise SourceLostError(f"{self.name}: no frame for {self._timeout_s:g} s")

    def _start_clock(self, codec: str) -> None:
        self._has_stamps = None

    def _note_packet(self, stamp_s: float | None, now_s: float) -> None:
        return

    def _captured_s(self, stamp_s: float | None, now_s: float) -> float:
        dated_s = None if stamp_s is None else driver_time(stamp_s, now_s, time.time())
        if self._has_stamps is not (dated_s is not None):
            self._has_stamps = dated_s is not None
            how = "the driver's time stamps" if self._has_stamps else "their arrival"
            _log.info("%s: frames are dated by %s", self.name, how)
        return now_s if dated_s is None else dated_s

    def _look_at(self) -> None:
        """Say what is wrong with a device before FFmpeg says that "an error occurred".

        Raises:
            DataError, SourceLostError: as ``LiveSource.open``.
        """
        try:
            if not stat.S_ISCHR(self._device.stat().st_mode):
                raise DataError(f"{self.name}: {self._device} is no camera, but a file or folder")
            descriptor = os.open(self._device, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise self._problem(error) from None
        try:
            answer = fcntl.ioctl(descriptor, _QUERYCAP, bytes(_CAPABILITY.size))
        except OSError:
            raise DataError(f"{self.name}: {self._device} is not a video device") from None
        finally:
            os.close(descriptor)
        _, card, _, _, physical, own = _CAPABILITY.unpack(answer)
        able = own if physical & _HAS_DEVICE_CAPS else physical
        if not able & _CAPTURE:
            hint = (
                f"FFmpeg cannot read it: try 'gst:v4l2src device={self._device}'"
                if able & _CAPTURE_PLANES
                else "it may be the metadata or the output of a camera, whose pictures come from "
                f"another one{self._others()}"
            )
            raise DataError(f"{self.name}: {self._device} gives no pictures; {hint}")
        _log.info("%s is %s", self.name, card.split(b"\0")[0].decode(errors="replace"))

    def _problem(self, error: Exception) -> EdgesegError:
        number = error.errno if isinstance(error, OSError) else None
        match number:
            case errno.ENOENT:
                return DataError(f"{self.name}: there is no {self._device}{self._others()}")
            case errno.EACCES | errno.EPERM:
                return DataError(
                    f"{self.name}: no permission to read {self._device}: add yourself to its "
                    "group (sudo usermod -aG video $USER) and log in again"
                )
            case errno.EBUSY:
                return SourceLostError(f"{self.name}: {self._device} is in use by another program")
            case errno.ENODEV | errno.ENXIO:
                return SourceLostError(f"{self.name}: no camera is connected to {self._device}")
            case errno.EINVAL:
                return DataError(
                    f"{self.name}: the driver refuses this format, size or rate "
                    f"(v4l2-ctl -d {self._device} --list-formats-ext shows what there is)"
                )
        if isinstance(error, av.error.ExitError):
            return SourceLostError(f"{self.name}: no frame within {self._timeout_s:g} s")
        return SourceLostError(f"{self.name}: {self._device} cannot be read{because(error)}")

    def _others(self) -> str:
        found = sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))
        found = [path for path in found if path != str(self._device)]
        return f" (there are {', '.join(found)})" if found else " (there is no other)"


def driver_time(stamp_s: float, now_s: float, wall_s: float) -> float | None:
    """A driver's stamp as a time of ``time.monotonic``; None if it is of no clock known here.

    Drivers stamp by the monotonic clock, older ones by the time of day.

    Args:
        stamp_s: of the frame.
        now_s: ``time.monotonic()``.
        wall_s: ``time.time()`` of the same moment.
    """
    for age_s in (now_s - stamp_s, wall_s - stamp_s):
        if 0.0 <= age_s <= _OLDEST_STAMP_S:
            return now_s - age_s
    return None


def descriptor_of(path: Path) -> int | None:
    """The newest descriptor of this process that is open on ``path``; None if there is none."""
    wanted = path.stat()
    found: list[int] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            opened = entry.stat()
        except OSError:
            continue
        if (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return max(found, default=None)
