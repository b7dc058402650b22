"""What may be named as a source or a sink, and what of it may be printed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeseg.errors import DataError, EdgesegError, UsageError
from edgeseg.live.sources import SourceOptions, open_live_source
from edgeseg.live.uri import (
    SinkUri,
    SourceUri,
    parse_sink,
    parse_source,
    parse_test_picture,
    without_credentials,
)

Parse = Callable[[str], SourceUri | SinkUri]


@pytest.mark.parametrize(
    ("text", "kind", "target", "shown"),
    [
        ("clip.mp4", "file", "clip.mp4", "clip.mp4"),
        ("a:b.mp4", "file", "a:b.mp4", "a:b.mp4"),
        ("FILE:///data/a%20b.mp4", "file", "/data/a b.mp4", "FILE:///data/a%20b.mp4"),
        ("file://clip.mp4", "file", "clip.mp4", "file://clip.mp4"),
        ("0", "v4l2", "/dev/video0", "v4l2:///dev/video0"),
        ("/dev/video3", "v4l2", "/dev/video3", "v4l2:///dev/video3"),
        ("v4l2:///dev/video3", "v4l2", "/dev/video3", "v4l2:///dev/video3"),
        ("v4l2://3", "v4l2", "/dev/video3", "v4l2:///dev/video3"),
        ("/dev/v4l/by-id/cam", "v4l2", "/dev/v4l/by-id/cam", "v4l2:///dev/v4l/by-id/cam"),
        ("csi://0", "csi", "0", "csi://0"),
        ("rtsp://u:p@h:8554/x", "rtsp", "rtsp://u:p@h:8554/x", "rtsp://h:8554/x"),
        ("rtsps://[::1]/x", "rtsp", "rtsps://[::1]/x", "rtsps://[::1]/x"),
        ("RTSP://H/x", "rtsp", "rtsp://H/x", "RTSP://H/x"),
        ("gst://videotestsrc", "gst", "videotestsrc", "gst:videotestsrc"),
        ("gst: videotestsrc", "gst", "videotestsrc", "gst:videotestsrc"),
        ("ffmpeg:-i rtmp://u:p@h/x", "ffmpeg", "-i rtmp://u:p@h/x", "ffmpeg:-i rtmp://h/x"),
        ("-", "stdin", "-", "standard input"),
        ("test://320x240@30", "test", "320x240@30", "test://320x240@30"),
    ],
)
def test_sources(text: str, kind: str, target: str, shown: str) -> None:
    found = parse_source(text)
    assert (found.kind, found.target, found.shown) == (kind, target, shown)


@pytest.mark.parametrize(
    ("text", "kind", "target", "shown"),
    [
        ("out.MP4", "file", "out.MP4", "out.MP4"),
        ("file:///o/out.mkv", "file", "/o/out.mkv", "file:///o/out.mkv"),
        ("display://", "display", "", "display://"),
        ("mask://masks", "mask", "masks", "mask://masks"),
        ("mask:///m.jsonl", "mask", "/m.jsonl", "mask:///m.jsonl"),
        ("udp://10.0.0.1:5000", "udp", "udp://10.0.0.1:5000", "udp://10.0.0.1:5000"),
        ("rtsp://u:p@h/x", "rtsp", "rtsp://u:p@h/x", "rtsp://h/x"),
        ("v4l2:///dev/video9", "v4l2", "/dev/video9", "v4l2:///dev/video9"),
        ("/dev/video9", "v4l2", "/dev/video9", "v4l2:///dev/video9"),
        ("-", "stdout", "-", "standard output"),
    ],
)
def test_sinks(text: str, kind: str, target: str, shown: str) -> None:
    found = parse_sink(text)
    assert (found.kind, found.target, found.shown) == (kind, target, shown)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rtsp://HOST"),
        ("  ", "rtsp://HOST"),
        ("http://h/x", "ffmpeg:-i http://"),
        ("webcam://0", "v4l2:///dev/video0"),
        ("rtsp://", "host is missing"),
        ("rtsp://u:secret@/x", "host is missing"),
        ("rtsp://h:0/x", "no port"),
        ("rtsp://h:99999/x", "no port"),
        ("rtsp://u:se/cret@h/x", "%2F"),
        ("rtsp://h/a b", "%20"),
        ("rtsp://h/a\nb", "%20"),
        ("csi://left", "csi://0"),
        ("v4l2://video0", "v4l2:///dev/video0"),
        ("file://", "path"),
        ("gst:", "gst:v4l2src"),
        ("ffmpeg: ", "ffmpeg:-i"),
        ("test://5x5", "16"),
        ("test://640x480@0", "rate"),
        ("test://640x480@1/0", "rate"),
        ("test://big", "640x480@25"),
    ],
)
def test_bad_sources(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert "secret" not in message and "cret" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "display://"),
        ("out.avi", ".mp4"),
        ("out", ".mp4"),
        ("webrtc://h/x", "udp://HOST:PORT"),
        ("udp://h", "port"),
        ("udp://:5000", "host"),
        ("v4l2://video0", "/dev/video0"),
        ("mask://", "path"),
    ],
)
def test_bad_sinks(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sink(text)
    assert said in str(caught.value)


def test_generated_pictures() -> None:
    assert parse_test_picture("") == parse_test_picture("640x480@25")
    found = parse_test_picture("1280x720@30000/1001")
    assert (found.width_px, found.height_px, found.rate) == (1280, 720, Fraction(30000, 1001))
    assert parse_test_picture("@12.5").rate == Fraction(25, 2)


SECRET = "Zq7-hidden"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:{}@h/x",
        "rtsp://admin:a{}@b@h/x",
        "rtsp://admin:a/{}@h/x",
        "rtsp://admin:1/{}@h/x",
        "rtsp://admin:a#{}@h/x",
        "rtsp://h/x?user=me&password={}&channel=1",
        "rtsp://h/x?channel=1&access_token={}",
        "Server returned 401: 'rtsp://admin:{}@h:554/x'",
        "rtspsrc location=rtsp://h/x user-id=me user-pw={} ! decodebin",
        "rtspsrc location=rtsp://h/x user-id=me user-pw='a {}' ! decodebin",
        "-headers 'Authorization: Basic {}' -i http://h/x",
        "-passphrase {} -i srt://h:1",
        "srt://h:1?passphrase={}",
        "a rtsp://u:{}@h/x and another http://v:{}@k/y",
    ],
)
def test_secrets_go(text: str) -> None:
    shown = without_credentials(text.replace("{}", SECRET))
    assert SECRET not in shown
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://h:8554/live",
        "rtsp://h/live@1?channel=1&subtype=0",
        "rtsp://[::1]:8554/live",
        "v4l2src device=/dev/video0 ! video/x-raw,width=640 ! videoconvert",
        "x264enc key-int-max=25 tune=zerolatency",
        "mail@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_credentials(text) == text


@given(
    user=st.text(st.characters(exclude_characters="@/?#\"'<>", categories="LNPS"), max_size=8),
    password=st.text(
        st.characters(exclude_characters="\"'<>", categories="LNPS"), min_size=1, max_size=12
    ),
)
@example(user="", password="@")
def test_no_password_survives(user: str, password: str) -> None:
    marked = f"{password[0]}{SECRET}{password[1:]}"
    assert SECRET not in without_credentials(f"rtsp://{user}:{marked}@camera.local:554/live")


@pytest.mark.parametrize("parse", [parse_source, parse_sink])
@given(text=st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_line(parse: Parse, text: str) -> None:
    try:
        said = parse(text).shown
    except UsageError as error:
        said = str(error)
    assert said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{clip}", {"rate": Fraction(25)}),
        ("{clip}", {"width_px": 4, "height_px": 4}),
        ("{clip}", {"codec": "mjpeg"}),
        ("{clip}", {"timeout_s": 3.0}),
        ("{folder}", {"transport": "udp"}),
        ("rtsp://h/x", {"rate": Fraction(25)}),
        ("rtsp://h/x", {"loop": True}),
        ("rtsp://h/x", {"pace": "none"}),
        ("0", {"transport": "tcp"}),
        ("0", {"loop": True}),
        ("test://", {"rate": Fraction(5)}),
        ("-", {"loop": True, "width_px": 4, "height_px": 4}),
        ("csi://0", {"codec": "mjpeg"}),
        ("gst:videotestsrc", {"codec": "mjpeg"}),
        ("ffmpeg:-i x", {"transport": "udp"}),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, text: str, given: dict[str, object]
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    options = SourceOptions(**given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="means nothing for"):
        open_live_source(text.format(clip=clip, folder=tmp_path), options)


@pytest.mark.parametrize(
    "given",
    [
        {"width_px": 640},
        {"width_px": 0, "height_px": 5},
        {"width_px": 1 << 20, "height_px": 1 << 20},
        {"rate": Fraction(0)},
        {"rate": Fraction(5000)},
        {"pace": "fast"},
        {"transport": "sctp"},
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
    ],
)
def test_impossible_options(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        SourceOptions(**given)  # type: ignore[arg-type]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no such file"):
        open_live_source("/nowhere/clip.mp4")


@given(text=st.text(max_size=60) | st.just("x" * 5000) | st.just("a\0b"))
def test_any_text_is_a_source_or_refused(text: str) -> None:
    with contextlib.suppress(EdgesegError):
        assert open_live_source(text).name
