"""An RTSP server that takes a stream and keeps it, for tests: run it by the system's Python.

    /usr/bin/python3 tests/rtsp_record_server.py OUT.ts

It prints ``ready rtsp://127.0.0.1:PORT/live`` once it listens, ``recording`` when somebody
publishes, and serves until it is killed. H.264 alone is taken; OUT.ts grows as it comes in.
"""

from __future__ import annotations

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--port", default="0")
    given = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(given.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    kept = f"filesink location={given.file} buffer-mode=unbuffered sync=false async=false"
    factory.set_launch(f"( rtph264depay name=depay0 ! h264parse ! mpegtsmux ! {kept} )")
    factory.connect("media-configure", lambda *_: say("recording"))
    server.get_mount_points().add_factory("/live", factory)
    server.connect(
        "client-connected",
        lambda _, client: client.connect("closed", lambda *_: say("left")),
    )
    server.attach(None)
    say(f"ready rtsp://127.0.0.1:{server.get_bound_port()}/live")
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
