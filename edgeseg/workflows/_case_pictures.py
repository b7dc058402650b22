"""One picture a case for a person to judge: image, truth and prediction side by side."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.metrics import Score

__all__ = ["case_picture", "encode_png"]

Image = npt.NDArray[np.uint8]

_PANEL_HEIGHT_PX = 360
_MAX_PANEL_WIDTH_PX = 640
_MARGIN_PX = 8
_TITLE_PX = 28
_FILL = 0.35
_BACKGROUND = (24, 24, 24)
_TEXT = (240, 240, 240)
_TRUTH_LINE = (255, 255, 255)
# Okabe and Ito's palette (BGR), without the hues of mucosa first: told apart by the colour-blind.
_CLASS_COLOURS = (
    (233, 180, 86),
    (66, 228, 240),
    (115, 158, 0),
    (0, 159, 230),
    (178, 114, 0),
    (167, 121, 204),
    (0, 94, 213),
)


def case_picture(
    case_id: str, image: Image, truth: Image, prediction: Image, score: Score
) -> Image:
    """Draw a case.

    The truth and the prediction are shown as translucent regions with outlines, each class in its
    colour; the truth's outline is repeated in white on the prediction.

    Args:
        case_id: shown with the scores above the panels; characters beyond ASCII become ``?``.
        image: uint8 (H, W, 3), BGR.
        truth: uint8 (H, W), class indices.
        prediction: uint8 (H, W), class indices.
        score: what to write beside the name.

    Returns:
        uint8 (h, w, 3), BGR: three panels of at most 360x640 pixels each.
    """
    height, width = image.shape[:2]
    scale = min(_PANEL_HEIGHT_PX / height, _MAX_PANEL_WIDTH_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, size, interpolation=shrink)
    small_truth = cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    small_prediction = cv2.resize(prediction, size, interpolation=cv2.INTER_NEAREST_EXACT)
    predicted = _paint(small, small_prediction)
    for index in _present(small_truth):
        _outline(predicted, small_truth == index, _TRUTH_LINE)
    panels = (
        ("image", small),
        ("truth", _paint(small, small_truth)),
        ("prediction (truth in white)", predicted),
    )
    # A narrow picture still needs room for its captions.
    column = max(size[0], 240)
    canvas = np.full(
        (size[1] + 2 * _TITLE_PX + _MARGIN_PX, 3 * column + 4 * _MARGIN_PX, 3),
        _BACKGROUND,
        np.uint8,
    )
    figures = f"{case_id}   Dice {score.dice:.4f}   IoU {score.iou:.4f}   HD95 {score.hd95:.1f} px"
    _write(canvas, figures, (_MARGIN_PX, 20), 0.55)
    for number, (caption, panel) in enumerate(panels):
        left = _MARGIN_PX + number * (column + _MARGIN_PX)
        _write(canvas, caption, (left, _TITLE_PX + 18), 0.45)
        canvas[2 * _TITLE_PX : 2 * _TITLE_PX + size[1], left : left + size[0]] = panel
    return canvas


def encode_png(picture: Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise DataError(f"a picture of shape {picture.shape} cannot be encoded as PNG")
    return bytes(data)


def _paint(image: Image, mask: Image) -> Image:
    painted: Image = image.copy()
    for index in _present(mask):
        colour = _CLASS_COLOURS[(index - 1) % len(_CLASS_COLOURS)]
        region = mask == index
        blended = painted[region] * (1.0 - _FILL) + np.array(colour) * _FILL
        painted[region] = np.rint(blended).astype(np.uint8)
        _outline(painted, region, colour)
    return painted


def _present(mask: Image) -> list[int]:
    return [int(index) for index in np.unique(mask) if index != 0]


def _outline(image: Image, region: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    lines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, lines, -1, colour, 1, cv2.LINE_8)


def _write(canvas: Image, text: str, origin: tuple[int, int], scale: float) -> None:
    plain = text.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(canvas, plain, origin, font, scale, _TEXT, 1, cv2.LINE_AA)
