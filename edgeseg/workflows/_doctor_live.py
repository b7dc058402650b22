"""What ``doctor`` says of live runs: programs, cameras, the screen, the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edgeseg.live.process import find_program
from edgeseg.live.programs import has_element
from edgeseg.workflows._findings import Finding, output_of, package_version

__all__ = ["checks"]

_GST_PACKAGES = (
    "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad"
)
_GDP = "gdppay"
"""Carries frames with their size out of a pipeline; of the plugins "bad"."""
_WEB = ("starlette", "uvicorn", "websockets", "h11")


def checks() -> list[tuple[str, Callable[[], Finding]]]:
    """The checks by their names."""
    return [
        ("ffmpeg", _ffmpeg),
        ("GStreamer", _gstreamer),
        ("cameras", _cameras),
        ("screen", _screen),
        ("live page", _page),
    ]


def _ffmpeg() -> Finding:
    paths = {name: shutil.which(name) for name in ("ffmpeg", "ffplay")}
    lacking = [name for name, path in paths.items() if path is None]
    if lacking:
        return Finding(
            "ffmpeg",
            "missing",
            f"{' and '.join(lacking)}: for ffmpeg: sources, rtsp:// and udp:// outputs, windows",
            "sudo apt-get install ffmpeg",
        )
    first = output_of("ffmpeg", "-version").splitlines()[:1]
    return Finding("ffmpeg", "ok", " ".join(first).partition(" Copyright")[0])


def _gstreamer() -> Finding:
    if shutil.which("gst-launch-1.0") is None or shutil.which("gst-inspect-1.0") is None:
        return Finding(
            "GStreamer",
            "missing",
            "gst-launch-1.0: for gst: and csi:// sources",
            f"sudo apt-get install {_GST_PACKAGES}",
        )
    version = " ".join(output_of("gst-launch-1.0", "--version").splitlines()[1:2])
    if not has_element(find_program("gst-inspect-1.0"), _GDP):
        return Finding(
            "GStreamer",
            "missing",
            f"{version} without {_GDP}, which gst: and csi:// sources need",
            "sudo apt-get install gstreamer1.0-plugins-bad",
        )
    return Finding("GStreamer", "ok", version)


def _cameras() -> Finding:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        return Finding("cameras", "ok", "no /dev/video*")
    closed = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            "cameras",
            "warning",
            f"no permission for {', '.join(closed)}",
            "sudo usermod -aG video $USER, then log in again",
        )
    return Finding("cameras", "ok", ", ".join(str(path) for path in devices))


def _screen() -> Finding:
    named = [
        f"{name}={os.environ[name]}"
        for name in ("DISPLAY", "WAYLAND_DISPLAY")
        if os.environ.get(name)
    ]
    if named:
        return Finding("screen", "ok", ", ".join(named))
    return Finding("screen", "ok", "none: display:// has nowhere to go, --serve needs no screen")


def _page() -> Finding:
    versions = {package: package_version(package) for package in _WEB}
    lacking = [package for package, version in versions.items() if version is None]
    if lacking:
        return Finding(
            "live page",
            "missing",
            f"{', '.join(lacking)}: needed for --serve",
            "pip install 'edgeseg[web]'",
        )
    return Finding("live page", "ok", ", ".join(f"{k} {v}" for k, v in versions.items()))
