"""Images, masks and the folders that hold them.

A data folder holds ``image/`` and ``mask/`` (or ``images/`` and ``masks/``, ``img/`` and
``label/``), whose files belong together by stem; where no masks are needed, pictures and videos may
also lie in it directly. Videos are only listed here; ``edgeseg.video`` decodes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg._files import sha256_file
from edgeseg._imagefile import FormatError, ImageHeader, palette_png_as_indices, probe
from edgeseg.errors import DataError, InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_IMAGE_PX",
    "VIDEO_SUFFIXES",
    "Case",
    "DataFolder",
    "natural_key",
    "read_image",
    "read_mask",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts"}
)
MAX_IMAGE_PX = 1 << 27
"""Largest picture that is decoded: 134 million pixels, 400 MB as BGR."""

_MAX_FILE_BYTES = 8 * MAX_IMAGE_PX
_IMAGE_FOLDERS = ("image", "images", "img", "imgs")
_MASK_FOLDERS = ("mask", "masks", "label", "labels")
_SHOWN_NAMES = 5

Image = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]
MaskUse = Literal["required", "optional", "ignored"]


def read_image(path: Path | str) -> Image:
    """Decode a picture as ``PIL.Image.open(path).convert("RGB")`` does, in BGR order.

    The training code of the model families reads its pictures through PIL, so the same choices are
    made here: EXIF orientation is not applied, alpha is dropped, grey and palette pictures are
    expanded. Values of 16 bits keep their upper 8 (PIL does so for colour, and saturates grey).

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        DataError: missing, empty, not an image, truncated, damaged, or of more than
            ``MAX_IMAGE_PX`` pixels; the message names the file.
    """
    path = Path(path)
    data, header = _load(path)
    if header.format == "tiff":
        return _tiff_colours(_eight_bits(_decode(data, cv2.IMREAD_UNCHANGED, path), path), path)
    return _decode(data, cv2.IMREAD_COLOR, path)


def read_mask(path: Path | str, classes: int = 1) -> Image:
    """Read a label image as class indices.

    For one class (and for two, background and foreground) the result is 0 or 1. Foreground is a
    grey value above 127, as in the training code; a mask whose largest value is 1 already holds 0
    and 1. A lossless mask whose largest value lies in 2..127 is neither and is refused rather than
    read as empty. Colour masks are turned grey with PIL's weights (ITU-R 601).

    For more classes the stored values are the class indices: grey values, or the indices of a
    palette PNG. Colour is accepted where the three channels agree.

    Args:
        path: the mask.
        classes: number of classes that the model knows: 1, or all of them with the background.

    Returns:
        uint8 (H, W), values below ``max(classes, 2)``.

    Raises:
        DataError: as ``read_image``, or values that cannot be read as above.
    """
    if not 1 <= classes <= 256:
        raise InputError(f"classes must lie between 1 and 256, got {classes}")
    path = Path(path)
    data, header = _load(path)
    if classes <= 2 and not (classes == 2 and header.palette):
        return _binary(_grey(_decode(data, cv2.IMREAD_UNCHANGED, path), path), header, path)
    if header.palette:
        labels = _palette_indices(data, path)
    else:
        labels = _single_channel(_decode(data, cv2.IMREAD_UNCHANGED, path), path)
    largest = int(labels.max())
    if largest >= classes:
        raise DataError(
            f"{path}: the mask holds the value {largest}, but the model has {classes} classes "
            f"(0 to {classes - 1}): store class indices"
        )
    return np.ascontiguousarray(labels, dtype=np.uint8)


@dataclass(frozen=True)
class Case:
    """A picture and its mask, if it has one."""

    id: str
    """Stem of the file, unique within a folder."""
    image: Path
    mask: Path | None

    def read(self, classes: int = 1) -> tuple[Image, Image | None]:
        """The picture, uint8 (H, W, 3) BGR, and its class indices, uint8 (H, W).

        Raises:
            DataError: as ``read_image`` and ``read_mask``, or the two differ in size.
        """
        image = read_image(self.image)
        if self.mask is None:
            return image, None
        mask = read_mask(self.mask, classes)
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{self.mask} is {mask.shape[1]}x{mask.shape[0]} pixels, but {self.image} is "
                f"{image.shape[1]}x{image.shape[0]}: a mask must have the size of its image"
            )
        return image, mask


@dataclass(frozen=True)
class DataFolder:
    """Pictures with or without masks, and videos, in natural order of their names."""

    root: Path
    cases: tuple[Case, ...]
    videos: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path | str, masks: MaskUse = "optional") -> DataFolder:
        """Find what lies at ``path``; no picture is decoded yet.

        Args:
            path: a folder, or one picture or video file.
            masks: ``required``: every picture must have its mask; ``optional``: pairs are made
                if there is a mask folder; ``ignored``: mask folders are not looked at.

        Raises:
            DataError: nothing there, a mask without image or the reverse, two files of one stem,
                or two folders that could be meant.
        """
        root = Path(path)
        if root.is_file():
            return cls._of_file(root, masks)
        if not root.is_dir():
            raise DataError(f"{root}: no such file or folder")
        image_folder = _one_of(root, _IMAGE_FOLDERS)
        pictures, videos = _listing(image_folder or root)
        by_stem = _by_stem(pictures)
        mask_folder = None if masks == "ignored" else _one_of(root, _MASK_FOLDERS)
        if mask_folder is not None and image_folder is None:
            raise DataError(
                f"{root} holds {mask_folder.name}/ but no image folder: put the pictures in image/"
            )
        if mask_folder is None:
            if masks == "required":
                raise DataError(
                    f"{root}: masks are needed: lay the pictures in image/ and the masks, of the "
                    f"same stems, in mask/{_hint(root)}"
                )
            paired: dict[str, Path] = {}
        else:
            paired = _by_stem(_listing(mask_folder)[0])
            _check_pairs(by_stem, paired, image_folder or root, mask_folder)
        cases = tuple(Case(stem, image, paired.get(stem)) for stem, image in by_stem.items())
        if not cases and (masks == "required" or not videos):
            wanted = "pictures" if masks == "required" else "pictures or videos"
            raise DataError(
                f"{image_folder or root} holds no {wanted} "
                f"({_suffixes(IMAGE_SUFFIXES)}){_hint(root)}"
            )
        return cls(root, cases, tuple(videos))

    @classmethod
    def _of_file(cls, path: Path, masks: MaskUse) -> DataFolder:
        if masks == "required":
            raise DataError(
                f"{path} is a file: masks are needed, name a folder of image/ and mask/"
            )
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            return cls(path.parent, (), (path,))
        if suffix in IMAGE_SUFFIXES:
            return cls(path.parent, (Case(path.stem, path, None),), ())
        raise DataError(
            f"{path}: {suffix or 'a file without suffix'} is neither a picture "
            f"({_suffixes(IMAGE_SUFFIXES)}) nor a video ({_suffixes(VIDEO_SUFFIXES)})"
        )

    def content_hashes(self) -> dict[Path, str]:
        """Hex SHA-256 of each picture's and each video's file, in order."""
        files = [*(case.image for case in self.cases), *self.videos]
        return {path: sha256_file(path) for path in files}


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in pieces if p)


def _load(path: Path) -> tuple[bytes, ImageHeader]:
    """Bytes and header of an image file whose size is acceptable."""
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise DataError(f"{path}: a file of {size} bytes is larger than any accepted picture")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path}: the file is empty")
    try:
        header = probe(data)
    except FormatError as error:
        raise DataError(f"{path}: {error}") from error
    if header.width_px * header.height_px > MAX_IMAGE_PX:
        raise DataError(
            f"{path}: {header.width_px}x{header.height_px} pixels are more than the "
            f"{MAX_IMAGE_PX} accepted: scale the picture down"
        )
    return data, header


def _decode(data: bytes, flags: int, path: Path) -> Samples:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from error
    if image is None:
        raise DataError(f"{path}: cannot be decoded (damaged or of an unknown kind)")
    return np.asarray(image)


def _eight_bits(image: Samples, path: Path) -> Image:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return (image >> 8).astype(np.uint8)
    raise DataError(f"{path}: samples of type {image.dtype} are not supported: save it with 8 bits")


def _tiff_colours(image: Image, path: Path) -> Image:
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    # OpenCV has multiplied the colours by the alpha here, which cannot be undone.
    if image.shape[2] == 4 and int(image[..., 3].min()) < 255:
        raise DataError(f"{path}: a TIFF with transparency: save it as PNG, or without alpha")
    return np.ascontiguousarray(image[..., :3])


def _grey(image: Samples, path: Path) -> Samples:
    """Samples as one channel; colour by PIL's ``convert("L")``; 16-bit values as they are."""
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: a mask of {image.dtype} samples: save it with 8 bits")
    if image.ndim == 2:
        return image
    blue, green, red = (image[..., i].astype(np.uint32) for i in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _binary(grey: Samples, header: ImageHeader, path: Path) -> Image:
    largest = int(grey.max())
    # A JPEG's values are never exact, so a small one there is noise around 0.
    if header.format != "jpeg":
        if largest <= 1:
            return grey.astype(np.uint8)
        if largest <= 127:
            raise DataError(
                f"{path}: the largest value of the mask is {largest}: neither 0/1 nor 0/255"
            )
    half = 127 if largest <= 255 else 32767
    return (grey > half).astype(np.uint8)


def _single_channel(image: Samples, path: Path) -> Samples:
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: a mask of {image.dtype} samples: save it with 8 bits")
    if image.ndim == 2:
        return image
    first = image[..., 0]
    if not all(np.array_equal(first, image[..., i]) for i in (1, 2)):
        raise DataError(
            f"{path}: a colour mask, where class indices are needed: save it as grey or palette PNG"
        )
    return np.asarray(first)


def _palette_indices(data: bytes, path: Path) -> Samples:
    spread = _decode(palette_png_as_indices(data), cv2.IMREAD_UNCHANGED, path)
    depth_bits = data[24]  # IHDR is always first: signature 8, length 4, type 4, width 4, height 4
    largest = (1 << depth_bits) - 1
    return spread if depth_bits == 8 else spread.astype(np.uint16) * largest // 255


def _one_of(root: Path, names: Iterable[str]) -> Path | None:
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{root} holds both {found[0].name}/ and {found[1].name}/: leave the one that is meant"
        )
    return found[0] if found else None


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures and videos of a folder; hidden files and files of other kinds are passed over."""
    try:
        files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    files.sort(key=lambda p: (natural_key(p.name), p.name))
    pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    return pictures, videos


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise DataError(
                f"{path.parent} holds two files of the stem {path.stem!r}: "
                f"{found[path.stem].name} and {path.name}"
            )
        found[path.stem] = path
    return found


def _check_pairs(
    images: dict[str, Path], masks: dict[str, Path], image_folder: Path, mask_folder: Path
) -> None:
    lonely_images = [images[stem].name for stem in images if stem not in masks]
    if lonely_images:
        raise DataError(
            f"{image_folder}: no mask of the same stem in {mask_folder} for {_names(lonely_images)}"
        )
    lonely_masks = [masks[stem].name for stem in masks if stem not in images]
    if lonely_masks:
        raise DataError(
            f"{mask_folder}: no image of the same stem in {image_folder} for {_names(lonely_masks)}"
        )


def _names(names: list[str]) -> str:
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _suffixes(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))


def _hint(root: Path) -> str:
    """Points to data folders one level below, the usual mistake."""
    below = sorted(
        p.name
        for p in root.iterdir()
        if p.is_dir() and any((p / name).is_dir() for name in _IMAGE_FOLDERS)
    )
    return f"; did you mean {' or '.join(str(root / name) for name in below)}?" if below else ""
