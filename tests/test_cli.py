"""The command line: exit codes, one-line errors, and what the verbs show and write."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import tiny_bundle

from edgeseg.cli import VERBS, main, parse_size
from edgeseg.errors import UsageError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("cli") / "tiny.edgeseg")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    return tmp_path / "frame.png"


def test_help_names_every_verb(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["-h"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "-h"])
    assert stopped.value.code == 0
    assert "--debug" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["fly"], ["build"], ["eval", "x.edgeseg"]])
def test_bad_usage_is_exit_code_2(arguments: list, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_a_failed_job_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "no/such.pth"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("edgeseg: ") and "no/such.pth" in lines[0]


def test_contradicting_arguments_are_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    code = main(["build", "x.pth", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "o")])
    assert code == 2
    assert "add --int8" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "edgeseg", "inspect", "no/such.pth", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" in process.stderr


def test_run_writes_an_overlay(
    bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "overlay.png"
    assert main(["run", str(bundle), str(picture), str(target)]) == 0
    assert str(target) in capsys.readouterr().out.replace("\n", "")
    overlay, frame = cv2.imread(str(target)), cv2.imread(str(picture))
    assert overlay.shape == frame.shape and (overlay != frame).any()
    assert main(["run", str(bundle), str(picture), str(target)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["run", str(bundle), str(picture), str(target), "--force", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_inspect_describes_a_bundle(bundle: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "segdino_v2" in shown and "32x48" in shown and "tiny.pth" in shown


def test_sizes() -> None:
    assert parse_size("256") == (256, 256)
    assert parse_size("224x320") == (224, 320)
    for wrong in ("", "x", "1x2x3", "-16", "0", "a"):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
            parse_size(wrong)
