"""Atomic writes: whole or not at all, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeseg._files import atomic_directory, atomic_file, check_output, sha256_file
from edgeseg.errors import OutputError


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_replaces_another_only_with_force(tmp_path: Path) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "old").touch()

    def build(force: bool) -> None:
        with atomic_directory(target, force=force) as folder:
            (folder / "new").touch()

    with pytest.raises(OutputError, match="--force"):
        build(force=False)
    assert os.listdir(target) == ["old"]
    build(force=True)
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["b"]


def test_a_killed_writer_leaves_no_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "b"
    script = (
        "import sys, time; from pathlib import Path; from edgeseg._files import atomic_directory\n"
        f"with atomic_directory(Path({str(target)!r}), force=False) as folder:\n"
        "    (folder / 'half').touch(); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not target.exists()
    assert len(os.listdir(tmp_path)) == 1
    with atomic_directory(target, force=False) as folder:
        (folder / "whole").touch()
    assert os.listdir(tmp_path) == ["b"]


def test_a_running_writer_keeps_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with atomic_directory(target, force=True) as first:
        sibling = tmp_path / f".b.{os.getppid()}.tmp"
        sibling.mkdir()
        time.sleep(0)
        assert first.is_dir()
    with atomic_directory(target, force=True):
        assert sibling.is_dir()


def test_an_existing_or_unwritable_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "file", force=False)
    check_output(tmp_path / "file", force=True)
    with pytest.raises(OutputError, match="cannot write to"):
        check_output(tmp_path / "file" / "below" / "x", force=False)


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "x") == expected


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        gone = process.pid
    left, other = tmp_path / f".a.{gone}.tmp.txt", tmp_path / ".a.mine.tmp.txt"
    running = tmp_path / f".a.{os.getppid()}.tmp.txt"
    for path in (left, other, running):
        path.touch()
    with atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert not left.exists() and other.exists() and running.exists()
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_folder_set_aside_by_a_killed_writer_is_put_back(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        gone = process.pid
    aside = tmp_path / f".b.old.{gone}.tmp"
    aside.mkdir()
    (aside / "old").touch()

    def build(force: bool) -> None:
        with atomic_directory(tmp_path / "b", force=force) as folder:
            (folder / "new").touch()

    with pytest.raises(OutputError, match="--force"):
        build(force=False)
    assert os.listdir(tmp_path / "b") == ["old"]
    build(force=True)
    assert os.listdir(tmp_path / "b") == ["new"]
    assert os.listdir(tmp_path) == ["b"]
