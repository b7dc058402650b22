"""An RTSP server with a generated picture, for tests: run it by the system's Python.

    /usr/bin/python3 tests/rtsp_server.py --size 320x240 --fps 25

It prints ``ready rtsp://127.0.0.1:PORT/live`` once it listens and serves until it is killed. This
file imports nothing of edgeseg, since that Python does not have it.
"""

from __future__ import annotations

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={keyint} bitrate=800"
    " ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={keyint} bitrate=800"
    " ! h265parse ! rtph265pay name=pay0 pt=96 config-interval=-1",
    "mjpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", default="25")
    parser.add_argument("--codec", choices=sorted(ENCODERS), default="h264")
    parser.add_argument("--keyint", default="25")
    parser.add_argument("--pattern", default="smpte")
    parser.add_argument("--frames", default="-1", help="how many; all if negative")
    parser.add_argument("--login", help="USER:PASSWORD that is asked for")
    given = parser.parse_args()

    Gst.init(None)
    width, height = given.size.split("x")
    rate = given.fps if "/" in given.fps else f"{given.fps}/1"
    source = f"videotestsrc is-live=true pattern={given.pattern} num-buffers={given.frames}"
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={rate}"
    encoder = ENCODERS[given.codec].format(keyint=given.keyint)

    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(given.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {source} ! {caps} ! {encoder} )")
    factory.set_shared(True)
    if given.login:
        user, password = given.login.split(":")
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {given.port} is taken")
    print(f"ready rtsp://127.0.0.1:{server.get_bound_port()}/live", flush=True)  # noqa: T201
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
