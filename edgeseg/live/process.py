"""A program of its own at one end of a pipe: raw video out of it or into it, with deadlines.

GStreamer and ffmpeg run beside edgeseg and not inside it: a driver that hangs or crashes takes its
own process with it, and nothing of either has to be built into Python or OpenCV. A child lives in a
session of its own, so that Ctrl-C reaches edgeseg alone, and dies with edgeseg, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from edgeseg._closing import Closing
from edgeseg.errors import MissingDependencyError
from edgeseg.live.uri import without_credentials

__all__ = ["Child", "Consumer", "Producer", "find_program"]

_log = logging.getLogger(__name__)

_PACKAGES = {
    "gst-launch-1.0": "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad",
    "gst-inspect-1.0": "gstreamer1.0-tools",
    "ffmpeg": "ffmpeg",
    "ffplay": "ffmpeg",
}
"""Debian's and Ubuntu's packages by program."""

_LINES_KEPT = 60
_LINE_LENGTH = 400
_PIPE_BYTES = 1 << 20
"""Linux gives 64 KiB, of which a frame takes a hundred; this much any user may ask for."""

_STOPPED_S = 2.0
"""How long a child may take to end when it is asked to, and once more when it is killed."""
_LOOKED_S = 0.005
_DRAINED_S = 1.0

# What programs say is read by edgeseg too.
_ENGLISH = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}

_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

# Between fork and exec Python code can deadlock in a program with threads, so the wish to die with
# the parent is not expressed there but by a process that then becomes the program.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
for number in (signal.SIGPIPE, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_program(name: str) -> str:
    """Path of an installed program.

    Raises:
        MissingDependencyError: it is not installed; names the package.
    """
    path = shutil.which(name)
    if path is None:
        package = _PACKAGES.get(name, name)
        raise MissingDependencyError(
            f"the program {name!r} is not installed: run  sudo apt install {package}"
        )
    return path


class _Starter:
    """Starts all children from one thread that never ends.

    Linux sends the death signal when the thread that started a child ends, not when the process
    does: a source that is opened by a thread that lives shorter than it would lose its child.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._wishes: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="edgeseg-starter", daemon=True).start()

    def _work(self) -> None:
        while True:
            start, future = self._wishes.get()
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)
            # What waits in the loop must not hold a process that nobody else knows any more.
            del start, future

    def start(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._wishes.put((start, future))
        return future.result()


_starter: _Starter | None = None
_starter_lock = threading.Lock()


def _start(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _starter  # noqa: PLW0603 - one thread a process, made when it is first needed
    with _starter_lock:
        # A forked process has inherited the object, but not its thread.
        if _starter is None or _starter.pid != os.getpid():
            _starter = _Starter()
        starter = _starter
    return starter.start(start)


class Child(Closing):
    """A running program; what it prints is kept, bounded and without passwords.

    One thread reads or writes; ``close`` may be called by any.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        heartbeat: re.Pattern[str] | None = None,
    ) -> None:
        """Start it.

        Args:
            words: the program's path and its arguments; no shell sees them.
            stdin: descriptor that becomes its standard input.
            inherited: other descriptors that it keeps, under their numbers.
            environment: variables that it gets beside those of this process.
            heartbeat: lines in which this is found are not kept, but only make ``heard_s`` newer.

        Raises:
            OSError: the system cannot start it.
        """
        self.command = without_credentials(shlex.join(words))
        """What was started, as a person may read it."""
        self.heard_s: float | None = None
        """When its last heartbeat came (``time.monotonic``); None before the first."""
        self._heartbeat = heartbeat
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._lines_lock = threading.Lock()
        # Held while it is waited for, and while it gets signals.
        self._number_lock = threading.Lock()
        # Held while the pipe is used, and by whoever closes it.
        self._pipe_lock = threading.Lock()
        self._closed = threading.Event()
        guarded = list(words)
        if sys.platform == "linux" and sys.executable:
            guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]
            guarded = [*guard, *words]
        else:
            _log.info("%s: outlives edgeseg if that is killed: no Linux or no Python", words[0])
        _log.info("%s", self.command)
        self._process = _start(
            lambda: subprocess.Popen(
                guarded,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=inherited,
                env={**os.environ, **_ENGLISH, **(environment or {})},
                start_new_session=True,
            )
        )
        self._listener = threading.Thread(
            target=self._listen, name=f"edgeseg-child-{self.pid}", daemon=True
        )
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    @property
    def said(self) -> tuple[str, ...]:
        """The last lines that it printed."""
        with self._lines_lock:
            return tuple(self._lines)

    def ended(self, timeout_s: float = 0.0) -> int | None:
        """Its exit code, negative for a signal; None if it still runs after ``timeout_s``.

        With a code everything that it printed is in ``said``.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            with self._number_lock:
                code = self._process.poll()
            if code is not None:
                self._listener.join(_DRAINED_S)
                return code
            if time.monotonic() >= until_s:
                return None
            time.sleep(_LOOKED_S)

    def close(self) -> None:
        """End it, and whatever it started: ask it to, as Ctrl-C does, then kill it."""
        self._closed.set()
        # GStreamer's launcher takes its pipeline down on SIGINT alone. On SIGTERM it just ends, and
        # some drivers, such as that of Jetson's cameras, are not ready for the next one then.
        self._signal(signal.SIGINT)
        until_s = time.monotonic() + _STOPPED_S
        while not self._is_over() and time.monotonic() < until_s:
            time.sleep(_LOOKED_S)
        self.kill()

    def kill(self) -> None:
        """End it, and whatever it started, without asking."""
        self._closed.set()
        self._signal(signal.SIGKILL)
        if self.ended(_STOPPED_S) is None:
            # A process in the middle of a driver's call ends when that returns, if ever.
            _log.warning("process %d does not end even when killed: %s", self.pid, self.command)
        with self._pipe_lock:
            self._close_pipe()

    def _close_pipe(self) -> None:
        """Close this side of what it reads or writes."""
        return

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to its group."""
        with self._number_lock:
            # Once it has been waited for its number may be somebody else's.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def _is_over(self) -> bool:
        """Whether it has ended; it is not waited for, so that its group keeps its number."""
        with self._number_lock:
            if self._process.returncode is not None:
                return True
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            try:
                return os.waitid(os.P_PID, self.pid, flags) is not None
            except ChildProcessError:
                return True

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        with stream:
            while data := stream.read(1 << 12):
                *lines, rest = re.split(rb"[\r\n]+", rest + data)
                for line in lines:
                    self._note(line)
                # Of a line that does not end the beginning is enough.
                rest = rest[: _LINE_LENGTH + 1]
        self._note(rest)

    def _note(self, line: bytes) -> None:
        text = line[: _LINE_LENGTH + 1].decode("utf-8", "replace")
        if len(line) > _LINE_LENGTH:
            # The last word is cut, and half a URL does not show where its password ends.
            text = f"{text.rpartition(' ')[0].rstrip()} ..."
        text = _TERMINAL_CODES.sub("", text).strip()
        if not text:
            return
        if self._heartbeat is not None and self._heartbeat.search(text):
            self.heard_s = time.monotonic()
            return
        text = without_credentials(text)
        _log.debug("%d: %s", self.pid, text)
        with self._lines_lock:
            self._lines.append(text)


class Producer(Child):
    """A child that sends bytes through a pipe which is not its standard output.

    NVIDIA's elements print on the standard output, where their words would mix into the picture.
    """

    def __init__(
        self,
        words: Callable[[int], Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            words: program and arguments, from the number of the descriptor that it is to write to.
            environment: see ``Child``.

        Raises:
            OSError: the system cannot start it.
        """
        self._receiving, sending = os.pipe()
        try:
            _prepare(self._receiving)
            super().__init__(words(sending), inherited=[sending], environment=environment)
        except BaseException:
            os.close(self._receiving)
            raise
        finally:
            os.close(sending)

    def read_into(self, view: memoryview, until_s: float) -> int:
        """Fill the beginning of ``view`` with what is there, waiting for it if nothing is.

        Args:
            view: writable bytes, at least one.
            until_s: time of ``time.monotonic`` at which waiting ends.

        Returns:
            How many bytes; 0 if none came in time.

        Raises:
            EOFError: it has closed its end, or this child was closed.
        """
        with self._pipe_lock:
            while True:
                if self._closed.is_set():
                    raise EOFError
                try:
                    count = os.readv(self._receiving, [view])
                except BlockingIOError:
                    if not _wait(self._receiving, select.POLLIN, until_s):
                        return 0
                    continue
                if not count:
                    raise EOFError
                return count

    def _close_pipe(self) -> None:
        if self._receiving >= 0:
            os.close(self._receiving)
            self._receiving = -1


class Consumer(Child):
    """A child that gets bytes through its standard input."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        heartbeat: re.Pattern[str] | None = None,
    ) -> None:
        """Start it; see ``Child``.

        Raises:
            OSError: the system cannot start it.
        """
        receiving, self._sending = os.pipe()
        try:
            _prepare(self._sending)
            super().__init__(words, stdin=receiving, environment=environment, heartbeat=heartbeat)
        except BaseException:
            os.close(self._sending)
            raise
        finally:
            os.close(receiving)

    def write(self, data: memoryview, timeout_s: float) -> None:
        """Send all of it.

        Raises:
            BrokenPipeError: it reads no more, or this child was closed.
            TimeoutError: it did not take everything in time. Part of it may be sent: what reads
                frames is out of step from here on.
        """
        until_s = time.monotonic() + timeout_s
        with self._pipe_lock:
            while data:
                if self._closed.is_set():
                    raise BrokenPipeError
                try:
                    data = data[os.write(self._sending, data) :]
                except BlockingIOError:
                    if not _wait(self._sending, select.POLLOUT, until_s):
                        raise TimeoutError from None

    def finish(self, timeout_s: float) -> int | None:
        """Close its input and let it complete what it has; exit code, or None if it goes on."""
        with self._pipe_lock:
            self._close_pipe()
            self._closed.set()
        return self.ended(timeout_s)

    def _close_pipe(self) -> None:
        if self._sending >= 0:
            os.close(self._sending)
            self._sending = -1


def _prepare(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    # Without it frames arrive in more pieces, and all else stays the same: the sum of a user's
    # pipes may be limited.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _wait(descriptor: int, what: int, until_s: float) -> bool:
    """Whether something happens there in time; what, the next call finds out."""
    poll = select.poll()
    poll.register(descriptor, what)
    # In milliseconds, and never 0 for a little: that would spin.
    left_ms = max(0.0, 1e3 * (until_s - time.monotonic()))
    return bool(poll.poll(left_ms))
