"""The GPU benchmark, as far as a machine without a GPU can try it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeseg.bench import gpu, gpu_baselines, gpu_checks
from edgeseg.bench.gpu_homes import MEAN, STD, CpuHome
from edgeseg.kernels import View, reference, reference_blend, reference_decide, reference_fuse
from edgeseg.spec import Flip

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_cpu_kernels_pass_the_checks() -> None:
    checks = gpu_checks.check_home(CpuHome())
    assert not gpu_checks.failures(checks)
    named = {check.what.split()[0] for check in checks}
    assert named == {"fuse", "smooth", "decide", "blend", "resize"}


class Wrong(CpuHome):
    """Every kernel is a little wrong, or does not write everything."""

    def fuse(self, *arguments: Any) -> Any:
        probability, mask = super().fuse(*arguments)
        probability.flat[3] += 3e-5
        return probability, mask

    def smooth(self, *arguments: Any) -> Any:
        probability, mask = super().smooth(*arguments)
        probability.flat[-1] = np.nan
        return probability, mask

    def blend(self, *arguments: Any) -> Any:
        drawn = super().blend(*arguments)
        drawn.flat[7] ^= 1
        return drawn

    def decide(self, *arguments: Any) -> Any:
        mask, counts = super().decide(*arguments)
        counts[0] -= 1
        return mask, counts

    def resize(self, *arguments: Any) -> Any:
        results = super().resize(*arguments)
        results[0][1] = results[0][0]
        return results


def test_wrong_kernels_fail_the_checks() -> None:
    checks = gpu_checks.check_home(Wrong())
    assert gpu_checks.failures(checks) == checks


class Mislabelled(CpuHome):
    def fuse(self, *arguments: Any) -> Any:
        probability, mask = super().fuse(*arguments)
        return probability, 1 - np.minimum(mask, 1)

    def decide(self, *arguments: Any) -> Any:
        mask, counts = super().decide(*arguments)
        mask[0, 0] ^= 1
        return mask, counts


def test_wrong_labels_fail_the_checks() -> None:
    failed = gpu_checks.failures(gpu_checks.check_home(Mislabelled()))
    assert len(failed) == 15 + 4
    assert all(check.wrong_labels > 0 for check in failed)


def test_the_composition_in_torch_computes_the_fusion() -> None:
    rng = np.random.default_rng(0)
    flips: Sequence[Flip] = ("none", "h", "hv")
    batches = [rng.standard_normal((3, 1, side, side + 2), dtype=np.float32) for side in (4, 6)]
    state = rng.random((20, 24), dtype=np.float32)
    views = [View(c, f) for b in batches for c, f in zip(b, flips, strict=True)]
    wanted, decided = reference_fuse.fuse_views(
        views, 20, 24, keep=0.8, threshold=0.5, state=state.astype(np.float64)
    )
    held, mask = torch.from_numpy(state.copy()), torch.zeros((20, 24), dtype=torch.uint8)
    fuse = gpu_baselines.fusion(torch, flips, (20, 24))
    fuse([torch.from_numpy(batch) for batch in batches], held, mask, 0.8, 0.5)
    assert np.abs(held.numpy() - wanted).max() <= 2e-5
    clear = np.abs(wanted - 0.5) > 1e-4
    np.testing.assert_array_equal(mask.numpy()[clear], decided[clear])


@pytest.mark.parametrize("channels", [1, 4])
def test_the_composition_in_torch_decides_the_mask(channels: int) -> None:
    planes = np.random.default_rng(3).random((channels, 6, 8), dtype=np.float32)
    wanted, _, values = reference_decide.decide_mask(
        planes, 21, 30, level=0.4 if channels == 1 else None
    )
    mask = torch.full((21, 30), 255, dtype=torch.uint8)
    decide = gpu_baselines.decision(torch, (21, 30))
    decide(torch.from_numpy(planes), mask, torch.tensor([0.4]))
    ranked = np.sort(values, axis=0)
    margin = np.abs(values[0] - 0.4) if channels == 1 else ranked[-1] - ranked[-2]
    clear = margin > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask.numpy()[clear], wanted[clear])


def test_the_composition_in_torch_draws_the_mask() -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    mask = rng.integers(0, 2, (9, 11), dtype=np.uint8)
    colours = np.array([(10, 200, 90)], np.uint8)
    wanted = reference_blend.blend_overlay(frame, mask, colours, alpha=0.5)
    table = torch.from_numpy(np.vstack([np.zeros((1, 3)), colours]).astype(np.float32))
    drawn = torch.from_numpy(frame.copy())
    gpu_baselines.blend(torch, table, 0.5)(drawn, torch.from_numpy(mask))
    difference = drawn.numpy().astype(int) - wanted.astype(int)
    assert np.abs(difference).max() <= 1


def test_the_composition_in_torch_resamples() -> None:
    rng = np.random.default_rng(2)
    frame = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    flips: Sequence[Flip] = ("none", "h", "v")
    (made,) = gpu_baselines.resize(torch, [(16, 24)], flips, mean, std)(torch.from_numpy(frame))
    wanted = reference.resize_normalize(frame, 16, 24, resample="bilinear", mean=MEAN, std=STD)[0]
    mirrored: Sequence[npt.NDArray[Any]] = (wanted, wanted[:, :, ::-1], wanted[:, ::-1])
    levels = 2.0 / 255.0 / min(STD)
    for copy, expected in zip(made.numpy(), mirrored, strict=True):
        assert np.abs(copy - expected).max() <= levels


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "figures.json"
    assert gpu.main(["-o", str(target)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "needs an NVIDIA GPU" in said
    assert not target.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_with_a_gpu_everything_passes(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    assert gpu.main(["-o", str(target), "--rounds", "2", "--slices", "16"]) == 0
    document = json.loads(target.read_text())
    assert set(document["checks"]) == {"CPU", "CUDA", "Triton"}
    assert all(check["passed"] for found in document["checks"].values() for check in found)
