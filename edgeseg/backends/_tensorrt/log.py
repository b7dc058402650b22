"""What TensorRT says while it works: to Python's logging, and kept for error messages."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Heard", "Log", "shared_log"]

_log = logging.getLogger("edgeseg.tensorrt")

_KEPT_ERRORS = 16
_MEMORY = re.compile(
    r"out ?of ?memory|std::bad_alloc|cudaErrorMemoryAllocation|could not be allocated|"
    r"insufficient (device |gpu )?memory|not enough (free )?memory",
    re.IGNORECASE,
)
# A tactic that does not fit is passed over, which is no failure of the build.
_TACTIC = re.compile(r"tactic", re.IGNORECASE)


@dataclass
class Heard:
    """The errors of one piece of work."""

    errors: list[str] = field(default_factory=list)
    """The first lines at error level, each on one line; later ones are consequences of them."""
    out_of_memory: bool = False

    def add(self, level: int, text: str) -> None:
        """Take note of a message at a level of ``logging``."""
        if level >= logging.WARNING and _MEMORY.search(text):
            self.out_of_memory |= level >= logging.ERROR or not _TACTIC.search(text)
        if level >= logging.ERROR and len(self.errors) < _KEPT_ERRORS:
            self.errors.append(" ".join(text.split()))

    def quote(self, lines: int = 2) -> str:
        """The first ``lines`` errors for a message, or that there were none."""
        return " | ".join(self.errors[:lines]) or "it gave no reason"


class Log:
    """TensorRT's logger for this process, and whoever listens to it at the moment."""

    def __init__(self, lib: Any) -> None:
        self._listeners: list[Heard] = []
        self._lock = threading.Lock()
        self.logger: trt.ILogger = _make_logger(lib, self)

    @contextlib.contextmanager
    def listen(self) -> Iterator[Heard]:
        """Collect the errors that are logged inside the block, by whichever thread."""
        heard = Heard()
        with self._lock:
            self._listeners.append(heard)
        try:
            yield heard
        finally:
            with self._lock:
                self._listeners = [other for other in self._listeners if other is not heard]

    def take(self, level: int, text: str) -> None:
        """Pass one message on."""
        heard = False
        if level >= logging.WARNING:
            with self._lock:
                for listener in self._listeners:
                    listener.add(level, text)
                heard = bool(self._listeners)
        # Whoever listens says what went wrong, or that the errors had no consequence.
        _log.log(logging.INFO if heard and level >= logging.ERROR else level, "%s", text)


_logs: dict[int, tuple[Any, Log]] = {}
_logs_lock = threading.Lock()


def shared_log(lib: Any) -> Log:
    """The one log of this process for a TensorRT library.

    TensorRT keeps the first logger that it is given, uses it for everything that has none of its
    own, and warns about any other; it must live as long as the library.
    """
    with _logs_lock:
        if id(lib) not in _logs:
            _logs[id(lib)] = (lib, Log(lib))
        return _logs[id(lib)][1]


def _make_logger(lib: Any, log: Log) -> trt.ILogger:
    levels = {
        lib.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        lib.ILogger.Severity.ERROR: logging.ERROR,
        lib.ILogger.Severity.WARNING: logging.WARNING,
        lib.ILogger.Severity.INFO: logging.INFO,
        lib.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class Logger(lib.ILogger):
        def __init__(self) -> None:
            lib.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            # An exception that leaves a callback of TensorRT ends the process.
            with contextlib.suppress(Exception):
                log.take(levels.get(severity, logging.ERROR), msg)

    return Logger()
