"""The compiled kernels: Pillow bit for bit, on every instruction set of this processor."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import edgeseg
from edgeseg import kernels
from edgeseg.errors import InputError, NativeLibraryError
from edgeseg.kernels import _library, reference
from edgeseg.kernels._resize import Resample
from edgeseg.spec import RoiSpec

Image = pytest.importorskip("PIL.Image")
import PIL  # noqa: E402

Picture = npt.NDArray[np.uint8]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PILLOW_MAJOR = int(PIL.__version__.split(".")[0])

PATH = _library.find_library()
INSTRUCTION_SETS = _library.load_library(PATH).info().available
LIBRARIES = {name: _library.load_library(PATH, name) for name in INSTRUCTION_SETS}

any_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
any_filter = pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
sides = st.one_of(st.integers(1, 8), st.integers(1, 70), st.integers(1, 400))


def picture(height: int, width: int, seed: int = 0) -> Picture:
    """Noise, half of the time of extreme values only, which make negative lobes clip."""
    rng = np.random.default_rng((height, width, seed))
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise if seed % 2 else np.where(noise < 128, 0, 255).astype(np.uint8)


def pillow(image: Picture, height: int, width: int, resample: Resample) -> Picture:
    """Pillow's own resize; before version 13 its two passes are ordered by hand."""
    method = Image.Resampling[resample.upper()]
    source = Image.fromarray(np.ascontiguousarray(image))
    lost_rows, lost_columns = image.shape[0] - height, image.shape[1] - width
    if PILLOW_MAJOR < 13 and lost_rows > max(0, 2 * lost_columns):
        source = source.resize((image.shape[1], height), method)
    return np.asarray(source.resize((width, height), method))


@any_filter
@given(
    height_in=sides,
    width_in=sides,
    height=sides,
    width=sides,
    threads=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@example(height_in=1, width_in=1, height=1, width=1, threads=1, seed=1)
@example(height_in=1, width_in=1, height=40, width=50, threads=2, seed=1)
@example(height_in=400, width_in=400, height=1, width=1, threads=2, seed=0)
@example(height_in=37, width_in=53, height=37, width=53, threads=1, seed=1)
@example(height_in=37, width_in=53, height=37, width=20, threads=1, seed=1)
@example(height_in=37, width_in=53, height=20, width=53, threads=1, seed=1)
@example(height_in=390, width_in=60, height=33, width=57, threads=3, seed=0)
@settings(max_examples=150, deadline=None)
def test_equals_pillow_bit_for_bit(
    resample: Resample,
    height_in: int,
    width_in: int,
    height: int,
    width: int,
    threads: int,
    seed: int,
) -> None:
    image = picture(height_in, width_in, seed)
    expected = pillow(image, height, width, resample)
    for isa, native in LIBRARIES.items():
        got = kernels.resize_u8(
            image, height, width, resample=resample, threads=threads, native=native
        )
        np.testing.assert_array_equal(got, expected, err_msg=isa)


@any_isa
@any_filter
@pytest.mark.parametrize(
    ("size_in", "size"),
    [
        ((720, 1280), (256, 256)),
        ((288, 384), (256, 256)),
        ((480, 640), (512, 512)),
        ((3, 2500), (2, 7)),
        ((2500, 3), (7, 2)),
        ((2, 3), (700, 1000)),
    ],
)
def test_equals_pillow_on_frame_sizes_and_extreme_ratios(
    isa: str, resample: Resample, size_in: tuple[int, int], size: tuple[int, int]
) -> None:
    image = picture(*size_in, seed=1)
    got = kernels.resize_u8(image, *size, resample=resample, threads=2, native=LIBRARIES[isa])
    np.testing.assert_array_equal(got, pillow(image, *size, resample))


@any_filter
@given(data=st.data(), height_in=sides, width_in=sides, height=sides, width=sides)
@settings(max_examples=60, deadline=None)
def test_region_equals_crop_then_resize(
    resample: Resample, data: st.DataObject, height_in: int, width_in: int, height: int, width: int
) -> None:
    x = data.draw(st.integers(0, width_in - 1))
    y = data.draw(st.integers(0, height_in - 1))
    roi = RoiSpec(
        x, y, data.draw(st.integers(1, width_in - x)), data.draw(st.integers(1, height_in - y))
    )
    image = picture(height_in, width_in, seed=1)
    crop = image[y : y + roi.height_px, x : x + roi.width_px]
    expected = pillow(crop, height, width, resample)
    for isa, native in LIBRARIES.items():
        got = kernels.resize_u8(image, height, width, resample=resample, roi=roi, native=native)
        np.testing.assert_array_equal(got, expected, err_msg=isa)


@any_filter
@given(height_in=sides, width_in=sides, height=sides, width=sides, seed=st.integers(0, 9))
@example(height_in=90, width_in=31, height=7, width=29, seed=0)
@settings(max_examples=40, deadline=None)
def test_numpy_reference_equals_pillow(
    resample: Resample, height_in: int, width_in: int, height: int, width: int, seed: int
) -> None:
    image = picture(height_in, width_in, seed)
    np.testing.assert_array_equal(
        reference.resize_u8(image, height, width, resample=resample),
        pillow(image, height, width, resample),
    )


@any_isa
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda a: a[::-1], id="rows upwards"),
        pytest.param(lambda a: a[:, ::-1], id="columns leftwards"),
        pytest.param(lambda a: a[:, :, ::-1], id="channels reversed"),
        pytest.param(lambda a: a[5:60:2, 3:70], id="every second row of a part"),
        pytest.param(lambda a: a[:, ::3], id="every third column"),
        pytest.param(lambda a: a.transpose(1, 0, 2), id="transposed"),
        pytest.param(np.asfortranarray, id="column-major"),
        pytest.param(lambda a: np.broadcast_to(a[:1], a.shape), id="one row repeated"),
    ],
)
def test_any_strides(isa: str, view: Callable[[Picture], Picture]) -> None:
    image = view(picture(83, 91, seed=1))
    got = kernels.resize_u8(image, 40, 33, resample="bicubic", native=LIBRARIES[isa])
    np.testing.assert_array_equal(got, pillow(image, 40, 33, "bicubic"))


