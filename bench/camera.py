"""A video played by a clock, as a camera delivers it: who comes late gets the newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from edgeseg.errors import InputError
from edgeseg.video.base import Frame

__all__ = ["Camera"]


class Camera:
    """Releases each frame at its own time, the first at once, and holds one until it is taken.

    Frames are decoded ahead in a thread of their own. A frame that nobody took when the next one
    is due is dropped, as drivers of cameras do. Iterate over it once.

    Attributes:
        captured_s: by the frame's index the time of ``clock`` at which it was released: when it was
            due, or when it was decoded if that was later.
        dropped: frames that a newer one replaced.
        late: frames that were decoded only after they were due.
    """

    def __init__(
        self, frames: Iterable[Frame], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Nothing is decoded before the iteration starts.

        Args:
            frames: of a video, with their times.
            clock: seconds; that of whoever asks for ages.
        """
        self._frames = frames
        self._clock = clock
        self._changed = threading.Condition()
        self._held: Frame | None = None
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self.captured_s: dict[int, float] = {}
        self.dropped = 0
        self.late = 0

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order, without those that were dropped.

        Raises:
            InputError: a frame has no time.
            DataError: as the video's own iteration.
        """
        thread = threading.Thread(target=self._play, name="edgeseg camera", daemon=True)
        thread.start()
        try:
            while (frame := self._take()) is not None:
                yield frame
                del frame
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            thread.join()
        if self._error is not None:
            raise self._error

    def _take(self) -> Frame | None:
        """Wait for a frame; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None or self._ended)
            frame, self._held = self._held, None
            return frame

    def _play(self) -> None:
        try:
            start_s: float | None = None
            for frame in self._frames:
                decoded_s = self._clock()
                if frame.time_s is None:
                    raise InputError(f"{frame.name}: a frame without a time cannot be paced")
                if start_s is None:
                    start_s = decoded_s - frame.time_s
                due_s = start_s + frame.time_s
                if not self._release(frame, due_s, decoded_s):
                    return
                del frame
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _release(self, frame: Frame, due_s: float, decoded_s: float) -> bool:
        """Hold a frame out once it is due; False where nobody wants it any more."""
        with self._changed:
            while not self._stopped and (wait_s := due_s - self._clock()) > 0.0:
                self._changed.wait(wait_s)
            if self._stopped:
                return False
            if self._held is not None:
                self.dropped += 1
                del self.captured_s[self._held.index]
            self.late += decoded_s > due_s
            self.captured_s[frame.index] = max(due_s, decoded_s)
            self._held = frame
            self._changed.notify_all()
            return True
