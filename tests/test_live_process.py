"""Children at the other end of a pipe: deadlines, ends, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from live_children import children, dead, gone, nothing_left, wait_for

from edgeseg.errors import MissingDependencyError
from edgeseg.live.process import Child, Consumer, Producer, find_program

PYTHON = sys.executable


def python(code: str, *arguments: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-u", "-c", code, *arguments]


@pytest.fixture(autouse=True)
def clean():
    with nothing_left():
        yield


def read_all(child: Producer, within_s: float = 20.0) -> bytes:
    data = b""
    buffer = bytearray(100_000)
    while True:
        try:
            count = child.read_into(memoryview(buffer), time.monotonic() + within_s)
        except EOFError:
            return data
        assert count, "nothing came"
        data += buffer[:count]


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match=r"apt install gstreamer1\.0-tools"):
        find_program("gst-launch-1.0")
    with pytest.raises(MissingDependencyError, match="apt install ffmpeg"):
        find_program("ffplay")


def test_what_it_sends_is_not_what_it_prints():
    code = (
        "import os, sys\nprint('chatter', flush=True)\n"
        "os.write(int(sys.argv[1]), bytes(range(256)) * 5000)\nprint('more', file=sys.stderr)"
    )
    with Producer(lambda sending: python(code, str(sending))) as child:
        assert read_all(child) == bytes(range(256)) * 5000
        assert child.ended(20) == 0
        assert child.said == ("chatter", "more")


def test_waiting_for_bytes_ends_in_time():
    with Producer(lambda sending: python("import time; time.sleep(100)")) as child:
        before = time.monotonic()
        assert child.read_into(memoryview(bytearray(10)), before + 0.2) == 0
        assert 0.15 < time.monotonic() - before < 5
        assert child.read_into(memoryview(bytearray(10)), before) == 0
        assert child.ended() is None


def test_a_child_that_does_not_read_does_not_block_for_long():
    with Consumer(python("import time; time.sleep(100)")) as child:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            child.write(memoryview(bytes(10_000_000)), 0.3)
        assert 0.2 < time.monotonic() - before < 5


def test_everything_that_is_written_arrives():
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    data = os.urandom(3_000_000)
    with Consumer(python(code)) as child:
        child.write(memoryview(data), 20)
        assert child.finish(20) == 0
        assert child.said == (hashlib.sha256(data).hexdigest(),)


def test_writing_to_a_child_that_has_ended():
    with Consumer(python("")) as child:
        assert child.ended(20) == 0
        with pytest.raises(BrokenPipeError):
            child.write(memoryview(b"frame"), 5)


def test_a_child_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr("edgeseg.live.process._STOPPED_S", 0.3)
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); print('deaf'); time.sleep(100)"
    child = Child(python(code))
    assert wait_for(lambda: child.said == ("deaf",))
    child.close()
    assert child.ended() == -signal.SIGKILL
    assert gone(child.pid)
    child.close()


def test_a_child_is_asked_first():
    code = (
        "import signal, sys, time\n"
        "signal.signal(2, lambda *_: (print('asked'), sys.exit(0)))\n"
        "print('ready')\ntime.sleep(100)"
    )
    child = Child(python(code))
    assert wait_for(lambda: child.said == ("ready",))
    child.close()
    assert (child.ended(), child.said) == (0, ("ready", "asked"))
    child.kill()


def test_what_a_child_has_started_ends_with_it():
    # What a shell starts so does not hear Ctrl-C.
    child = Child(["/bin/sh", "-c", "sleep 100 & echo $!; wait"])
    assert wait_for(lambda: child.said)
    grandchild = int(child.said[0])
    assert not gone(grandchild)
    child.close()
    assert gone(child.pid)
    assert wait_for(lambda: dead(grandchild))


def test_ctrl_c_is_not_for_children():
    with Child(python("import time; time.sleep(100)")) as child:
        assert wait_for(lambda: not gone(child.pid))
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_what_it_prints_is_bounded_and_without_secrets():
    code = (
        "print('x' * 100000)\nprint('\\x1b[31mrtsp://user:secret@host/a: refused\\x1b[0m\\r')\n"
        "for i in range(1000): print('line', i)\n"
        "print('y ' * 190, 'rtsp://user:secretsecretsecretsecret@host')\n"
        "print('rtsp://user:secret@host/b')"
    )
    with Child([*python(code), "rtsp://user:secret@host/c"]) as child:
        assert child.ended(20) == 0
        assert len(child.said) <= 100
        assert all(len(line) < 1000 for line in child.said)
        *_, line, long, url = child.said
        assert (line, url) == ("line 999", "rtsp://host/b")
        assert long.startswith("y y y") and long.endswith("y ...")
        assert "secret" not in child.command and "rtsp://host/c" in child.command


def test_children_speak_english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    code = "import os; print(os.environ['LC_ALL'], os.environ['LANGUAGE'])"
    with Child(python(code)) as child:
        assert child.ended(20) == 0
        assert child.said == ("C.UTF-8 C",)


def test_signs_of_life_are_not_kept():
    code = "print('alive 1'); print('says'); print('alive 2')"
    with Child(python(code), heartbeat=re.compile("^alive")) as child:
        assert child.ended(20) == 0
        assert child.said == ("says",)
        assert child.heard_s is not None and child.heard_s <= time.monotonic()


def test_closing_releases_who_waits():
    child = Producer(lambda sending: python("import time; time.sleep(100)"))
    ended = threading.Event()

    def wait():
        with pytest.raises(EOFError):
            child.read_into(memoryview(bytearray(10)), time.monotonic() + 60)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    child.close()
    assert ended.wait(20)
    thread.join()
    with pytest.raises(EOFError):
        child.read_into(memoryview(bytearray(10)), time.monotonic() + 60)


def test_a_child_outlives_the_thread_that_opened_it():
    made = []
    thread = threading.Thread(
        target=lambda: made.append(
            Producer(
                lambda sending: python(
                    "import os, sys, time; time.sleep(0.3); os.write(int(sys.argv[1]), b'alive')",
                    str(sending),
                )
            )
        )
    )
    thread.start()
    thread.join()
    with made[0] as child:
        assert read_all(child) == b"alive"


PARENT = """
import sys, threading, time
sys.path[:0] = sys.argv[1].split(":")
from edgeseg.live.process import Child
child = Child([sys.executable, "-I", "-S", "-u", "-c", "import time; print(1); time.sleep(100)"])
while not child.said:
    time.sleep(0.01)
print(child.pid, flush=True)
if sys.argv[2] == "ends":
    sys.exit()
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of such a death")
@pytest.mark.parametrize("way", ["killed", "ends"])
def test_a_child_dies_with_edgeseg(way):
    parent = subprocess.Popen(
        [PYTHON, "-c", PARENT, ":".join(filter(None, sys.path)), way],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout as printed:
        pid = int(printed.readline())
        if way == "killed":
            parent.kill()
        parent.wait()
    assert wait_for(lambda: dead(pid))


def test_a_program_that_cannot_be_started_says_so(tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01")
    broken.chmod(0o755)
    with Child([str(broken)]) as child:
        assert child.ended(20) not in (0, None)
        assert any("rror" in line for line in child.said)
    assert child.pid not in children()
