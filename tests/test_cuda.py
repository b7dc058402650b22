"""The CUDA kernels: their bodies run on the host, thread by thread, and what nvcc makes of them.

The sources of the CUDA library compile as C++ too; there every thread of a launch is a call of the
same function that nvcc compiles for the device (``kernels/cuda/portable.cuh``).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda_host import COMPILER, KERNELS, REPOSITORY, compile_shared, needs_compiler
from guarded_memory import Memory, Strided, unwritten
from hypothesis import example, given, settings
from hypothesis import strategies as st

import edgeseg
from edgeseg import kernels
from edgeseg.bench import gpu_checks, gpu_homes, gpu_memory
from edgeseg.errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    InputError,
    NativeLibraryError,
)
from edgeseg.kernels import _cuda_library, cuda, reference_blend, reference_fuse, reference_smooth
from edgeseg.kernels._cuda_library import CudaLibrary
from edgeseg.kernels._fuse import View
from edgeseg.spec import FLIPS, Flip, ViewSpec, Weighting

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
CMAKE = shutil.which("cmake") or shutil.which(str(Path(sys.executable).with_name("cmake")))

needs_cmake = pytest.mark.skipif(CMAKE is None, reason="no cmake")
needs_nvcc = pytest.mark.skipif(NVCC is None or CMAKE is None, reason="no nvcc, or no cmake")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TOLERANCE = 1e-5
"""Largest difference of probabilities from the float64 reference."""

Array = npt.NDArray[Any]


def agree(mask: Array, wanted: Array, probability: Array, threshold: float) -> None:
    """Masks are the same but where the reference is within the tolerance of a tie.

    ``probability`` has the shape of the masks for one class, and an axis in front for several.
    """
    several = probability.ndim > mask.ndim
    if not several:
        margin = np.abs(probability - threshold)
    else:
        top = np.sort(probability, axis=0)
        margin = top[-1] - top[-2]
    clear = margin > 2 * TOLERANCE
    np.testing.assert_array_equal(mask[clear], wanted[clear])
    assert set(np.unique(mask)) <= set(range(len(probability) if several else 2))


sides = st.one_of(st.integers(1, 6), st.integers(1, 40))


@st.composite
def fusions(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of one fusion."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.sampled_from([1, 1, 2, 3, 5]))
    count = draw(st.one_of(st.integers(1, 6), st.sampled_from([16, 17, 40])))
    spread = draw(st.sampled_from([0.01, 1.0, 6.0, 60.0]))
    special = draw(st.booleans())
    views = []
    shape = (1, 1)
    for index in range(count):
        if index == 0 or draw(st.booleans()):
            shape = (draw(sides), draw(sides))
        logits = (spread * rng.standard_normal((channels, *shape))).astype(
            draw(st.sampled_from([np.float32, np.float16]))
        )
        if special:
            # One channel and one sign: sums in which such logits cancel have no fraction left.
            plane = logits[rng.integers(channels)].reshape(-1)
            plane[rng.integers(0, plane.size, 2)] = rng.choice([np.inf, -np.inf])
            logits.reshape(-1)[rng.integers(logits.size)] = rng.choice([np.nan, 0.0])
        views.append(View(logits, draw(st.sampled_from(FLIPS))))
    height, width = draw(sides), draw(sides)
    state = None
    if draw(st.booleans()):
        state = rng.random((channels, height, width)).astype(np.float32)
        if special:
            state.reshape(-1)[rng.integers(0, state.size, 2)] = (np.nan, np.inf)
    return {
        "views": views,
        "height_px": height,
        "width_px": width,
        "weighting": draw(st.sampled_from(["entropy", "exp", "mean"])),
        "temperature": draw(st.sampled_from([0.01, 0.3, 1.0, 50.0])),
        "threshold": draw(st.sampled_from([0.0, 0.3, 0.5])),
        "keep": 0.0 if state is None else draw(st.sampled_from([0.0, 0.5, 0.9])),
        "reset": draw(st.booleans()),
        "state": state,
    }


def fuse_on_host(
    host: CudaLibrary, arguments: dict[str, Any], *, aligned: bool = True, in_place: bool = False
) -> tuple[Array, Array, Array | None]:
    """Probability, mask and new state."""
    views, height, width = (arguments[name] for name in ("views", "height_px", "width_px"))
    channels = views[0].logits.shape[0]
    names = ("weighting", "temperature", "threshold", "keep", "reset")
    state = None
    if arguments["state"] is not None:
        state = Memory(arguments["state"], aligned=aligned)
    probability = unwritten((channels, height, width), np.float32, aligned=aligned)
    mask = unwritten((height, width), np.uint8, aligned=aligned)
    inputs = [Memory(view.logits) for view in views]
    cuda.fuse_views(
        [cuda.DeviceView(m, view.flip) for m, view in zip(inputs, views, strict=True)],
        height,
        width,
        settings=Memory(cuda.fusion_settings(**{name: arguments[name] for name in names})),
        state=state,
        probability=state if in_place else probability,
        mask=mask,
        native=host,
    )
    for memory, view in zip(inputs, views, strict=True):
        np.testing.assert_array_equal(memory.checked(), view.logits)
    after = None if state is None else state.checked()
    out = after if in_place else probability.checked()
    assert out is not None
    return out, mask.checked(), after


def compare_fusion(host: CudaLibrary, arguments: dict[str, Any], **how: bool) -> None:
    probability, mask, state = fuse_on_host(host, arguments, **how)
    before = arguments["state"]
    wanted, decided = reference_fuse.fuse_views(
        **{**arguments, "state": None if before is None else before.astype(np.float64)}
    )
    error = np.abs(probability.reshape(wanted.shape) - wanted).max()
    assert error <= TOLERANCE
    agree(mask, decided, wanted, arguments["threshold"])
    if state is not None:
        np.testing.assert_array_equal(state, probability)


@given(arguments=fusions(), aligned=st.booleans())
@settings(max_examples=150, deadline=None)
def test_fusion_equals_the_float64_reference(
    host: CudaLibrary, arguments: dict[str, Any], aligned: bool
) -> None:
    compare_fusion(host, arguments, aligned=aligned)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("weighting", ["entropy", "exp", "mean"])
def test_fusion_equals_the_cpu_kernel(
    host: CudaLibrary, channels: int, weighting: Weighting
) -> None:
    rng = np.random.default_rng(channels)
    flips: tuple[Flip, ...] = ("none", "h", "v")
    views = [
        View(4 * rng.standard_normal((channels, side, side), dtype=np.float32), flip)
        for side in (16, 24)
        for flip in flips
    ]
    arguments = {
        **{"views": views, "height_px": 64, "width_px": 96, "weighting": weighting},
        **{"temperature": 0.7, "threshold": 0.5, "keep": 0.6, "reset": False},
        "state": rng.random((channels, 64, 96), dtype=np.float32),
    }
    state = arguments["state"].copy()
    probability, mask, _ = fuse_on_host(host, arguments)
    fused = kernels.fuse_views(**{**arguments, "state": state})
    wanted = fused.probability.reshape(probability.shape)
    assert np.abs(probability - wanted).max() <= TOLERANCE
    agree(mask, fused.mask, fused.probability.astype(np.float64), 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_probability_may_be_the_state(host: CudaLibrary, channels: int) -> None:
    rng = np.random.default_rng(0)
    compare_fusion(
        host,
        {
            "views": [View(rng.standard_normal((channels, 5, 7), dtype=np.float32))],
            **{"height_px": 12, "width_px": 20, "weighting": "mean", "temperature": 1.0},
            **{"threshold": 0.5, "keep": 0.5, "reset": False},
            "state": rng.random((channels, 12, 20), dtype=np.float32),
        },
        in_place=True,
    )


def test_settings_are_read_from_memory(host: CudaLibrary) -> None:
    """The same call gives another result when the memory it reads has changed."""
    rng = np.random.default_rng(1)
    view = cuda.DeviceView(Memory(rng.standard_normal((1, 8, 8), dtype=np.float32)))
    other = cuda.DeviceView(Memory(rng.standard_normal((1, 8, 8), dtype=np.float32)))
    given = Memory(cuda.fusion_settings())
    probability = unwritten((8, 8), np.float32)
    results = []
    for weighting in ("mean", "entropy"):
        given.array[...] = cuda.fusion_settings(weighting=weighting)
        cuda.fuse_views([view, other], 8, 8, settings=given, probability=probability, native=host)
        results.append(probability.checked().copy())
    assert np.abs(results[0] - results[1]).max() > 1e-3


@given(
    channels=st.sampled_from([1, 1, 2, 3]),
    depth=st.integers(1, 70),
    plane=st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 4), (1, 7), (5, 10), (8, 16)]),
    sigma=st.sampled_from([0.0, 0.3, 1.0, 1.5, 2.0, 3.0, 4.2, 7.0]),
    begin=st.floats(0, 1),
    length=st.floats(0, 1),
    wanted=st.sampled_from([(True, False), (False, True), (True, True)]),
    special=st.booleans(),
    aligned=st.booleans(),
)
@example(
    channels=1, depth=300, plane=(1, 4), sigma=1.5, begin=0, length=1, wanted=(True, True),
    special=False, aligned=True,
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_smoothing_equals_the_float64_reference(
    host: CudaLibrary,
    channels: int,
    depth: int,
    plane: tuple[int, int],
    sigma: float,
    begin: float,
    length: float,
    wanted: tuple[bool, bool],
    special: bool,
    aligned: bool,
) -> None:
    rng = np.random.default_rng((channels, depth, *plane))
    volume = rng.random((channels, depth, *plane), dtype=np.float32)
    if special:
        places = rng.integers(0, volume.size, 3)
        volume.reshape(-1)[places] = rng.choice(np.array([np.nan, np.inf, -np.inf]), 3)
    first = min(int(begin * depth), depth - 1)
    count = max(1, int(length * (depth - first)))
    weights = kernels.gaussian_weights(sigma)
    shape = (count, *plane)
    out = unwritten((channels, *shape), np.float32, aligned=aligned) if wanted[0] else None
    mask = unwritten(shape, np.uint8, aligned=aligned) if wanted[1] else None
    source = Memory(volume, aligned=aligned)
    cuda.smooth_z(
        source,
        weights,
        first=first,
        count=count,
        threshold=Memory(np.array([0.5], np.float32)),
        out=out,
        mask=mask,
        native=host,
    )
    np.testing.assert_array_equal(source.checked(), volume)
    probability = reference_smooth.smooth_z(volume, weights)[:, first : first + count]
    if out is not None:
        scale = np.maximum(1.0, np.abs(probability))
        assert (np.abs(out.checked() - probability) / scale).max() <= TOLERANCE
    if mask is not None:
        decided = reference_smooth.mask_of(probability, 0.5)
        flat = probability[0] if channels == 1 else probability
        agree(mask.checked(), decided, flat, 0.5)


frames = st.tuples(st.integers(1, 60), st.integers(1, 60))


@given(
    frame_px=frames,
    sizes=st.lists(frames, min_size=1, max_size=3, unique=True),
    flips=st.permutations(["h", "v", "hv"]),
    copies=st.integers(0, 3),
    resample=st.sampled_from(["bilinear", "bicubic"]),
    gap=st.integers(0, 5),
)
@example(
    frame_px=(60, 9), sizes=[(7, 8), (60, 9)], flips=["h", "v", "hv"], copies=3,
    resample="bicubic", gap=0,
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_resizing_equals_the_cpu_kernel(
    host: CudaLibrary,
    frame_px: tuple[int, int],
    sizes: list[tuple[int, int]],
    flips: list[Flip],
    copies: int,
    resample: Any,
    gap: int,
) -> None:
    """Bit for bit, and so equal to Pillow."""
    height, width = frame_px
    rng = np.random.default_rng((height, width, gap))
    rows = rng.integers(0, 256, (height, 3 * width + gap), dtype=np.uint8)
    memory = Memory(rows)
    frame = np.lib.stride_tricks.as_strided(
        memory.array, (height, width, 3), (3 * width + gap, 3, 1)
    )
    views = [ViewSpec(h, w, ("none", *flips[:copies])) for h, w in sizes]
    out = [unwritten((len(v.flips), 3, v.height_px, v.width_px), np.float32) for v in views]
    pointer = Strided(frame)
    with cuda.resize_plan(
        frame_px, views, out, resample=resample, mean=MEAN, std=STD, native=host
    ) as plan:
        plan.run(pointer)
        plan.run(pointer)
    wanted = kernels.resize_normalize_views(frame, views, resample=resample, mean=MEAN, std=STD)
    for made, expected in zip(out, wanted, strict=True):
        np.testing.assert_array_equal(made.checked(), expected)
    with pytest.raises(InputError, match="closed"):
        plan.run(pointer)


@given(
    frame_px=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    classes=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.004, 0.3, 0.5, 0.999, 1.0]),
    outline_px=st.sampled_from([0, 1, 2, 5]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_blending_equals_the_reference(
    host: CudaLibrary,
    frame_px: tuple[int, int],
    classes: int,
    alpha: float,
    outline_px: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (*frame_px, 3), dtype=np.uint8)
    coarse = rng.integers(0, classes + 2, (-(-frame_px[0] // 4), -(-frame_px[1] // 4)))
    mask = np.kron(coarse, np.ones((4, 4), int))[: frame_px[0], : frame_px[1]].astype(np.uint8)
    colours = rng.integers(0, 256, (classes, 3), dtype=np.uint8)
    drawn, labels = Memory(frame), Memory(np.ascontiguousarray(mask))
    cuda.blend_overlay(drawn, labels, colours, alpha=alpha, outline_px=outline_px, native=host)
    wanted = reference_blend.blend_overlay(frame, mask, colours, alpha=alpha, outline_px=outline_px)
    np.testing.assert_array_equal(drawn.checked(), wanted)
    np.testing.assert_array_equal(labels.checked(), mask)


def test_the_benchmarks_checks_pass_on_the_host(host: CudaLibrary) -> None:
    """What ``python -m edgeseg.bench.gpu`` compares on a device, on the host's memory."""
    torch = pytest.importorskip("torch")
    checks = gpu_checks.check_home(gpu_homes.CudaHome(gpu_memory.TorchMemory(torch, "cpu"), host))
    assert not gpu_checks.failures(checks)


