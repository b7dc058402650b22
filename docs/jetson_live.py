"""Draws a bundle's masks on a live picture: camera, capture card or RTSP, through GStreamer.

    python docs/jetson_live.py NAME.edgeseg csi:0 --size 1920x1080 --fps 30 --backend tensorrt

Sources: csi:SENSOR, v4l2:/dev/videoN (raw), mjpeg:/dev/videoN, rtsp://... (H.264),
h265+rtsp://..., test (a generated picture), or "gst:..." with a pipeline of your own that ends
before the conversion to BGR.

GStreamer runs in processes of its own, so nothing of it has to be built into OpenCV or Python.
Only the newest frame is worked on: a slow engine drops frames and never falls behind, and each mask
is drawn on the very frame that it was computed from. The exit code is 1 when the source ends or
stalls.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import FrameType

import numpy as np
import numpy.typing as npt

import edgeseg
from edgeseg.errors import EdgesegError
from edgeseg.frame_path import Wanted, model_unavailable_reason, open_frame_path
from edgeseg.overlay import Overlay, default_colours

log = logging.getLogger("live")
Frame = npt.NDArray[np.uint8]
Draw = Callable[[Frame, float], Frame]
"""From a frame and the time at which it was read, in seconds, to the picture to show."""
REPORT_EVERY_S = 10.0


class SourceEndedError(Exception):
    """No more frames: the pipeline ended, or none came in time."""


def source_words(source: str, width: int, height: int, fps: Fraction) -> list[str]:
    """The GStreamer pipeline of a source, up to the conversion to BGR, as separate words."""
    size = f"width={width},height={height}"
    rate = f"framerate={fps.numerator}/{fps.denominator}"
    kind, _, rest = source.partition(":")
    if source == "test":
        return ["videotestsrc", "is-live=true", "!", f"video/x-raw,{size},{rate}"]
    if kind == "csi":
        caps = f"video/x-raw(memory:NVMM),format=NV12,{size},{rate}"
        camera = ["nvarguscamerasrc", f"sensor-id={int(rest)}", "!", caps]
        return [*camera, "!", "nvvidconv", "!", "video/x-raw,format=BGRx"]
    if kind == "v4l2":
        return ["v4l2src", f"device={rest}", "!", f"video/x-raw,{size},{rate}"]
    if kind == "mjpeg":
        return ["v4l2src", f"device={rest}", "!", f"image/jpeg,{size},{rate}", "!", "jpegdec"]
    if kind in ("rtsp", "rtsps", "h265+rtsp", "h265+rtsps"):
        codec = "h265" if kind.startswith("h265+") else "h264"
        url = f"location={source.removeprefix('h265+')}"
        network = ["rtspsrc", url, "protocols=tcp", "latency=100", "drop-on-latency=true"]
        decoder = [f"rtp{codec}depay", "!", f"{codec}parse", "!", "nvv4l2decoder"]
        scaled = ["nvvidconv", "!", f"video/x-raw,format=BGRx,{size}"]
        return [*network, "!", *decoder, "!", *scaled]
    if kind == "gst":
        return shlex.split(rest)
    raise SystemExit(f"unknown source {source!r}: see  python {sys.argv[0]} -h")


class Reader:
    """Runs a source's pipeline and keeps its newest frame.

    Raw frames come through a pipe of their own: NVIDIA's elements print on the standard output,
    where a pipeline that ends in ``fdsink fd=1`` would mix their words into the picture.
    """

    def __init__(self, words: list[str], width: int, height: int) -> None:
        self._shape = (height, width, 3)
        self._ready = threading.Condition()
        self._frame: Frame | None = None
        self._read_at = 0.0
        self._ended = False
        self.dropped = 0
        receiving, sending = os.pipe()
        newest = ["queue", "leaky=downstream", "max-size-buffers=1", "max-size-bytes=0"]
        bgr = ["videoconvert", "!", f"video/x-raw,format=BGR,width={width},height={height}"]
        # fmt: off
        command = [
            "gst-launch-1.0", "-q", *words, "!", *newest, "!", *bgr, "!", "fdsink", f"fd={sending}"
        ]
        # fmt: on
        log.info("%s", shlex.join(command))
        self._process = subprocess.Popen(command, pass_fds=[sending], stdout=sys.stderr)
        os.close(sending)
        self._thread = threading.Thread(target=self._read, args=[receiving], daemon=True)
        self._thread.start()

    def _read(self, receiving: int) -> None:
        with open(receiving, "rb", buffering=0) as pipe:
            while True:
                frame = np.empty(self._shape, np.uint8)
                left = memoryview(frame).cast("B")
                while left and (count := pipe.readinto(left)):
                    left = left[count:]
                with self._ready:
                    if left:
                        self._ended = True
                    else:
                        self.dropped += self._frame is not None
                        self._frame, self._read_at = frame, time.monotonic()
                    self._ready.notify()
                if self._ended:
                    return

    def newest(self, timeout_s: float) -> tuple[Frame, float]:
        """The newest frame that was not handed out yet, and when it was read (monotonic, s)."""
        with self._ready:
            self._ready.wait_for(lambda: self._frame is not None or self._ended, timeout_s)
            frame, self._frame = self._frame, None
            if frame is not None:
                return frame, self._read_at
            if self._ended:
                raise SourceEndedError("the source ended; what GStreamer said stands above")
            raise SourceEndedError(f"no frame for {timeout_s:g} s")

    def close(self) -> None:
        """Stop the pipeline."""
        stop(self._process)
        self._thread.join(timeout=5)


def open_writer(sink: str, width: int, height: int, fps: Fraction) -> subprocess.Popen[bytes]:
    """Start the pipeline that shows what is written to its standard input."""
    rate = f"framerate={fps.numerator}/{fps.denominator}"
    parse = ["rawvideoparse", "format=bgr", f"width={width}", f"height={height}", rate]
    received = ["fdsrc", "fd=0", "blocksize=65536"]
    command = ["gst-launch-1.0", "-q", *received, "!", *parse, "!", *shlex.split(sink)]
    log.info("%s", shlex.join(command))
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a pipeline: let a sink show what it has, and use force where one does not listen."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            process.stdin.close()
            process.wait(timeout=2)
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(arguments: argparse.Namespace) -> None:
    """Segment and show frames until the source ends."""
    width, height = (int(part) for part in arguments.size.split("x"))
    if width % 4:
        # GStreamer pads rows of BGR to multiples of four bytes.
        raise SystemExit(f"the width must be a multiple of 4, not {width}: let the source scale")
    fps = Fraction(arguments.fps)
    words = source_words(arguments.source, width, height, fps)
    chosen = {"precision": arguments.precision, "backend": arguments.backend}
    if arguments.device is not None:
        chosen["device"] = arguments.device
    with edgeseg.open(arguments.bundle, **chosen) as model:
        log.info("%s: %s, %s", arguments.bundle, model.variant.name, model.choice.why)
        overlay = Overlay(
            default_colours(model.foreground_classes), alpha=arguments.alpha, contours=True
        )
        reader = Reader(words, width, height)
        writer = open_writer(arguments.sink, width, height, fps)
        try:
            with drawing(model, overlay, (height, width)) as draw:
                show(draw, reader, writer, arguments.timeout)
        finally:
            reader.close()
            stop(writer)


@contextlib.contextmanager
def drawing(model: edgeseg.Model, overlay: Overlay, hw_px: tuple[int, int]) -> Iterator[Draw]:
    """Yield what draws a frame's mask on it: on the GPU from end to end, where the model allows."""
    tau_ms = model.readout.time_constant_ms
    smoother = edgeseg.TemporalSmoother(tau_ms) if tau_ms > 0.0 else None
    reason = model_unavailable_reason(model)
    if reason is not None:
        log.info("frames go through the host's memory: %s", reason)

        def draw_on_host(frame: Frame, time_s: float) -> Frame:
            memory = smoother.step(frame, 1e3 * time_s) if smoother else None
            outputs = model.infer(model.preprocess(frame))
            result = model.read_out(outputs, hw_px, memory=memory)
            return overlay(frame, result.mask, in_place=True)

        yield draw_on_host
        return
    # One set of buffers: a live picture is waited for, there is nothing to overlap it with.
    with open_frame_path(model, hw_px, wanted=Wanted(), overlay=overlay, sets=1) as path:
        log.info("%s", path.describe())

        def draw(frame: Frame, time_s: float) -> Frame:
            memory = smoother.step(frame, 1e3 * time_s) if smoother else None
            path.submit(frame, memory=memory)
            drawn = path.collect().overlay
            assert drawn is not None
            return drawn

        yield draw


