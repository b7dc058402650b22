"""Fitting probes: what is learned, what is written, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.errors import (
    CheckpointError,
    CheckpointShapeError,
    DataError,
    OutputError,
    UsageError,
)
from edgeseg.metrics import dice, resize_mask
from edgeseg.workflows.fit import FitReport, fit

torch = pytest.importorskip("torch")

from edgeseg.export import load, read_backbone  # noqa: E402
from edgeseg.export.backbone import Dinov3Backbone  # noqa: E402
from edgeseg.export.fitting import features  # noqa: E402
from edgeseg.export.fitting.features import FeatureCache, soft_target  # noqa: E402
from edgeseg.export.fitting.samples import (  # noqa: E402
    Sample,
    choose_samples,
    picture_samples,
    split_samples,
)
from edgeseg.export.fitting.train import epochs_for, fit_loss  # noqa: E402
from edgeseg.export.fitting.volumes import volume_cases, volume_samples  # noqa: E402
from edgeseg.spec import PreprocessSpec, VolumeSpec  # noqa: E402
from tests.checkpoints import make_checkpoint, make_state_dict, to_timm_spelling  # noqa: E402
from tests.reference import reference_features, reference_logits  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((64, 64), (96, 96))
QUICK = {"resolutions_px": SIZES, "epochs": 60, "hidden": 32, "threads": 1}


def blob_picture(seed: int, height: int = 90, width: int = 110) -> tuple[np.ndarray, np.ndarray]:
    """A bright reddish ellipse on dark noise, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 70, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    centre = (int(rng.integers(30, width - 30)), int(rng.integers(30, height - 30)))
    axes = (int(rng.integers(14, 28)), int(rng.integers(14, 28)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    inside = mask > 0
    image[inside] = rng.integers(0, 30, (int(inside.sum()), 3)) + np.array([90, 110, 220])
    return image, mask


def write_pair(root: Path, stem: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind, picture in (("image", image), ("mask", mask)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / kind / f"{stem}.png"), picture)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of blobs."""
    root = tmp_path_factory.mktemp("blobs")
    for seed in range(12):
        write_pair(root, f"{seed:02d}", *blob_picture(seed))
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone of a random SegDINO."""
    return make_checkpoint(tmp_path_factory.mktemp("backbone") / "segdino.pth", "segdino_v2")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, backbone: Path, blobs: Path) -> FitReport:
    stages: dict[str, tuple[int, int]] = {}
    report = fit(
        backbone,
        blobs,
        tmp_path_factory.mktemp("fitted") / "mvr.pth",
        **QUICK,
        progress=lambda stage, done, total: stages.update({stage: (done, total)}),
    )
    assert list(stages) == ["read", "features", "train", "score"]
    assert all(done == total for done, total in stages.values())
    assert stages["features"] == (12, 12)
    return report


def test_probes_learn_what_they_have_not_seen(fitted: FitReport, blobs: Path) -> None:
    assert (fitted.learned, fitted.held_out, fitted.unit) == (10, 2, "images")
    everything = np.mean(
        [dice(np.ones_like(m), m) for m in (blob_picture(seed)[1] for seed in range(12))]
    )
    assert fitted.dice is not None
    assert everything < 0.5
    assert fitted.dice >= 0.8
    assert len(fitted.dice_per_size) == 2
    assert min(fitted.dice_per_size) >= 0.7
    columns, rows = fitted.table()
    assert columns == ("resolution", "Dice")
    assert [row[0] for row in rows] == ["64x64", "96x96", "fused"]
    assert any("10 images" in line for line in fitted.remarks())


def test_the_checkpoint_is_a_dino_mvr_with_its_settings(fitted: FitReport, backbone: Path) -> None:
    content = torch.load(fitted.output, weights_only=True)
    assert set(content) == {"state_dict", "config"}
    config = content["config"]
    assert config["resolutions"] == [[64, 64], [96, 96]]
    assert config["flips"] == ["h", "v"]
    assert config["classes"] == ["foreground"]
    assert config["weighting"] == "entropy"
    assert config["resample"] == "bilinear"
    assert config["mean"] == list(MEAN)
    assert config["std"] == list(STD)
    assert "volume" not in config
    written, given = content["state_dict"], torch.load(backbone, weights_only=True)
    frozen = [key for key in given if key.startswith("backbone.") and "mask_token" not in key]
    for key in frozen:
        if key.endswith("qkv.bias"):
            mask = given[f"{key}_mask"]
            assert torch.equal(written[key] * written[f"{key}_mask"], given[key] * mask), key
        else:
            assert torch.equal(written[key], given[key]), key
    probes = {key: tuple(value.shape) for key, value in written.items() if key[:6] == "probes"}
    assert probes == {
        f"probes.{i}.{layer}.{kind}": shape
        for i in range(3)
        for layer, kind, shape in (
            (0, "weight", (32, 64)),
            (0, "bias", (32,)),
            (2, "weight", (1, 32)),
            (2, "bias", (1,)),
        )
    }
    loaded = load(fitted.output)
    assert loaded.family.name == "dino_mvr"
    assert loaded.config.resolutions_px == SIZES
    assert loaded.config.hidden == (32, 32, 32)


def test_the_checkpoint_computes_what_the_paper_says(fitted: FitReport) -> None:
    """In float64, over the file's own keys; then the held-out Dice of one resolution."""
    state = torch.load(fitted.output, weights_only=True)["state_dict"]
    model = load(fitted.output).model
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        (logits,) = model(image)
    expected = reference_logits("dino_mvr", state, image, heads=2)
    error = (logits.double() - expected).abs().max().item()
    assert error <= 1e-4 * expected.abs().max().item()


def test_the_reported_dice_is_that_of_the_file(fitted: FitReport, blobs: Path) -> None:
    """Through PIL, the float64 formulation and torch's own resampling."""
    Image = pytest.importorskip("PIL.Image")
    state = torch.load(fitted.output, weights_only=True)["state_dict"]
    samples = choose_samples(picture_samples(blobs, 1), limit=None, seed=0)
    _, held_out = split_samples(samples, 0.2, seed=0)
    scores = []
    for sample in held_out:
        picture = Image.open(blobs / "image" / f"{sample.id}.png").convert("RGB")
        truth = Image.open(blobs / "mask" / f"{sample.id}.png")
        truth = np.asarray(truth.resize((96, 96), Image.Resampling.NEAREST)) > 127
        views = []
        for height, width in SIZES:
            small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
            tensor = torch.from_numpy((small / 255.0 - np.array(MEAN)) / np.array(STD))
            logits = reference_logits("dino_mvr", state, tensor.permute(2, 0, 1)[None], heads=2)
            fine = torch.nn.functional.interpolate(logits, size=(96, 96), mode="bilinear")
            views.append(torch.sigmoid(fine)[0, 0].numpy())
        p = np.stack(views)
        entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
        weight = 1.0 - entropy / np.log(2.0)
        fused = (weight * p).sum(0) / weight.sum(0)
        scores.append([dice(q > 0.5, truth) for q in (*views, fused)])
    expected = np.mean(scores, axis=0)
    # Features were rounded to float16: a pixel or two may lie on the other side.
    assert np.abs(np.array(fitted.dice_per_size) - expected[:2]).max() <= 5e-3
    assert abs(fitted.dice - expected[2]) <= 5e-3


def test_the_same_seed_gives_the_same_file(
    tmp_path: Path, fitted: FitReport, backbone: Path, blobs: Path
) -> None:
    again = fit(backbone, blobs, tmp_path / "again.pth", **QUICK)
    other = fit(backbone, blobs, tmp_path / "other.pth", **{**QUICK, "epochs": 1}, seed=1)
    digests = [
        hashlib.sha256(report.output.read_bytes()).hexdigest() for report in (fitted, again, other)
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert (again.dice, again.loss) == (fitted.dice, fitted.loss)
    before = torch.get_rng_state()
    fit(backbone, blobs, tmp_path / "third.pth", **{**QUICK, "epochs": 1}, limit=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_five_images_are_enough(tmp_path: Path, backbone: Path, blobs: Path) -> None:
    report = fit(
        backbone, blobs, tmp_path / "five.pth", **{**QUICK, "epochs": None}, limit=5, seed=3
    )
    assert (report.learned, report.held_out) == (4, 1)
    assert report.epochs == 60
    assert report.dice is not None
    assert report.dice >= 0.6


def test_nothing_held_out(tmp_path: Path, backbone: Path, blobs: Path) -> None:
    quick = {**QUICK, "epochs": 1}
    report = fit(backbone, blobs, tmp_path / "all.pth", **quick, held_out=0, limit=4)
    assert (report.learned, report.held_out, report.dice) == (4, 0, None)
    assert report.table()[1] == []
    assert load(report.output).classes == 1


def test_several_classes(tmp_path: Path, backbone: Path) -> None:
    """Class 2 is another colour; class 3 is named and never seen."""
    for seed in range(8):
        image, mask = blob_picture(seed)
        labels = (mask > 0).astype(np.uint8)
        cv2.rectangle(image, (2, 2), (30, 40), (230, 80, 20), -1)
        cv2.rectangle(labels, (2, 2), (30, 40), 2, -1)
        write_pair(tmp_path / "data", f"{seed}", image, labels)
    report = fit(
        backbone,
        tmp_path / "data",
        tmp_path / "classes.pth",
        **QUICK,
        classes=("red", "blue", "none"),
    )
    assert report.classes == ("background", "red", "blue", "none")
    assert report.unseen_classes == ("none",)
    assert any("none" in line for line in report.remarks())
    # Nothing of the third class is there or found, which counts as 1.
    assert report.dice is not None
    assert report.dice >= 0.7
    loaded = load(report.output)
    assert loaded.classes == 4
    assert loaded.config.names == report.classes
    with pytest.raises(DataError, match="neither 0/1"):
        fit(backbone, tmp_path / "data", tmp_path / "x.pth", **QUICK, classes=("background", "red"))


def test_features_are_those_of_the_backbone(tmp_path: Path, backbone: Path, blobs: Path) -> None:
    source = read_backbone(backbone)
    model = Dinov3Backbone(source.config, (1, 2, 3)).eval()
    model.load_checkpoint(source.weights)
    samples = picture_samples(blobs, 1)[:3]
    sizes = ((80, 64), (48, 96))
    cache = FeatureCache.allocate(tmp_path, len(samples), model, sizes, 1)
    cache.read_labels(samples)
    specs = [PreprocessSpec(*size, "bilinear", MEAN, STD) for size in sizes]
    cache.run(samples, model, specs)
    Image = pytest.importorskip("PIL.Image")
    state = torch.load(backbone, weights_only=True)
    weights = {key: value.double() for key, value in state.items()}
    for row in range(3):
        picture = Image.open(blobs / "image" / f"{row:02d}.png").convert("RGB")
        mask = cv2.imread(str(blobs / "mask" / f"{row:02d}.png"), cv2.IMREAD_GRAYSCALE) > 127
        assert np.array_equal(cache.truths[row], resize_mask(mask, 80, 64))
        for view, (height, width) in zip(cache.views, sizes, strict=True):
            small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
            tensor = torch.from_numpy((small / 255.0 - np.array(MEAN)) / np.array(STD))
            maps = reference_features(
                weights, tensor.permute(2, 0, 1)[None], heads=2, blocks=[1, 2, 3]
            )
            taken = view.inputs([row])
            for found, expected in zip(taken, maps, strict=True):
                wanted = expected.flatten(2).transpose(1, 2)
                limit = 2.0**-10 * wanted.abs() + 2e-4
                assert bool(((found.double() - wanted).abs() <= limit).all())
            assert abs(float(view.soft_targets([row]).mean()) - mask.mean()) <= 0.01


def test_targets_are_means_over_cells() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (60, 84), np.uint8)
    shares = soft_target(labels, 5, 7, 3)
    assert shares.shape == (3, 5, 7)
    for index in range(3):
        expected = (labels == index).reshape(5, 12, 7, 12).mean(axis=(1, 3))
        assert np.abs(shares[index] - expected).max() <= 1e-6
    assert np.abs(soft_target(labels, 5, 7, 1)[0] - shares[1:].sum(0)).max() <= 1e-6
    # Cells that do not divide the mask: the share of all cells is that of the mask.
    odd = soft_target((labels == 1).astype(np.uint8), 7, 11, 1)
    assert abs(float(odd.mean()) - (labels == 1).mean()) <= 1e-6


@pytest.mark.parametrize("channels", [1, 4])
def test_the_loss_is_cross_entropy_and_dice(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    logits = torch.randn(2, channels, 3, 5, generator=generator)
    shares = torch.rand(2, channels, 12, 20, generator=generator)
    if channels > 1:
        shares = shares / shares.sum(1, keepdim=True)
    fine = torch.nn.functional.interpolate(logits.double(), scale_factor=4, mode="bilinear").numpy()
    wanted = shares.double().numpy()
    if channels == 1:
        p = 1.0 / (1.0 + np.exp(-fine))
        entropy = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()
    else:
        e = np.exp(fine)
        p = e / e.sum(1, keepdims=True)
        entropy = -(wanted * np.log(p)).sum(1).mean()
        p, wanted = p[:, 1:], wanted[:, 1:]
    spare = 0.002 * 12 * 20
    overlap, size = (p * wanted).sum((2, 3)), (p + wanted).sum((2, 3))
    expected = entropy + 1.0 - ((2 * overlap + spare) / (size + spare)).mean()
    assert abs(float(fit_loss(logits, shares)) - expected) <= 1e-5


def test_default_epochs() -> None:
    assert epochs_for(views=3, samples=4) == 60
    assert epochs_for(views=3, samples=16) == 50
    assert epochs_for(views=3, samples=300) == 10


def named(count: int, group: str | None = None) -> list[Sample]:
    def read() -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("nothing is read to choose")

    return [Sample(f"{i}", group or f"{i}", i, read) for i in range(count)]


def test_choice_and_split_are_drawn_by_the_seed() -> None:
    samples = named(20)
    five, eight = (choose_samples(samples, limit=n, seed=4) for n in (5, 8))
    assert eight[:5] == five
    assert choose_samples(samples, limit=8, seed=5) != eight
    assert sorted(s.place for s in choose_samples(samples, limit=None, seed=4)) == list(range(20))
    learn, apart = split_samples(eight, 0.2, seed=4)
    assert (len(learn), len(apart)) == (6, 2)
    assert not set(learn) & set(apart)
    assert [len(part) for part in split_samples(five, 0.01, seed=4)] == [4, 1]
    assert [len(part) for part in split_samples(five, 3, seed=4)] == [2, 3]
    assert [len(part) for part in split_samples(five, 0, seed=4)] == [5, 0]


def test_of_one_volume_a_block_is_held_out_and_of_several_whole_ones() -> None:
    one = named(30, "scan")
    places = set()
    for seed in range(6):
        learn, apart = split_samples(choose_samples(one, limit=None, seed=seed), 0.2, seed=seed)
        taken = sorted(sample.place for sample in apart)
        assert taken == list(range(taken[0], taken[0] + 6))
        assert len(learn) == 24
        places.add(taken[0])
    assert len(places) > 1
    several = [*named(4, "a"), *named(6, "b"), *named(2, "c")]
    learn, apart = split_samples(choose_samples(several, limit=None, seed=0), 0.2, seed=0)
    assert {s.group for s in learn}.isdisjoint(s.group for s in apart)
    assert len({s.group for s in apart}) == 1


@pytest.mark.parametrize("held_out", [-0.1, 1.5, float("nan"), float("inf"), 5, 0.95])
def test_impossible_shares_are_refused(held_out: float) -> None:
    with pytest.raises(UsageError):
        split_samples(named(5), held_out, seed=0)


BACKBONES = {
    "bare, Meta": ("", "meta"),
    "bare, timm": ("", "timm"),
    "SegDINO": ("backbone.", "meta"),
    "DINO-Med3D": ("backbone.model.", "meta"),
    "teacher": ("teacher.backbone.", "timm"),
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_backbone_is_found_wherever_it_is(tmp_path: Path, kind: str) -> None:
    prefix, spelling = BACKBONES[kind]
    state = make_state_dict("segdino_v2", swiglu=kind == "teacher")
    if spelling == "timm":
        state = to_timm_spelling(state)
    tower = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    extra = {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}
    path = tmp_path / "some.pth"
    torch.save({prefix + key: value for key, value in tower.items()} | extra, path)
    source = read_backbone(path)
    assert (source.prefix, source.spelling) == (prefix, spelling)
    assert source.config.depth == 4
    assert set(source.weights) == set(tower)
    assert "width 64" in str(source)
    assert path.name in str(source)
    model = Dinov3Backbone(source.config).eval()
    model.load_checkpoint(source.weights)
    image = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    weights = {f"backbone.{k}": v.double() for k, v in tower.items()}
    if spelling == "meta":
        expected = reference_features(weights, image.double(), heads=2)
        with torch.inference_mode():
            found = model(image)
        for one, other in zip(found, expected, strict=True):
            assert (one.double() - other).abs().max().item() <= 1e-4


def test_a_fitted_checkpoint_serves_as_backbone(fitted: FitReport, backbone: Path) -> None:
    once, twice = read_backbone(backbone), read_backbone(fitted.output)
    assert once.config == twice.config
    assert all(torch.equal(twice.weights[k], once.weights[k]) for k in ("norm.weight", "cls_token"))


def test_files_without_one_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match="no vision transformer"):
        read_backbone(path)
    state = make_state_dict("segdino_v2")
    tower = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    both = {f"{name}.{k}": v for name in ("student", "ema") for k, v in tower.items()}
    torch.save(both, path)
    with pytest.raises(CheckpointError, match=r"student\.\*.*ema\.\*"):
        read_backbone(path)
    torch.save({k.replace("storage_tokens", "register_tokens"): v for k, v in tower.items()}, path)
    with pytest.raises(CheckpointShapeError, match="not a DINOv3"):
        read_backbone(path)
    torch.save({k: v for k, v in tower.items() if k != "blocks.2.mlp.fc1.bias"}, path)
    with pytest.raises(CheckpointShapeError, match=r"blocks\.2\.mlp\.fc1\.bias"):
        read_backbone(path)
    torch.save(tower | {"blocks.0.attn.q_norm.weight": torch.ones(32)}, path)
    with pytest.raises(CheckpointShapeError, match="q_norm"):
        read_backbone(path)
    torch.save(tower | {"blocks.0.attn.qkv.lora_A.default.weight": torch.ones(4, 64)}, path)
    with pytest.raises(CheckpointShapeError, match="LoRA"):
        read_backbone(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"resolutions_px": ((250, 250),)},
        {"resolutions_px": ()},
        {"epochs": 0},
        {"hidden": 0},
        {"threads": 0},
        {"seed": -1},
        {"limit": 1},
        {"held_out": -1},
        {"classes": ("a", "a")},
        {"classes": ("a", " ")},
        {"axis": "axial"},
        {"slices": (0, 3)},
        {"labels": "labels.nii.gz"},
        {"slices": (0, 3), "held_out": 0.5},
    ],
)
def test_arguments_that_cannot_be_meant(
    tmp_path: Path, backbone: Path, blobs: Path, arguments: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        fit(backbone, blobs, tmp_path / "x.pth", **{**QUICK, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_resolution_is_answered_with_its_neighbours(
    tmp_path: Path, backbone: Path, blobs: Path
) -> None:
    with pytest.raises(UsageError, match="take 240 or 256"):
        fit(backbone, blobs, tmp_path / "x.pth", resolutions_px=((250, 250),))


def test_data_that_teach_nothing_are_refused(tmp_path: Path, backbone: Path) -> None:
    output = tmp_path / "x.pth"
    image, mask = blob_picture(0)
    write_pair(tmp_path / "one", "a", image, mask)
    with pytest.raises(DataError, match="at least 2"):
        fit(backbone, tmp_path / "one", output, **QUICK)
    write_pair(tmp_path / "one", "b", image, mask)
    with pytest.raises(DataError, match=r"a\.png and b\.png are the same"):
        fit(backbone, tmp_path / "one", output, **QUICK)
    for seed in range(3):
        write_pair(tmp_path / "empty", f"{seed}", blob_picture(seed)[0], np.zeros_like(mask))
    with pytest.raises(DataError, match="all 3 images are empty"):
        fit(backbone, tmp_path / "empty", output, **QUICK)
    write_pair(tmp_path / "lonely", "a", image, mask)
    cv2.imwrite(str(tmp_path / "lonely" / "image" / "b.png"), blob_picture(1)[0])
    with pytest.raises(DataError, match=r"no mask.*b\.png"):
        fit(backbone, tmp_path / "lonely", output, **QUICK)
    write_pair(tmp_path / "sizes", "a", image, mask)
    write_pair(tmp_path / "sizes", "b", blob_picture(1)[0], mask[:50])
    with pytest.raises(DataError, match="size of its image"):
        fit(backbone, tmp_path / "sizes", output, **QUICK)
    assert not output.exists()


def test_a_full_disk_is_told_before_work_starts(
    tmp_path: Path, backbone: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile
    from types import SimpleNamespace

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usage = SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=65 << 20))
    monkeypatch.setattr(features, "shutil", usage)
    with pytest.raises(OutputError, match="TMPDIR"):
        fit(backbone, blobs, tmp_path / "x.pth", resolutions_px=((512, 512),), threads=1)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_stays(tmp_path: Path, backbone: Path, blobs: Path) -> None:
    output = tmp_path / "x.pth"
    output.write_bytes(b"mine")
    with pytest.raises(OutputError, match="--force"):
        fit(backbone, blobs, output, **QUICK)
    assert output.read_bytes() == b"mine"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans with a bright ball in each."""
    nib = pytest.importorskip("nibabel")
    root = tmp_path_factory.mktemp("volumes")
    for name, centre in (("a", (20, 24, 9)), ("b", (28, 18, 7))):
        rng = np.random.default_rng(len(name) + centre[0])
        i, j, k = np.ogrid[:48, :40, :14]
        apart = (i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (2 * (k - centre[2])) ** 2
        labels = (apart < 130).astype(np.uint8)
        scan = rng.normal(100.0, 10.0, labels.shape) + 90.0 * labels
        scan[:3] = 0.0
        for kind, data in (("image", scan.astype(np.float32)), ("mask", 2 * labels)):
            (root / kind).mkdir(exist_ok=True)
            picture = nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]))
            nib.save(picture, root / kind / f"{name}.nii.gz")
    return root


def test_slices_are_what_segmenting_shows(volumes: Path) -> None:
    from edgeseg.volume.intensity import normalize_volume
    from edgeseg.volume.nifti import read_labels, read_scan
    from edgeseg.volume.slices import slice_order

    for axis in ("axial", "sagittal"):
        spec = VolumeSpec("window=120,200", axis)
        samples = volume_samples(volume_cases(volumes, None), spec, 1)
        assert len(samples) == 2 * (14 if axis == "axial" else 48)
        scan = read_scan(volumes / "image" / "b.nii.gz")
        grey = normalize_volume(scan, spec)
        labels = read_labels(volumes / "mask" / "b.nii.gz", scan.geometry)
        truth = slice_order(scan.geometry, axis).to_slices(labels)
        for place in (0, 7, len(grey) - 1):
            (sample,) = [s for s in samples if s.id == f"b:{place}"]
            image, mask = sample.read()
            assert np.array_equal(image, np.repeat(grey[place][..., None], 3, axis=2))
            assert np.array_equal(mask, truth[place] != 0)


def test_volumes_teach_and_are_judged_whole(tmp_path: Path, backbone: Path, volumes: Path) -> None:
    report = fit(backbone, volumes, tmp_path / "mvr.pth", **QUICK, normalize="minmax", held_out=1)
    assert (report.unit, report.learned, report.held_out) == ("slices", 14, 14)
    assert report.dice is not None
    assert report.dice >= 0.7
    config = load(report.output).config
    assert config.volume == VolumeSpec("minmax", "axial")


def test_a_range_of_one_volume_is_learned(tmp_path: Path, backbone: Path, volumes: Path) -> None:
    scan, labels = (volumes / kind / "a.nii.gz" for kind in ("image", "mask"))
    quick = {**QUICK, "epochs": 2}
    report = fit(
        backbone, scan, tmp_path / "a.pth", **quick, labels=labels, slices=(4, 10), limit=5
    )
    assert (report.learned, report.held_out) == (5, 8)
    assert load(report.output).config.volume == VolumeSpec("zscore", "axial")
    with pytest.raises(UsageError, match="0:14"):
        fit(backbone, scan, tmp_path / "b.pth", **quick, labels=labels, slices=(4, 15))
    with pytest.raises(UsageError, match="--labels"):
        fit(backbone, scan, tmp_path / "b.pth", **quick)
    with pytest.raises(UsageError, match="mask/"):
        fit(backbone, volumes, tmp_path / "b.pth", **quick, labels=labels)
    with pytest.raises(DataError, match="label 2 is beyond"):
        fit(backbone, scan, tmp_path / "b.pth", **quick, labels=labels, classes=("background", "a"))
    write_pair(tmp_path / "mixed", "c", *blob_picture(0))
    (tmp_path / "mixed" / "image" / "a.nii.gz").write_bytes(scan.read_bytes())
    with pytest.raises(DataError, match=r"volumes and pictures \(c\.png\)"):
        fit(backbone, tmp_path / "mixed", tmp_path / "b.pth", **quick)
    (tmp_path / "half" / "image").mkdir(parents=True)
    (tmp_path / "half" / "image" / "a.nii.gz").write_bytes(scan.read_bytes())
    with pytest.raises(DataError, match="nothing of the same name"):
        fit(backbone, tmp_path / "half", tmp_path / "b.pth", **quick)


def test_the_command_line(
    tmp_path: Path, backbone: Path, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeseg.cli import main

    output = tmp_path / "cli.pth"
    common = ["fit", str(backbone), "--data", str(blobs), "-o", str(output)]
    options = ["--resolutions", "48,64x80", "--epochs", "1", "--hidden", "8", "--held-out", "2"]
    assert main([*common, *options, "--limit", "6", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "64x80" in shown
    assert "fused" in shown
    assert str(output) in shown
    assert load(output).config.resolutions_px == ((48, 48), (64, 80))
    assert main([*common, *options]) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*common, "--force", "--resolutions", "100"]) == 2
    assert "96 or 112" in capsys.readouterr().err
    assert main([*common, "--force", "--slices", "1-4"]) == 2