@any_isa
def test_reads_nothing_outside_the_region(isa: str) -> None:
    """The frame ends where readable memory ends, and the result does not see its surroundings."""
    page = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    for height, width in [(1, 1), (1, 5), (3, 6), (9, 17), (16, 64), (5, 341)]:
        size = 3 * height * width
        pages = -(-size // page) + 1
        memory = mmap.mmap(-1, pages * page)
        whole = np.frombuffer(memory, np.uint8)
        guard = whole.ctypes.data + (pages - 1) * page
        assert libc.mprotect(ctypes.c_void_p(guard), page, 0) == 0
        end = (pages - 1) * page
        frame = whole[end - size : end].reshape(height, width, 3)
        frame[:] = picture(height, width, seed=1)
        for size_out in [(1, 1), (7, 9), (40, 33)]:
            for resample in ("bilinear", "bicubic"):
                got = kernels.resize_u8(frame, *size_out, resample=resample, native=LIBRARIES[isa])
                np.testing.assert_array_equal(got, pillow(frame, *size_out, resample))
        assert libc.mprotect(ctypes.c_void_p(guard), page, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@any_isa
@any_filter
@given(
    height_in=sides,
    width_in=sides,
    height=sides,
    width=sides,
    threads=st.integers(1, 3),
    scale=st.sampled_from([1 / 255, 1.0, 2 / 255]),
)
@example(height_in=300, width_in=40, height=20, width=37, threads=2, scale=1 / 255)
@settings(max_examples=30, deadline=None)
def test_normalization_equals_float64(
    isa: str,
    resample: Resample,
    height_in: int,
    width_in: int,
    height: int,
    width: int,
    threads: int,
    scale: float,
) -> None:
    frame = picture(height_in, width_in, seed=1)
    mean, std = (MEAN, STD) if scale < 1 else ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    got = kernels.resize_normalize(
        frame,
        height,
        width,
        resample=resample,
        scale=scale,
        mean=mean,
        std=std,
        threads=threads,
        native=LIBRARIES[isa],
    )
    rgb = pillow(frame, height, width, resample)[:, :, ::-1].astype(np.float64)
    expected = ((rgb * scale - mean) / std).transpose(2, 0, 1)[np.newaxis]
    assert got.dtype == np.float32
    assert got.shape == (1, 3, height, width)
    # Half a unit in the last place of float32, and what float64 loses before that.
    assert np.all(np.abs(got - expected) <= 2.0**-24 * np.abs(expected) + 1e-14)


@any_isa
def test_normalization_equals_torchvision(isa: str) -> None:
    torch = pytest.importorskip("torch")
    frame = picture(120, 160, seed=1)
    rgb = np.ascontiguousarray(pillow(frame, 64, 96, "bicubic")[:, :, ::-1])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1).float().div(255)
    expected = (tensor - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    got = kernels.resize_normalize(
        frame, 64, 96, resample="bicubic", mean=MEAN, std=STD, native=LIBRARIES[isa]
    )
    assert np.abs(got[0] - expected.numpy()).max() <= 1e-6


def test_every_instruction_set_gives_the_same_floats() -> None:
    frame = picture(97, 131, seed=1)
    results = [
        kernels.resize_normalize(
            frame, 61, 45, resample="bilinear", mean=MEAN, std=STD, native=native
        )
        for native in LIBRARIES.values()
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_reference_normalization() -> None:
    frame = picture(50, 60, seed=1)
    roi = RoiSpec(3, 4, 40, 30)
    got = kernels.resize_normalize(frame, 16, 24, resample="bicubic", mean=MEAN, std=STD, roi=roi)
    expected = reference.resize_normalize(
        frame, 16, 24, resample="bicubic", mean=MEAN, std=STD, roi=roi
    )
    assert np.abs(got - expected).max() <= 2.5e-7


@pytest.mark.parametrize("shape", [(1, 3, 20, 30), (3, 20, 30)])
def test_writes_into_out(shape: tuple[int, ...]) -> None:
    frame = picture(40, 50, seed=1)
    # Space around the buffer shows writes past its ends.
    space = np.full(64 + 3 * 20 * 30 + 64, 7.5, np.float32)
    out = space[64:-64].reshape(shape)
    for native in LIBRARIES.values():
        out[:] = np.nan
        got = kernels.resize_normalize(
            frame, 20, 30, resample="bilinear", mean=MEAN, std=STD, out=out, native=native
        )
        assert np.shares_memory(got, out)
        assert got.shape == (1, 3, 20, 30)
        np.testing.assert_array_equal(
            got,
            kernels.resize_normalize(frame, 20, 30, resample="bilinear", mean=MEAN, std=STD),
        )
        assert np.all(space[:64] == 7.5)
        assert np.all(space[-64:] == 7.5)
    if len(shape) == 4:
        assert got is out


def test_tables_are_replaced_and_still_right() -> None:
    """More pairs of sizes than the cache holds, in turn, twice."""
    image = picture(60, 70, seed=1)
    for _ in range(2):
        for size in range(10, 24):
            got = kernels.resize_u8(image, size, size + 1, resample="bicubic")
            np.testing.assert_array_equal(got, pillow(image, size, size + 1, "bicubic"))


def test_concurrent_calls() -> None:
    images = [picture(200 + 7 * i, 300 - 11 * i, seed=1) for i in range(4)]
    expected = [pillow(image, 64, 80, "bicubic") for image in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(40):
            got = kernels.resize_u8(images[i], 64, 80, resample="bicubic", threads=1 + i % 3)
            if not np.array_equal(got, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_in_a_forked_child() -> None:
    """Worker threads do not survive a fork; the child must start its own."""
    code = (
        "import os, numpy as np\n"
        "from edgeseg import kernels\n"
        "image = np.zeros((200, 200, 3), np.uint8)\n"
        "def call(): return kernels.resize_u8(image, 64, 64, resample='bilinear', threads=3)\n"
        "call()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    call()\n"
        "    os._exit(0)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    root = str(Path(edgeseg.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "0x4"),
        (np.zeros((1, 65536, 3), np.uint8), "65536"),
        ([[[0, 0, 0]]], "list"),
    ],
)
def test_frames_that_are_none(frame: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernels.resize_u8(frame, 2, 2, resample="bilinear")


@pytest.mark.parametrize(
    "roi", [RoiSpec(0, 0, 11, 4), RoiSpec(8, 0, 3, 4), RoiSpec(0, 7, 2, 2), RoiSpec(50, 50, 1, 1)]
)
def test_region_outside_the_frame(roi: RoiSpec) -> None:
    with pytest.raises(InputError, match="leaves the frame of 8x10"):
        kernels.resize_u8(np.zeros((8, 10, 3), np.uint8), 2, 2, resample="bilinear", roi=roi)


@pytest.mark.parametrize(
    "change",
    [
        {"resample": "lanczos"},
        {"height_px": 0},
        {"width_px": 65536},
        {"threads": 0},
        {"threads": 65},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, float("inf"))},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (0.5, float("nan"), 0.5)},
        {"out": np.zeros((1, 3, 4, 5), np.float64)},
        {"out": np.zeros((1, 3, 5, 4), np.float32)},
        {"out": np.zeros((1, 3, 4, 10), np.float32)[..., ::2]},
    ],
)
def test_arguments_that_have_no_meaning(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "frame": np.zeros((8, 8, 3), np.uint8),
        "height_px": 4,
        "width_px": 5,
        "resample": "bilinear",
        "mean": MEAN,
        "std": STD,
        **change,
    }
    with pytest.raises(InputError):
        kernels.resize_normalize(**arguments)


def test_read_only_out() -> None:
    out = np.zeros((1, 3, 4, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(InputError, match="writeable"):
        kernels.resize_normalize(
            np.zeros((8, 8, 3), np.uint8), 4, 5, resample="bilinear", mean=MEAN, std=STD, out=out
        )


def test_library_itself_refuses_bad_arguments() -> None:
    """The C interface checks on its own; ctypes is not the only caller it may have."""
    native = LIBRARIES["generic"]
    pixels = np.zeros((4, 4, 3), np.uint8)
    out = np.zeros((4, 4, 3), np.uint8)

    def call(
        width: int = 4, resample: int = 0, threads: int = 1, address: int | None = None
    ) -> None:
        frame = _library.Frame(pixels.ctypes.data if address is None else address, 12, width, 4)
        native.resize_u8(frame, (4, 4), resample, threads, out.ctypes.data)

    call()
    for bad in (
        {"width": 0},
        {"width": 65536},
        {"width": -1},
        {"resample": 2},
        {"threads": 0},
        {"threads": 65},
        {"address": 0},
    ):
        with pytest.raises(InputError, match="refused"):
            call(**bad)


def test_missing_library(tmp_path: Path) -> None:
    with pytest.raises(NativeLibraryError, match="pip install") as caught:
        _library.find_library([str(tmp_path)])
    assert str(tmp_path) in str(caught.value)


def test_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgeseg, "__version__", "99.0.0")
    with pytest.raises(NativeLibraryError, match=r"built for edgeseg .* is edgeseg 99\.0\.0.*pip"):
        _library.load_library(PATH)


def test_file_that_is_not_a_library(tmp_path: Path) -> None:
    broken = tmp_path / PATH.name
    broken.write_bytes(b"not a shared object")
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        _library.load_library(broken)


def test_unavailable_instruction_set_is_refused() -> None:
    with pytest.raises(NativeLibraryError, match=r"'sparc' cannot be used.*generic"):
        _library.load_library(PATH, "sparc")


def test_instruction_set_can_be_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    _library.library.cache_clear()
    monkeypatch.setenv("EDGESEG_KERNELS_ISA", "generic")
    try:
        assert kernels.library_info().isa == "generic"
    finally:
        monkeypatch.undo()
        _library.library.cache_clear()
    assert kernels.library_info().isa == INSTRUCTION_SETS[-1]


def test_versions_agree() -> None:
    root = Path(edgeseg.__file__).parents[1]
    project = root / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a checkout")
    declared = re.search(r'^version = "([^"]+)"$', project.read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == edgeseg.__version__ == kernels.library_info().version


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_only_the_c_interface_is_exported() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(PATH)], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in listing.stdout.splitlines()]
    assert names
    assert all(name.startswith("edgeseg_") for name in names), names
