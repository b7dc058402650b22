"""Finds and loads ``libedgeseg_kernels`` through ctypes, and lends out its contexts.

The C interface is ``kernels/include/edgeseg/kernels.h``; ctypes releases the interpreter lock
during every call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeseg
from edgeseg.errors import InputError, NativeLibraryError

__all__ = [
    "MAX_SIDE_PX",
    "MAX_THREADS",
    "Frame",
    "Library",
    "LibraryInfo",
    "check_status",
    "find_library",
    "library",
    "library_info",
    "load_library",
]

MAX_SIDE_PX = 65535
"""Largest width and height that the library takes (``EDGESEG_MAX_SIDE``)."""

MAX_THREADS = 64
"""Largest number of threads of one call (``EDGESEG_MAX_THREADS``)."""

ISA_VARIABLE = "EDGESEG_KERNELS_ISA"
"""Names an instruction set to use instead of the fastest one; read when the library is loaded."""

_REBUILD = "pip install --no-deps --force-reinstall edgeseg  (in a checkout:  pip install -e .)"
_OUT_OF_MEMORY = 2
_NO_THREAD = 3


@dataclass(frozen=True)
class LibraryInfo:
    """What was loaded, for reports."""

    path: Path
    version: str
    isa: str
    """Instruction set in use: ``generic``, ``sse41``, ``avx2``, ``avxvnni`` or ``avx512vnni``."""
    available: tuple[str, ...]
    """Instruction sets of this build that this processor has, from the slowest on."""


class Frame(ctypes.Structure):
    """``edgeseg_frame``."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("row_stride", ctypes.c_ssize_t),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
    )


class Library:
    """A loaded library.

    Contexts hold scratch memory, tables and idle threads. ``context`` lends one to one call at a
    time, so that calls from several threads do not wait for each other; there are never more of
    them than calls that once ran at the same time.
    """

    def __init__(self, path: Path, isa: str | None = None) -> None:
        self.path = path
        self._functions = _open(path)
        self.version = _version(self._functions, path)
        names, self._available = _instruction_sets(self._functions)
        if isa is None:
            self._isa = names.index(self._available[-1])
        elif isa in self._available:
            self._isa = names.index(isa)
        else:
            raise NativeLibraryError(
                f"instruction set {isa!r} cannot be used here: {path} and this processor have "
                f"{', '.join(self._available)}"
            )
        self._idle: list[int] = []
        # Threads do not survive a fork: the child must not wait for those of its parent.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._idle.clear)

    def info(self) -> LibraryInfo:
        """What this library is and uses."""
        name = self._functions.edgeseg_isa_name(self._isa).decode("ascii")
        return LibraryInfo(self.path, self.version, name, self._available)

    @contextlib.contextmanager
    def context(self) -> Iterator[int]:
        """Lend an ``edgeseg_context*``.

        Raises:
            NativeLibraryError: memory is exhausted.
        """
        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._functions.edgeseg_context_create(self._isa)
            if not handle:
                raise NativeLibraryError(
                    f"{self.path} could not create a context: memory is exhausted"
                ) from None
        try:
            yield handle
        finally:
            self._idle.append(handle)

    def call(self, name: str, types: Sequence[Any], *arguments: Any) -> None:
        """Call a function that takes a context first and returns an ``edgeseg_status``.

        Args:
            name: of the function.
            types: ctypes types of the arguments after the context.
            arguments: as ``types``.

        Raises:
            InputError: the library refused them.
            NativeLibraryError: it lacks the function, memory or threads.
        """
        try:
            function = getattr(self._functions, name)
        except AttributeError as error:
            raise NativeLibraryError(f"{self.path} has no {name}: run  {_REBUILD}") from error
        if function.argtypes is None:
            function.argtypes = [ctypes.c_void_p, *types]
        with self.context() as context:
            status = function(context, *arguments)
        check_status(status)

    def resize_u8(
        self, frame: Frame, size_px: tuple[int, int], resample: int, threads: int, out: int
    ) -> None:
        """Call ``edgeseg_resize_u8``; ``size_px`` is (height, width), ``out`` an address."""
        height, width = size_px
        with self.context() as context:
            status = self._functions.edgeseg_resize_u8(
                context, ctypes.byref(frame), width, height, resample, threads, out
            )
        check_status(status)

    def resize_normalize(
        self,
        frame: Frame,
        size_px: tuple[int, int],
        resample: int,
        *,
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        threads: int,
        out: int,
    ) -> None:
        """Call ``edgeseg_resize_normalize``; ``size_px`` is (height, width), ``out`` an address."""
        height, width = size_px
        with self.context() as context:
            status = self._functions.edgeseg_resize_normalize(
                context,
                ctypes.byref(frame),
                width,
                height,
                resample,
                scale,
                (ctypes.c_double * 3)(*mean),
                (ctypes.c_double * 3)(*std),
                threads,
                out,
            )
        check_status(status)


