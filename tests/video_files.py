"""Small videos that several tests share, encoded by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    """uint8 (H, W, 3) BGR: texture, and the number as eight black or white squares."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 140, (height, width, 3), dtype=np.uint8)
    image[:, (number * 5) % width : (number * 5) % width + 12] = (40, 200, 90)
    for bit in range(8):
        image[:16, 16 * bit : 16 * bit + 16] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: np.ndarray) -> int:
    """The number that ``numbered_frame`` wrote."""
    return sum(
        1 << bit for bit in range(8) if image[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 127
    )


def write_video(
    path: Path,
    *,
    frames: int = 30,
    width: int = 160,
    height: int = 96,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    times_s: list[Fraction] | None = None,
    audio: bool = False,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Write ``numbered_frame`` 0, 1, ...; H.264 has B-frames and a key frame every 10."""
    options = codec_options
    if options is None:
        options = {"crf": "20", "bf": "2", "g": "10"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        base = Fraction(1, 90000) if times_s else Fraction(1, rate)
        stream.codec_context.time_base = base
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        sound = container.add_stream("aac", rate=44100) if audio else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(i, width, height), format="bgr24")
            frame.pts = int(times_s[i] / base) if times_s else i
            frame.time_base = base
            container.mux(stream.encode(frame))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((2, 1764), np.float32), format="fltp", layout="stereo"
                )
                silence.sample_rate, silence.pts = 44100, 1764 * i
                silence.time_base = Fraction(1, 44100)
                container.mux(sound.encode(silence))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """A copy that ends after ``share`` of the bytes."""
    data = path.read_bytes()
    target = path.with_name(f"cut_{path.name}")
    target.write_bytes(data[: int(len(data) * share)])
    return target


def decode_all(path: Path, pix_fmt: str = "bgr24") -> tuple[list[np.ndarray], list[Fraction]]:
    """Pictures and presentation times of a video, by PyAV's simplest means."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [
            (f.to_ndarray(format=pix_fmt), f.pts * stream.time_base)
            for f in container.decode(stream)
        ]
    return [image for image, _ in found], [time for _, time in found]
