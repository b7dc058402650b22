"""Which frames calibration uses, and which it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import number_of, write_video

from edgeseg.calib import CalibrationFrames
from edgeseg.calib import frames as frames_module
from edgeseg.dataset import read_image
from edgeseg.errors import CalibrationError, UsageError
from edgeseg.preprocess import Preprocessor
from edgeseg.spec import PreprocessSpec, ViewSpec, VolumeSpec
from edgeseg.video import open_source

SPEC = PreprocessSpec(32, 48, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pictures(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"case{i}.png"), image)
    return folder


def test_frames_are_the_preprocessed_pictures_each_time(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data" / "image", 5)
    frames = CalibrationFrames.open(tmp_path / "data", SPEC)
    preprocess = Preprocessor(SPEC)
    expected = [preprocess(read_image(folder / f"case{i}.png")) for i in range(5)]
    for _ in range(2):
        found = list(frames)
        assert len(found) == len(frames) == 5
        for (a,), b in zip(found, expected, strict=True):
            assert a.dtype == np.float32 and a.shape == (1, 3, 32, 48)
            np.testing.assert_array_equal(a, b)
    assert frames.sources == tuple(f"case{i}.png" for i in range(5))
    record = frames.record("edgeseg", "mse")
    assert record.frames == 5 and record.quantizer == "edgeseg" and record.method == "mse"
    for name, digest in zip(record.sources, record.sha256, strict=True):
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_frames_of_several_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "data", 3)
    views = (ViewSpec(32, 48, ("none", "h", "v")), ViewSpec(16, 16, ("none", "hv")))
    spec = dataclasses.replace(SPEC, views=views)
    frames = CalibrationFrames.open(folder, spec)
    for index, (first, second) in enumerate(frames):
        assert first.shape == (3, 3, 32, 48) and second.shape == (2, 3, 16, 16)
        expected = Preprocessor(SPEC)(read_image(folder / f"case{index}.png"))[0]
        np.testing.assert_array_equal(first[0], expected)
        np.testing.assert_array_equal(first[1], expected[..., ::-1])
        np.testing.assert_array_equal(second[1], second[0, :, ::-1, ::-1])
    paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
    frames.save_arrays(paths)
    for position, path in enumerate(paths):
        found = np.load(path, allow_pickle=False)
        np.testing.assert_array_equal(found, np.concatenate([f[position] for f in frames]))
    frame_bytes = 4 * (3 * 3 * 32 * 48 + 2 * 3 * 16 * 16)
    monkeypatch.setattr(frames_module, "MAX_ARRAY_BYTES", 3 * frame_bytes - 1)
    with pytest.raises(CalibrationError, match="at most 2 calibration frames"):
        frames.save_arrays(paths)


def test_views_take_fewer_frames(tmp_path: Path) -> None:
    """Nine images a frame: 64 of them run the model as often as 576 frames of one."""
    folder = pictures(tmp_path, 70)
    assert len(CalibrationFrames.open(folder, SPEC)) == 70
    views = tuple(ViewSpec(16 * n, 16, ("none", "h", "v")) for n in (1, 2, 3))
    for some, expected in ((views, 64), (views[:1], 70), (views[:2], 70)):
        spec = dataclasses.replace(SPEC, views=some)
        assert len(CalibrationFrames.open(folder, spec)) == expected
        assert len(CalibrationFrames.open(folder, spec, limit=66)) == 66


def test_a_limit_samples_evenly(tmp_path: Path) -> None:
    pictures(tmp_path, 20)
    frames = CalibrationFrames.open(tmp_path, SPEC, limit=4)
    assert frames.sources == ("case2.png", "case7.png", "case12.png", "case17.png")
    assert len(list(frames)) == 4
    with pytest.raises(UsageError, match="positive"):
        CalibrationFrames.open(tmp_path, SPEC, limit=0)


def test_videos_count_by_their_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 10)
    write_video(tmp_path / "clip.mp4", frames=30)
    frames = CalibrationFrames.open(tmp_path, SPEC, limit=8)
    assert len(frames) == 8
    assert sum(name.endswith(".png") for name in frames.sources) == 2
    assert frames.sources[-1] == "clip.mp4"
    seen: list[int] = []

    class Spy(Preprocessor):
        def tensors(self, frame: np.ndarray) -> tuple[np.ndarray, ...]:
            if frame.shape[1] == 160:
                seen.append(number_of(frame))
            return super().tensors(frame)

    monkeypatch.setattr(frames, "_preprocess", Spy(SPEC))
    assert len(list(frames)) == 8
    with open_source(tmp_path / "clip.mp4") as source:
        numbers = [number_of(frame.image) for frame in source]
    assert len(seen) == 6 and set(seen) <= set(numbers)
    assert set(np.diff([numbers.index(n) for n in seen])) == {5}


def test_overlap_with_the_validation_set_is_refused_by_content(tmp_path: Path) -> None:
    data, val = pictures(tmp_path / "a", 4), pictures(tmp_path / "b", 3, start=10)
    CalibrationFrames.open(data, SPEC, validation=val)
    (val / "renamed.png").write_bytes((data / "case2.png").read_bytes())
    with pytest.raises(CalibrationError, match=r"1 calibration file.*case2\.png = .*renamed\.png"):
        CalibrationFrames.open(data, SPEC, validation=val)
    # Also where the sample would have left it out.
    with pytest.raises(CalibrationError, match=r"case2\.png"):
        CalibrationFrames.open(data, SPEC, limit=1, validation=val)
    with pytest.raises(CalibrationError, match="4 calibration file"):
        CalibrationFrames.open(data, SPEC, validation=data)


def test_a_video_in_both_sets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_video(tmp_path / "a" / "x.mp4", frames=5)
    (tmp_path / "b" / "y.mp4").write_bytes((tmp_path / "a" / "x.mp4").read_bytes())
    with pytest.raises(CalibrationError, match=r"x\.mp4 = .*y\.mp4"):
        CalibrationFrames.open(tmp_path / "a", SPEC, validation=tmp_path / "b")


def test_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration data.*absent"):
        CalibrationFrames.open(tmp_path / "absent", SPEC)
    with pytest.raises(CalibrationError, match="holds no pictures or videos"):
        CalibrationFrames.open(tmp_path, SPEC)
    pictures(tmp_path / "ok", 1)
    with pytest.raises(CalibrationError, match="no validation data"):
        CalibrationFrames.open(tmp_path / "ok", SPEC, validation=tmp_path / "absent")


@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    pictures(tmp_path, 3)
    bad = tmp_path / "case1.png"
    data = {"empty": b"", "text": b"hello", "truncated": bad.read_bytes()[:-400]}[content]
    bad.write_bytes(data)
    frames = CalibrationFrames.open(tmp_path, SPEC)
    with pytest.raises(CalibrationError, match=r"case1\.png"):
        list(frames)


def test_a_broken_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0" * 5000)
    with pytest.raises(CalibrationError, match=r"clip\.mp4"):
        CalibrationFrames.open(tmp_path, SPEC)


def test_few_frames_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, frames_module.FEW_FRAMES - 1)
    with caplog.at_level(logging.WARNING):
        frames = CalibrationFrames.open(tmp_path, SPEC)
    assert "calibrated on 31 frame(s)" in caplog.text
    assert frames.warnings[0].what == "calibrated on 31 frame(s)"
    caplog.clear()
    pictures(tmp_path, 1, start=100)
    assert CalibrationFrames.open(tmp_path, SPEC).warnings == () and not caplog.records


def test_arrays_are_written_frame_by_frame_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = CalibrationFrames.open(pictures(tmp_path / "d", 3), SPEC)
    frames.save_arrays([tmp_path / "x.npy"])
    array = np.load(tmp_path / "x.npy", allow_pickle=False)
    np.testing.assert_array_equal(array, np.concatenate([tensor for (tensor,) in frames]))
    monkeypatch.setattr(frames_module, "MAX_ARRAY_BYTES", 2 * 3 * 32 * 48 * 4)
    with pytest.raises(CalibrationError, match="at most 2 calibration frames"):
        frames.save_arrays([tmp_path / "y.npy"])
    assert not (tmp_path / "y.npy").exists()


def test_slices_of_scans_are_frames(tmp_path: Path) -> None:
    """Evenly over all slices, grey as a segmentation makes them, along the model's axis."""
    nib = pytest.importorskip("nibabel")
    from edgeseg.volume.intensity import normalize_volume
    from edgeseg.volume.nifti import read_scan

    folder = tmp_path / "image"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        voxels = np.random.default_rng(seed).normal(size=(9, 11, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    volume = VolumeSpec("minmax", "coronal")
    spec = dataclasses.replace(SPEC, volume=volume)
    frames = CalibrationFrames.open(tmp_path, spec)
    assert len(frames) == 22 and frames.sources == ("a.nii.gz", "b.nii.gz")
    grey = np.concatenate(
        [normalize_volume(read_scan(folder / f"{n}.nii.gz"), volume) for n in "ab"]
    )
    preprocess = Preprocessor(spec)
    for (found,), plane in zip(frames, grey, strict=True):
        expected = preprocess(np.repeat(plane[:, :, None], 3, axis=2))
        np.testing.assert_array_equal(found, expected)
    few = CalibrationFrames.open(folder / "b.nii.gz", spec, limit=3)
    assert len(few) == 3 and few.sources == ("b.nii.gz",)
    chosen = [1, 5, 9]
    for (found,), index in zip(few, chosen, strict=True):
        expected = preprocess(np.repeat(grey[11 + index][:, :, None], 3, axis=2))
        np.testing.assert_array_equal(found, expected)


def test_a_damaged_scan_is_a_calibration_error(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    (tmp_path / "scan.nii.gz").write_bytes(b"no scan")
    with pytest.raises(CalibrationError, match=r"scan\.nii\.gz"):
        CalibrationFrames.open(tmp_path, SPEC)