@needs_compiler
def test_quick_taps_equal_the_exact_ones(tmp_path: Path) -> None:
    """Samples are the same, and shares within the rounding of float, for many pairs of sizes.

    Of half-pixel centres, and of corners laid onto each other.
    """
    source = tmp_path / "taps.cc"
    source.write_text(
        """
        #include <cstdio>
        #include <cstdlib>
        #include "taps.cuh"
        using namespace edgeseg;
        int main() {
            const int large[] = {511, 512, 1000, 4095, 16384, 32768, 65534, 65535};
            unsigned long checked = 0;
            // index * (in - 1) / (out - 1) in whole numbers.
            const auto corner = [](int in, int out, int i) {
                const long long steps = out > 1 ? out - 1 : 1;
                const long long numerator = (long long)(i) * (in - 1);
                const int first = int(numerator / steps);
                const long long rest = first >= in - 1 ? 0 : numerator % steps;
                const float far = float(double(rest) / double(steps));
                return Taps{first, first + (rest != 0), 1.0f - far, far};
            };
            const auto check = [&](int in, int out) {
                const cuda::TapScale scale = cuda::make_tap_scale(in, out);
                const cuda::TapScale corners = cuda::make_corner_scale(in, out);
                const int step = out > 3000 ? 7 : 1;
                for (int i = 0; i < out; i += i < 40 || i > out - 40 ? 1 : step) {
                    const auto same = [](const Taps& exact, const cuda::Between& quick) {
                        return quick.base == exact.first &&
                               quick.base + quick.step == exact.second &&
                               std::abs(quick.far - exact.far) <= 1.2e-7f &&
                               std::abs(1.0f - quick.far - exact.near) <= 1.2e-7f;
                    };
                    if (!same(make_taps(in, out, false, i), cuda::quick_taps(in, out, scale, i)) ||
                        !same(corner(in, out, i), cuda::quick_corner_taps(in, out, corners, i))) {
                        std::printf("in %d out %d index %d\\n", in, out, i);
                        return false;
                    }
                    ++checked;
                }
                return true;
            };
            for (int in = 1; in <= 130; ++in)
                for (int out = 1; out <= 130; ++out)
                    if (!check(in, out)) return 1;
            for (int a : large) {
                for (int b : large)
                    if (!check(a, b)) return 1;
                for (int b = 1; b <= 40; ++b)
                    if (!check(a, b) || !check(b, a)) return 1;
            }
            return checked > 2000000 ? 0 : 2;
        }
        """
    )
    assert COMPILER is not None
    program = tmp_path / "taps"
    folders = [f"-I{KERNELS / folder}" for folder in ("include", "cuda")]
    subprocess.run(
        [COMPILER, "-std=c++17", "-O2", *folders, str(source), "-o", str(program)], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def logits(channels: int = 1) -> Memory:
    return Memory(np.zeros((channels, 4, 4), np.float32))


def test_wrong_arguments_are_refused(host: CudaLibrary) -> None:
    given = Memory(cuda.fusion_settings())
    mask = unwritten((8, 8), np.uint8)
    view = cuda.DeviceView(logits())

    def fuse(views: Sequence[cuda.DeviceView], **more: Any) -> None:
        cuda.fuse_views(views, 8, 8, **{"settings": given, "mask": mask, "native": host, **more})

    with pytest.raises(InputError, match="same classes"):
        fuse([view, cuda.DeviceView(logits(2))])
    with pytest.raises(InputError, match="1 to 256 views"):
        fuse([])
    with pytest.raises(InputError, match="nothing to write"):
        fuse([view], mask=None)
    with pytest.raises(InputError, match="20 bytes"):
        fuse([view], settings=unwritten((4,), np.uint8))
    with pytest.raises(InputError, match=r"mask must have the shape \(8, 8\)"):
        fuse([view], mask=unwritten((8, 9), np.uint8))
    with pytest.raises(InputError, match="float32 or float16, got float64"):
        fuse([cuda.DeviceView(Memory(np.zeros((1, 4, 4))))])
    with pytest.raises(InputError, match="C-contiguous"):
        fuse([cuda.DeviceView(Strided(np.zeros((1, 4, 8), np.float32)[:, :, ::2]))])
    shifted = unwritten((24,), np.uint8).array[1:21]
    with pytest.raises(InputError, match="settings must begin at a multiple of 4 bytes"):
        fuse([view], settings=Strided(shifted))
    halves = np.frombuffer(unwritten((33,), np.uint8).array[1:].data, np.float16).reshape(1, 4, 4)
    with pytest.raises(InputError, match="multiple of 2 bytes, as float16 is read"):
        fuse([cuda.DeviceView(Strided(halves))])
    with pytest.raises(InputError, match="__cuda_array_interface__"):
        fuse([cuda.DeviceView(np.zeros((1, 4, 4), np.float32))])
    with pytest.raises(InputError, match="keep"):
        cuda.fusion_settings(keep=1.0)

    volume = Memory(np.zeros((5, 2, 2), np.float32))
    weights = kernels.gaussian_weights(1.0)
    with pytest.raises(InputError, match="overlap"):
        cuda.smooth_z(volume, weights, out=volume, native=host)
    with pytest.raises(InputError, match="threshold"):
        cuda.smooth_z(volume, weights, mask=unwritten((5, 2, 2), np.uint8), native=host)
    with pytest.raises(InputError, match="not among"):
        cuda.smooth_z(volume, weights, first=3, count=3, out=volume, native=host)
    with pytest.raises(InputError, match="alpha"):
        cuda.blend_overlay(
            unwritten((8, 8, 3), np.uint8), mask, [(1, 2, 3)], alpha=1.1, native=host
        )
    with pytest.raises(InputError, match="colours"):
        cuda.blend_overlay(unwritten((8, 8, 3), np.uint8), mask, [(1, 2)], alpha=0.5, native=host)


def test_bare_pointers_will_do(host: CudaLibrary) -> None:
    source, target = np.zeros((1, 4, 4), np.float32), np.full((4, 4), np.nan, np.float32)
    given = cuda.fusion_settings()
    cuda.fuse_views(
        [cuda.DeviceView(cuda.DevicePointer(source.ctypes.data, source.shape, np.float32))],
        4,
        4,
        settings=cuda.DevicePointer(given.ctypes.data, given.shape, np.uint8),
        probability=cuda.DevicePointer(target.ctypes.data, target.shape, np.float32),
        native=host,
    )
    np.testing.assert_array_equal(target, 0.5)


def test_a_missing_library_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(NativeLibraryError, match=r"cmake\.define\.EDGESEG_CUDA=ON") as caught:
        _cuda_library.find_library([str(tmp_path)])
    assert str(tmp_path) in str(caught.value)


@needs_compiler
def test_a_library_of_another_version_is_refused(tmp_path: Path) -> None:
    header = (KERNELS / "cuda" / "edgeseg_cuda.h").read_text()
    names = set(re.findall(r"\b(edgeseg_cuda_\w+)\(", header))
    assert "edgeseg_cuda_version" in names
    source = tmp_path / "other.c"
    source.write_text(
        "\n".join(f"void {name}(void) {{}}" for name in sorted(names - {"edgeseg_cuda_version"}))
        + '\nconst char* edgeseg_cuda_version(void) { return "0.0.1"; }\n'
    )
    path = compile_shared(tmp_path / "libedgeseg_cuda.so", "-x", "c", str(source))
    with pytest.raises(NativeLibraryError, match=r"built for edgeseg 0\.0\.1.*EDGESEG_CUDA=ON"):
        _cuda_library.load_library(path)


@needs_compiler
def test_want_of_memory_on_the_device_is_told_apart(tmp_path: Path) -> None:
    header = (KERNELS / "cuda" / "edgeseg_cuda.h").read_text()
    names = set(re.findall(r"\b(edgeseg_cuda_\w+)\(", header))
    texts = {"edgeseg_cuda_version", "edgeseg_cuda_error", "edgeseg_cuda_device_count"}
    source = tmp_path / "full.c"
    source.write_text(
        "\n".join(f"int {name}(void) {{ return 2; }}" for name in sorted(names - texts))
        + "\nint edgeseg_cuda_device_count(int* count) { *count = 1; return 0; }"
        + '\nconst char* edgeseg_cuda_error(int status) { (void)status; return "no memory"; }'
        + f'\nconst char* edgeseg_cuda_version(void) {{ return "{edgeseg.__version__}"; }}\n'
    )
    path = compile_shared(tmp_path / "libedgeseg_cuda.so", "-x", "c", str(source))
    with pytest.raises(DeviceMemoryError, match="not enough memory on the device"):
        cuda.prepare(_cuda_library.load_library(path))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libedgeseg_cuda.so"
    path.write_bytes(b"no library")
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        _cuda_library.load_library(path)


def configure(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    assert CMAKE is not None
    return subprocess.run(
        [CMAKE, "-S", str(REPOSITORY), "-B", str(folder), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@needs_cmake
def test_asking_for_cuda_without_nvcc_says_what_to_do(tmp_path: Path) -> None:
    absent = str(tmp_path / "nvcc")
    done = configure(tmp_path / "on", "-DEDGESEG_CUDA=ON", CUDACXX=absent)
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert "EDGESEG_CUDA=ON, but no working CUDA compiler (nvcc) was found" in said
    assert "CUDACXX=/usr/local/cuda/bin/nvcc" in said
    assert "-DEDGESEG_CUDA=OFF" in said
    done = configure(tmp_path / "on", "-DEDGESEG_CUDA=AUTO", CUDACXX=absent)
    assert done.returncode == 0, done.stderr
    assert "no CUDA kernels, since no working CUDA compiler" in done.stdout


@needs_cmake
def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    done = configure(tmp_path / "maybe", "-DEDGESEG_CUDA=maybe")
    assert done.returncode != 0
    assert "AUTO, ON or OFF, not 'maybe'" in " ".join(done.stderr.split())


@functools.cache
def build_with_nvcc(folder: Path) -> Path:
    done = configure(folder, "-DEDGESEG_CUDA=ON", "-DEDGESEG_WERROR=ON")
    assert done.returncode == 0, done.stderr
    assert CMAKE is not None
    command = [CMAKE, "--build", str(folder), "--target", "edgeseg_cuda", "--parallel", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "libedgeseg_cuda.so"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as nvcc makes it for the default architectures."""
    return build_with_nvcc(tmp_path_factory.mktemp("nvcc"))


def device_code(library: Path) -> set[str]:
    """``sm_90`` for machine code and ``compute_90`` for PTX, read from the fat binaries inside.

    A fat binary begins with a magic number; each of its entries has a kind (1: PTX, 2: machine
    code), the size of its header and of its contents, and the architecture.
    """
    contents = library.read_bytes()
    found = set()
    for match in re.finditer(re.escape(struct.pack("<IHH", 0xBA55ED50, 1, 16)), contents):
        (size,) = struct.unpack_from("<Q", contents, match.start() + 8)
        at = match.start() + 16
        end = at + size
        while at < end:
            kind, header, payload = struct.unpack_from("<H2xIQ", contents, at)
            (number,) = struct.unpack_from("<I", contents, at + 28)
            found.add(f"{'compute' if kind == 1 else 'sm'}_{number}")
            at += header + payload
    return found


@needs_nvcc
def test_nvcc_builds_code_for_every_device(built: Path) -> None:
    assert NVCC is not None
    done = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True)
    offered = [number for number in (87, 90, 110) if f"sm_{number}" in done.stdout.split()]
    wanted = {*(f"sm_{number}" for number in offered), f"compute_{offered[0]}"}
    code = device_code(built)
    assert code == wanted
    tool = shutil.which("cuobjdump")
    if tool is None and (triton := importlib.util.find_spec("triton")) is not None:
        assert triton.origin is not None
        tool = shutil.which(str(Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"))
    if tool is not None:
        command = [tool, "--list-elf", "--list-ptx", str(built)]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert set(re.findall(r"\.(sm_\d+)\.", listed)) == {f"sm_{n}" for n in offered}
    info = _cuda_library.load_library(built).info()
    assert info.version == edgeseg.__version__
    assert {name.partition("-")[0] for name in info.architectures} == {str(n) for n in offered}


@needs_nvcc
@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_cuda_library_needs_no_cuda_library(built: Path) -> None:
    command = ["readelf", "--wide", "--dynamic", str(built)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", listed)
    assert needed
    assert not [name for name in needed if "cuda" in name or "nv" in name]
    command = ["readelf", "--wide", "--dyn-syms", str(built)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    exported = [
        fields[7]
        for fields in map(str.split, listed.splitlines())
        if len(fields) > 7 and fields[4] == "GLOBAL" and fields[6] != "UND"
    ]
    assert exported
    assert not [name for name in exported if not name.startswith("edgeseg_cuda_")]


@needs_nvcc
def test_a_machine_without_a_gpu_is_told_so(built: Path) -> None:
    library = _cuda_library.load_library(built)
    try:
        library.require_device()
    except BackendUnavailableError as error:
        assert "no CUDA device can be used here" in str(error)
        assert "driver" in str(error) or "device" in str(error)
        with pytest.raises(BackendUnavailableError):
            cuda.prepare(library)
    else:
        cuda.prepare(library)
