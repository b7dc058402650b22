"""Pictures to a V4L2 loopback device, where other programs see them as a camera's."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from fractions import Fraction

from edgeseg.errors import OutputError
from edgeseg.live.process import Consumer, find_program
from edgeseg.live.programs import all_frames_words
from edgeseg.live.sinks.piped import PipedSink, raw_input_words

__all__ = ["LoopbackSink"]

_RATE = Fraction(30)
"""Nominal: pictures are written when they come."""

# struct v4l2_capability, and the request that fills it (VIDIOC_QUERYCAP).
_CAPABILITY = struct.Struct("=16s32s32sIII3I")
_QUERY = 0x80685600
_HAS_DEVICE_CAPS = 0x80000000
_OUTPUTS = 0x00000002 | 0x00002000
"""Single-planar and multi-planar."""

_MODPROBE = "make a loopback device with  sudo modprobe v4l2loopback"
_HOPELESS = re.compile(r"no such file|permission|inappropriate ioctl|not a video|invalid argument")


class LoopbackSink(PipedSink):
    """Writes yuv420p to the output side of a device of the kernel module v4l2loopback.

    Where the size of the pictures changes, the device gets a new format; a program that reads it
    meanwhile keeps it in the old one, and the sink is lost until that program lets go.
    """

    _even = True

    def __init__(self, device: str, *, name: str) -> None:
        """Look whether it is such a device.

        Args:
            device: such as ``/dev/video2``.
            name: what a person may read.

        Raises:
            OutputError: missing, not permitted, or not a device that takes pictures.
            MissingDependencyError: ffmpeg is not installed.
        """
        super().__init__(name=name)
        self._device = device
        self._ffmpeg = find_program("ffmpeg")
        _check_output(device, name)

    def reopen(self) -> None:
        """Look whether the device is still there; see ``LiveSink``."""
        super().reopen()
        _check_output(self._device, self.name)

    def _start(self, width_px: int, height_px: int) -> Consumer:
        return Consumer(
            [
                *(self._ffmpeg, "-hide_banner", "-nostdin", "-nostats"),
                *("-loglevel", "level+error"),
                *raw_input_words(width_px, height_px, _RATE, wall_clock=True),
                *("-sws_flags", "bilinear+accurate_rnd", "-pix_fmt", "yuv420p"),
                *("-c:v", "rawvideo", *all_frames_words(self._ffmpeg)),
                *("-f", "v4l2", self._device),
            ]
        )

    def _is_hopeless(self, complaint: str) -> bool:
        return bool(_HOPELESS.search(complaint.lower()))


def _check_output(device: str, name: str) -> None:
    """Raise if ``device`` does not take pictures."""
    try:
        # Other files must not even be opened for writing.
        if not stat.S_ISCHR(os.stat(device).st_mode):  # noqa: PTH116 - the mode is wanted
            raise OutputError(f"{name}: {device} is not a device: {_MODPROBE}")
        descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        try:
            answer = fcntl.ioctl(descriptor, _QUERY, bytes(_CAPABILITY.size))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise OutputError(f"{name}: there is no {device}: {_MODPROBE}") from None
    except PermissionError:
        raise OutputError(
            f"{name}: no permission to write to {device}: add yourself to its group with  "
            "sudo usermod -aG video $USER  and log in again"
        ) from None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise OutputError(f"{name}: {device} is not a video device: {_MODPROBE}") from None
        raise OutputError(f"{name}: {device}: {error.strerror or error}") from error
    fields = _CAPABILITY.unpack(answer)
    capabilities, device_capabilities = fields[4], fields[5]
    if capabilities & _HAS_DEVICE_CAPS:
        capabilities = device_capabilities
    if not capabilities & _OUTPUTS:
        raise OutputError(f"{name}: {device} is a camera and takes no pictures: {_MODPROBE}")
