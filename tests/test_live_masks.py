"""Masks in files: what is written comes back, and no result is never mistaken for an empty mask."""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shown_pictures import shown

from edgeseg.errors import DataError, InputError, OutputError, UsageError
from edgeseg.live.sinks.mask_lines import parse_line, to_line
from edgeseg.live.sinks.masks import (
    MaskFolderSink,
    MaskLinesSink,
    open_mask_sink,
    read_masks,
)
from edgeseg.live.sinks.rle import decode_rle, encode_rle

SIZE = (96, 160)
TWO = ("background", "polyp", "tool")


def loop_rle(mask: np.ndarray) -> list[int]:
    """COCO's definition, pixel by pixel."""
    counts, value, run = [], 0, 0
    for pixel in mask.ravel(order="F"):
        if bool(pixel) != bool(value):
            counts.append(run)
            value, run = 1 - value, 0
        run += 1
    return [*counts, run]


def blob(value: int = 1, *, at: tuple[int, int] = (30, 60)) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, at[::-1], (25, 14), 20, 0, 360, value, -1)
    return mask


MASKS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=23),
    elements=st.sampled_from([0, 1]),
)


@settings(deadline=None)
@given(mask=MASKS)
def test_run_lengths_equal_those_of_a_plain_loop(mask: np.ndarray) -> None:
    counts = encode_rle(mask)
    assert counts == loop_rle(mask)
    assert all(type(count) is int for count in counts)
    np.testing.assert_array_equal(decode_rle(counts, mask.shape), mask)
    assert encode_rle(mask.astype(bool)) == counts
    assert encode_rle(np.asfortranarray(mask) * 255) == counts


def test_run_lengths_are_cocos() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    assert encode_rle(mask) == [2, 1, 1, 2]
    assert encode_rle(1 - mask) == [0, 2, 1, 1, 2]
    assert encode_rle(np.zeros((3, 5), np.uint8)) == [15]
    assert encode_rle(np.ones((3, 5), np.uint8)) == [0, 15]
    tools = pytest.importorskip("pycocotools.mask")
    packed = tools.frPyObjects({"size": [2, 3], "counts": encode_rle(mask)}, 2, 3)
    np.testing.assert_array_equal(tools.decode(packed), mask)


@settings(deadline=None)
@given(counts=st.lists(st.integers(-3, 40), max_size=8), size=st.tuples(*[st.integers(-1, 9)] * 2))
def test_run_lengths_that_do_not_fit_are_refused(counts: list[int], size: tuple[int, int]) -> None:
    height, width = size
    fits = min(size) > 0 and all(c >= 0 for c in counts) and sum(counts) == height * width
    if fits:
        mask = decode_rle(counts, size)
        assert mask.shape == size
        assert mask.sum() == sum(counts[1::2])
    else:
        with pytest.raises(DataError):
            decode_rle(counts, size)