def show(
    draw: Draw,
    reader: Reader,
    writer: subprocess.Popen[bytes],
    timeout_s: float,
) -> None:
    """The loop itself."""
    assert writer.stdin is not None
    delays_ms: list[float] = []
    since = time.monotonic()
    while True:
        frame, read_at = reader.newest(timeout_s)
        picture = draw(frame, read_at)
        try:
            writer.stdin.write(memoryview(picture).cast("B"))
            writer.stdin.flush()
        except BrokenPipeError:
            raise SourceEndedError("the sink ended; what GStreamer said stands above") from None
        now = time.monotonic()
        delays_ms.append(1e3 * (now - read_at))
        if now - since >= REPORT_EVERY_S:
            log.info(
                "%.1f frames/s, %d dropped in all, %.1f ms from frame to picture (median)",
                len(delays_ms) / (now - since),
                reader.dropped,
                statistics.median(delays_ms),
            )
            delays_ms, since = [], now


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("bundle", help="NAME.edgeseg")
    made.add_argument("source", help="see above")
    made.add_argument("--size", default="1920x1080", metavar="WxH", help="of the frames")
    made.add_argument("--fps", default="30", metavar="N|N/D", help="of the source")
    made.add_argument("--backend", default="auto")
    made.add_argument("--device")
    made.add_argument("--precision")
    made.add_argument("--alpha", type=float, default=0.4, help="opacity of the mask, 0 to 1")
    made.add_argument("--timeout", type=float, default=10.0, metavar="S", help="a stall's length")
    made.add_argument(
        "--sink",
        default="videoconvert ! autovideosink sync=false",
        help="end of the pipeline that gets the pictures (default: %(default)s)",
    )
    return made


def on_terminate(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C, so that the pipelines are stopped."""
    raise KeyboardInterrupt


def main() -> int:
    """Parse and run; 0 when told to stop, 1 otherwise."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        run(parser().parse_args())
    except KeyboardInterrupt:
        return 0
    except (EdgesegError, SourceEndedError, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
