"""Plans of this machine: found for what they were made for alone, and never when changed."""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from pathlib import Path

import pytest
from builders import tiny_bundle, with_variants

from edgeseg import plans
from edgeseg._cache import cache_folder, cache_root
from edgeseg.bundle import Bundle, read_bundle
from edgeseg.errors import OutputError, PlanError
from edgeseg.plans import Plan, PlanKey, PlanMachine, PlanRecord

ORIN = PlanMachine("10.3.0", "Orin", "8.7", "12.6")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(with_variants(tiny_bundle(tmp_path / "tiny.edgeseg"), "fp16"))


def keep(
    bundle: Bundle,
    variant: str = "fp32",
    machine: PlanMachine = ORIN,
    content: bytes = b"a plan",
    **fields,
) -> Plan:
    key = PlanKey.of(bundle, variant, machine, fields.pop("options", {"dla": None}))
    key = dataclasses.replace(key, **fields.pop("key", {}))
    state = fields.pop("state", "kept")
    with plans.new_plan(bundle, key) as folder:
        file = folder / plans.PLAN_FILE
        file.write_bytes(content)
        record = PlanRecord(
            key,
            state,
            "" if state == "kept" else "for a reason",
            plan_sha256=hashlib.sha256(content).hexdigest(),
            plan_bytes=len(content),
            **{"median_ms": 5.0, **fields},
        )
        plans.write_record(folder, record)
    return plans.read_plan(plans.plan_folder(bundle, key))


def test_a_kept_plan_is_found_again(bundle: Bundle) -> None:
    assert not plans.has_plans(bundle)
    kept = keep(bundle, relative_error=0.01, notes=("a note",))
    assert plans.has_plans(bundle)
    found = plans.find_plan(bundle, ORIN)
    assert found == kept and found.file.read_bytes() == b"a plan"
    assert plans.find_plan(bundle, ORIN, "fp32") == kept


def test_the_fastest_is_found_and_a_precision_narrows(bundle: Bundle) -> None:
    keep(bundle, "fp32", median_ms=7.0)
    fast = keep(bundle, "fp16", median_ms=3.0)
    slow = keep(bundle, "fp32", median_ms=6.0, options={"dla": 0})
    assert plans.find_plan(bundle, ORIN) == fast
    assert plans.find_plan(bundle, ORIN, "fp32") == slow


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(PlanMachine)], ids=str
)
def test_a_plan_of_another_machine_is_not_taken(bundle: Bundle, field: str) -> None:
    keep(bundle)
    other = dataclasses.replace(ORIN, **{field: "9.9"})
    with pytest.raises(PlanError, match=r"made for TensorRT 10\.3\.0 on Orin .* this is .*9\.9"):
        plans.find_plan(bundle, other)


def test_a_plan_of_another_bundle_or_edgeseg_is_not_taken(bundle: Bundle) -> None:
    keep(bundle, key={"bundle_sha256": "0" * 64})
    with pytest.raises(PlanError, match=r"has not been compiled .* edgeseg build .*tiny\.edgeseg"):
        plans.find_plan(bundle, ORIN)
    keep(bundle, key={"edgeseg": "0.0.1"})
    with pytest.raises(PlanError, match=r"made by edgeseg 0\.0\.1"):
        plans.find_plan(bundle, ORIN)


def test_what_was_rejected_cannot_be_found(bundle: Bundle) -> None:
    rejected = keep(bundle, state="rejected")
    assert not rejected.file.exists()
    assert (rejected.folder / plans.REJECTED_FILE).read_bytes() == b"a plan"
    with pytest.raises(PlanError, match=r"fp32 rejected: for a reason.*--rebuild"):
        plans.find_plan(bundle, ORIN)


@pytest.mark.parametrize("state", ["slower", "failed"])
def test_what_is_not_to_be_used_leaves_no_plan(bundle: Bundle, state: str) -> None:
    kept = keep(bundle)
    plans.write_record(kept.folder, dataclasses.replace(kept.record, state=state, why="so"))
    assert sorted(path.name for path in kept.folder.iterdir()) == ["record.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a plaN", "not the plan that was accepted"),
        (b"a pla", "has 5 bytes where 6"),
        (None, "is missing"),
    ],
    ids=["changed", "cut off", "missing"],
)
def test_a_plan_that_was_changed_is_refused(
    bundle: Bundle, content: bytes | None, says: str
) -> None:
    file = keep(bundle).file
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(PlanError, match=says):
        plans.find_plan(bundle, ORIN)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"state": "kept"}', b"[" * 100_000, b"x" * ((1 << 20) + 1)]
)
def test_a_record_that_cannot_be_read_is_left_aside(
    bundle: Bundle, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = keep(bundle, "fp16")
    bad = keep(bundle, "fp32", median_ms=1.0)
    (bad.folder / "record.json").write_bytes(text)
    assert plans.find_plan(bundle, ORIN) == good
    assert "delete" in caplog.text


def test_compiling_again_replaces_the_whole_folder(bundle: Bundle) -> None:
    first = keep(bundle)
    (first.folder / plans.LAYERS_FILE).write_text("{}")
    second = keep(bundle, content=b"another plan")
    assert second.folder == first.folder and second.file.read_bytes() == b"another plan"
    assert not second.layers_file.exists()


def test_a_compilation_that_fails_leaves_the_old_plan(bundle: Bundle) -> None:
    kept = keep(bundle)
    with pytest.raises(KeyboardInterrupt), plans.new_plan(bundle, kept.record.key) as folder:
        (folder / plans.PLAN_FILE).write_bytes(b"half")
        raise KeyboardInterrupt
    assert plans.find_plan(bundle, ORIN) == kept
    assert [path.name for path in kept.folder.parent.iterdir()] == [kept.folder.name]


def test_a_bundle_cannot_lead_out_of_the_cache(bundle: Bundle, cache: Path) -> None:
    manifest = dataclasses.replace(bundle.manifest, name="../../../etc/x")
    kept = keep(dataclasses.replace(bundle, manifest=manifest))
    assert cache.resolve() in kept.folder.resolve().parents


def test_timing_caches_are_kept_by_machine() -> None:
    other = dataclasses.replace(ORIN, tensorrt="10.16.1")
    assert plans.timing_cache(ORIN) == plans.timing_cache(ORIN)
    assert plans.timing_cache(ORIN) != plans.timing_cache(other)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    folder = cache_folder("one", "two")
    assert folder == tmp_path / "cache/one/two" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.delenv("EDGESEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg/edgeseg"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home/.cache/edgeseg"


def test_a_cache_that_cannot_be_made_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="EDGESEG_CACHE"):
        cache_folder("tensorrt")