def test_a_picture_of_any_size_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(DataError, match="pixels"):
        decode_rle([10**12], (10**6, 10**6))
    with pytest.raises(DataError, match="whole numbers"):
        decode_rle([1.0, True], (1, 2))  # type: ignore[list-item]
    with pytest.raises(InputError):
        encode_rle(np.zeros((2, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError):
        encode_rle(np.zeros((0, 2), np.uint8))


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "masks.jsonl"
    several = blob(1)
    several[80:90, 100:150] = 2
    given = [
        shown(0, 10.0, reason="no signal", index=-1),
        shown(1, 10.04, mask=blob(1), media_s=0.04),
        shown(2, 10.08, mask=several, mask_index=1),
        shown(3, 10.12, mask=np.zeros(SIZE, np.uint8)),
        shown(4, 10.16, reason="result too old", index=3),
    ]
    with MaskLinesSink(path, classes=TWO) as sink:
        for number, picture in enumerate(given):
            sink.write(picture)
            # Each line is in the file before the next picture comes.
            assert path.read_bytes().count(b"\n") == number + 1
    found = list(read_masks(path))
    assert len(found) == len(given)
    for line, picture in zip(found, given, strict=True):
        assert line.number == picture.number
        assert line.frame == picture.frame.index
        assert line.mask_index == picture.mask_index
        assert (line.state, line.reason, line.detail) == (
            picture.state,
            picture.reason,
            picture.detail,
        )
        assert line.captured_s == picture.frame.captured_s
        assert line.media_s == picture.frame.media_s
        assert line.shown_s == pytest.approx(picture.shown_s, abs=1e-6)
        assert line.frame_age_ms == pytest.approx(50.0)
        assert line.age_ms == (None if picture.mask is None else pytest.approx(50.0))
        assert line.size == SIZE
        if picture.mask is None:
            assert line.mask is None
        else:
            assert line.mask is not None
            np.testing.assert_array_equal(line.mask, picture.mask)
    # None and empty are two things, in the file as well.
    records = [json.loads(text) for text in path.read_text().splitlines()]
    assert records[0]["mask"] is None
    assert records[0]["reason"] == "no signal"
    assert records[3]["mask"] == []
    assert [(piece["class"], piece["name"]) for piece in records[2]["mask"]] == [
        (1, "polyp"),
        (2, "tool"),
    ]
    assert records[2]["mask"][1]["size"] == list(SIZE)
    assert sum(records[2]["mask"][1]["counts"][1::2]) == 500


def test_the_only_class_of_a_model_has_its_name() -> None:
    record = json.loads(to_line(shown(0, mask=blob(1)), ("polyp",), 0.0))
    assert [piece["name"] for piece in record["mask"]] == ["polyp"]


def test_the_time_of_capture_is_told_by_the_clock_on_the_wall(tmp_path: Path) -> None:
    path = tmp_path / "masks.jsonl"
    before = time.time()
    with MaskLinesSink(path, classes=("polyp",)) as sink:
        sink.write(shown(0, time.monotonic() - 3600.0))
    (line,) = read_masks(path)
    said = datetime.datetime.fromisoformat(line.captured_utc.replace("Z", "+00:00"))
    assert before - 3601 < said.timestamp() < time.time() - 3599


def test_what_is_not_finite_is_null() -> None:
    record = json.loads(to_line(shown(0, 5.0, media_s=float("nan")), ("polyp",), 0.0))
    assert record["media_s"] is None


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "masks.jsonl"
    with MaskLinesSink(path, classes=TWO) as sink:
        for number in range(5):
            sink.write(shown(number, float(number), mask=blob(1 + number % 2)))
    return path


def test_a_torn_last_line_is_left_out_wherever_it_is_torn(lines: Path) -> None:
    data = lines.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == 10]
    rng = np.random.default_rng(0)
    for length in [0, 1, *ends, *(end - 1 for end in ends), *rng.integers(0, len(data), 30)]:
        lines.write_bytes(data[:length])
        assert [line.number for line in read_masks(lines)] == list(
            range(sum(end <= length for end in ends))
        )


def test_a_damaged_line_in_the_middle_is_named(lines: Path) -> None:
    texts = lines.read_bytes().splitlines(keepends=True)
    texts[2] = texts[2][:40] + b"\n"
    lines.write_bytes(b"".join(texts))
    found = []
    with pytest.raises(DataError, match=r"masks\.jsonl, line 3"):
        found.extend(line.number for line in read_masks(lines))
    assert [line.number for line in _some(lines, 2)] == [0, 1]


def _some(path: Path, count: int) -> list[object]:
    reader = read_masks(path)
    return [next(reader) for _ in range(count)]


CHANGES: list[dict[str, object]] = [
    {"state": "fine"},
    {"reason": "bad weather"},
    {"mask": None},
    {"reason": "no signal"},
    {"state": "none"},
    {"size": [96, 161]},
    {"size": [10**9, 10**9]},
    {"size": [96]},
    {"size": "96x160"},
    {"mask": [{"class": 1, "size": [96, 160], "counts": [-1, 15361]}]},
    {"mask": [{"class": 0, "size": [96, 160], "counts": [0, 15360]}]},
    {"mask": [{"class": 256, "size": [96, 160], "counts": [0, 15360]}]},
    {"mask": [{"class": 1, "size": [96, 160], "counts": 5}]},
    {"mask": [{"class": 1, "size": [96, 160], "counts": [0, 15360]}] * 2},
    {"mask": [{"class": 1}]},
    {"mask": [5]},
    {"mask": 5},
    {"frame": 1.5},
    {"frame": True},
    {"captured_s": "now"},
    {"age_ms": [1]},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_line_that_contradicts_itself_is_refused(change: dict[str, object], lines: Path) -> None:
    record = json.loads(lines.read_text().splitlines()[0])
    record.update(change)
    with pytest.raises(DataError, match="here"):
        parse_line(json.dumps(record).encode(), "here")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_damage_gets_through_as_anything_but_an_error(data: st.DataObject) -> None:
    text = bytearray(to_line(shown(0, mask=blob()), ("polyp",), 0.0).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        line = parse_line(bytes(text), "here")
    except DataError:
        return
    assert line.mask is not None
    assert line.mask.shape == line.size


@pytest.mark.parametrize("text", [b"[]", b"1", b"", b"\xff\xfe", b"[" * 100000, b'{"size":NaN}'])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(DataError, match="here"):
        parse_line(text, "here")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        next(read_masks(tmp_path / "none.jsonl"))


def test_lines_never_replace_a_file_unless_told(lines: Path) -> None:
    before = lines.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        MaskLinesSink(lines, classes=TWO)
    assert lines.read_bytes() == before
    with MaskLinesSink(lines, classes=TWO, force=True) as sink:
        sink.write(shown(7))
    assert [line.number for line in read_masks(lines)] == [7]


def test_masks_of_one_class_are_black_and_white(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    with MaskFolderSink(folder, classes=("polyp",)) as sink:
        sink.write(shown(0, time.monotonic(), mask=blob(1)))
    (path,) = folder.iterdir()
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, blob(255))


def test_masks_of_several_classes_keep_their_numbers(tmp_path: Path) -> None:
    mask = blob(1)
    mask[80:90] = 2
    with MaskFolderSink(tmp_path / "masks", classes=TWO) as sink:
        sink.write(shown(0, time.monotonic(), mask=mask))
    (path,) = (tmp_path / "masks").iterdir()
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), mask)


def test_names_tell_frame_and_time_and_whether_the_mask_was_moved(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    wall_s, clock_s = time.time(), time.monotonic()
    with MaskFolderSink(folder, classes=("polyp",)) as sink:
        sink.write(shown(0, clock_s, mask=blob(), index=7))
        sink.write(shown(1, clock_s, mask=blob(), index=7))  # displayed again
        sink.write(shown(2, clock_s + 1, reason="result too old", index=8))
        sink.write(shown(3, clock_s + 2, mask=blob(), index=9, mask_index=7))
    first, second = sorted(path.name for path in folder.iterdir())
    assert first.startswith("00000007_")
    assert first.endswith("Z.png")
    stamp = first[len("00000007_") : -len(".png")]
    said = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%S.%fZ")
    assert abs(said.replace(tzinfo=datetime.timezone.utc).timestamp() - wall_s) < 1.0
    assert second.startswith("00000009_")
    assert second.endswith("Z_predicted-from-00000007.png")


def test_a_folder_is_not_mixed_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        MaskFolderSink(tmp_path, classes=("polyp",))
    with pytest.raises(OutputError, match="no folder"):
        MaskFolderSink(tmp_path / "a file", classes=("polyp",))
    with MaskFolderSink(tmp_path, classes=("polyp",), force=True) as sink:
        sink.write(shown(0, mask=blob()))
    assert len(os.listdir(tmp_path)) == 2
    # Half of a file that a killed process left is no content.
    other = tmp_path / "other"
    other.mkdir()
    (other / ".edgeseg-1.tmp").write_text("half")
    MaskFolderSink(other, classes=("polyp",)).close()


def test_a_folder_that_goes_away_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    sink = MaskFolderSink(folder, classes=("polyp",))
    folder.rmdir()
    with pytest.raises(OutputError, match=r"cannot write .*masks") as told:
        sink.write(shown(0, mask=blob()))
    assert "\n" not in str(told.value)


class Disk:
    """What ``os.statvfs`` says."""

    f_frsize = 4096

    def __init__(self, free_mb: float) -> None:
        self.f_bavail = int(free_mb * 1e6 / 4096)


@pytest.mark.parametrize("name", ["m.jsonl", "m"])
def test_space_is_kept_free(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_mb = [100.0]
    monkeypatch.setattr(os, "statvfs", lambda target: Disk(free_mb[0]))
    path = tmp_path / name
    with open_mask_sink(path, classes=("polyp",)) as sink:
        sink.write(shown(0, mask=blob()))
        free_mb[0] = 50.0
        with pytest.raises(OutputError, match="50 MB are left on its disk, and 64 MB are kept"):
            sink.write(shown(1, mask=blob()))
    assert len(list(read_masks(path) if path.is_file() else path.iterdir())) == 2
    with pytest.raises(OutputError, match="kept free"):
        open_mask_sink(tmp_path / f"other {name}", classes=("polyp",))
    assert not (tmp_path / "other m.jsonl").exists()
    open_mask_sink(tmp_path / f"other {name}", classes=("polyp",), keep_free_mb=0).close()


def test_the_suffix_chooses_the_form(tmp_path: Path) -> None:
    with open_mask_sink(tmp_path / "a.jsonl", classes=TWO) as sink:
        assert isinstance(sink, MaskLinesSink)
    with open_mask_sink(tmp_path / "folder", classes=TWO) as sink:
        assert isinstance(sink, MaskFolderSink)
    with pytest.raises(UsageError, match="jsonl"):
        open_mask_sink(tmp_path / "a.json", classes=TWO)
    assert os.listdir(tmp_path) == ["folder"], "a file without any line is not kept"


@pytest.mark.parametrize("name", ["a/b/masks.jsonl", "a/b/masks"])
def test_folders_are_made(name: str, tmp_path: Path) -> None:
    with open_mask_sink(tmp_path / name, classes=TWO) as sink:
        sink.write(shown(0, mask=blob()))
    assert (tmp_path / name).exists()