def library_info() -> LibraryInfo:
    """Path, version and instruction set of the compiled library, loading it if need be.

    Raises:
        NativeLibraryError: it is missing, of another version, or cannot be loaded.
    """
    return library().info()


@functools.lru_cache(maxsize=1)
def library() -> Library:
    """The library of this installation, loaded on the first call.

    Raises:
        NativeLibraryError: it is missing, of another version, or cannot be loaded; or
            ``EDGESEG_KERNELS_ISA`` names an instruction set that is not available.
    """
    return load_library(find_library(), os.environ.get(ISA_VARIABLE) or None)


def load_library(path: Path, isa: str | None = None) -> Library:
    """Load the library at ``path`` for the instruction set ``isa`` (None: the fastest).

    Raises:
        NativeLibraryError: as ``library``.
    """
    return Library(path, isa)


def find_library(folders: Sequence[str] | None = None) -> Path:
    """The library file in ``_native`` beneath one of ``folders``.

    ``folders`` defaults to the folders of the package: in an editable installation these are the
    checkout, searched first, and the site-packages folder into which the build installs.

    Raises:
        NativeLibraryError: there is none.
    """
    name = f"libedgeseg_kernels{'.dylib' if sys.platform == 'darwin' else '.so'}"
    candidates = [Path(folder) / "_native" / name for folder in folders or edgeseg.__path__]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise NativeLibraryError(
        "the compiled kernels of edgeseg are missing (looked for "
        f"{', '.join(str(candidate) for candidate in candidates)}): run  {_REBUILD}"
    )


def check_status(status: int) -> None:
    """Raise what an ``edgeseg_status`` other than ``EDGESEG_OK`` stands for.

    Raises:
        InputError: an argument is outside what the library takes.
        NativeLibraryError: memory is exhausted or no thread could be started.
    """
    if status == 0:
        return
    if status == _OUT_OF_MEMORY:
        raise NativeLibraryError("not enough memory for arrays of this size")
    if status == _NO_THREAD:
        raise NativeLibraryError(
            "the operating system refused to start a worker thread: ask for fewer threads"
        )
    raise InputError(f"the kernel library refused its arguments (status {status})")


def _open(path: Path) -> ctypes.CDLL:
    try:
        functions = ctypes.CDLL(str(path))
        functions.edgeseg_kernels_version.restype = ctypes.c_char_p
        functions.edgeseg_isa_name.restype = ctypes.c_char_p
        functions.edgeseg_isa_name.argtypes = [ctypes.c_int]
        functions.edgeseg_isa_supported.argtypes = [ctypes.c_int]
        functions.edgeseg_context_create.restype = ctypes.c_void_p
        functions.edgeseg_context_create.argtypes = [ctypes.c_int]
        functions.edgeseg_resize_u8.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(Frame),
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        functions.edgeseg_resize_normalize.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(Frame),
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_int,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_double),
            ctypes.POINTER(ctypes.c_double),
            ctypes.c_int,
            ctypes.c_void_p,
        ]
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be loaded ({error}): run  {_REBUILD}") from error
    return functions


def _version(functions: ctypes.CDLL, path: Path) -> str:
    version = str(functions.edgeseg_kernels_version().decode("ascii"))
    if version != edgeseg.__version__:
        raise NativeLibraryError(
            f"{path} was built for edgeseg {version}, but this is edgeseg {edgeseg.__version__}: "
            f"run  {_REBUILD}"
        )
    return version


def _instruction_sets(functions: ctypes.CDLL) -> tuple[list[str], tuple[str, ...]]:
    names: list[str] = []
    while (name := functions.edgeseg_isa_name(len(names))) is not None:
        names.append(name.decode("ascii"))
    available = [name for i, name in enumerate(names) if functions.edgeseg_isa_supported(i)]
    return names, tuple(available)
