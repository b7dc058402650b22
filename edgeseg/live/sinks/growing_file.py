"""A file that grows by whole pieces under its own name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edgeseg._closing import Closing
from edgeseg.errors import OutputError

__all__ = ["GrowingFile", "check_free_space", "write_error"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MB = 1_000_000


class GrowingFile(Closing):
    """Appends pieces, each wholly or not at all.

    Other outputs appear under their name when they are complete. What is written during a procedure
    must outlive a crash of the very program that writes it, so it lies under its own name from the
    start. Every piece reaches the kernel before ``append`` returns: if the process is killed, at
    most the piece that was being written is torn. (Against a power failure only the file system's
    own habits help: some seconds may be lost.) A piece that does not fit on the disk is taken back.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        """Make an empty file; missing folders are made as well.

        Args:
            path: must not exist, unless ``force`` is given: then the old file is removed first.
            force: replace an existing file.
            keep_free_mb: refuse to grow when less would be left on the disk, in 10^6 bytes; 0: fill
                it up.

        Raises:
            OutputError: it exists already, is no file, or cannot be made.
        """
        self.path = path
        self.size = 0
        """Bytes, up to the end of the last whole piece."""
        self._descriptor = -1
        try:
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            if force and path.exists():
                if not path.is_file():
                    raise OutputError(f"{path} is no file: choose another name")
                # Whoever reads the old file keeps it; it is not cut under his hands.
                path.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
        except FileExistsError as error:
            raise OutputError(
                f"{path} exists already: choose another name, or pass --force to replace it"
            ) from error
        except OutputError:
            raise
        except OSError as error:
            raise write_error(path, error) from error

    def append(self, piece: bytes) -> None:
        """Write ``piece`` at the end.

        Raises:
            OutputError: it does not fit, or the file was deleted; the file ends as before.
        """
        self._check_alive()
        try:
            self._write(piece, self.size)
        except OSError as error:
            self._cut()
            raise write_error(self.path, error) from error
        self.size += len(piece)

    def patch(self, position: int, piece: bytes) -> None:
        """Write over bytes that are there already.

        Raises:
            OutputError: that failed.
            ValueError: ``piece`` does not lie inside the file.
        """
        if not 0 <= position <= self.size - len(piece):
            raise ValueError(f"{len(piece)} bytes at {position} are outside of {self.size} bytes")
        try:
            self._write(piece, position)
        except OSError as error:
            raise write_error(self.path, error) from error

    def check_free_space(self, keep_free_mb: int) -> None:
        """See the function of that name."""
        check_free_space(self.path, self._descriptor, keep_free_mb)

    def close(self) -> None:
        """Close the file; one without content is removed. May be called twice.

        Raises:
            OutputError: the system reports only now that something could not be written (network
                file systems do so).
        """
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            try:
                # Another file may have taken the name meanwhile.
                if self.size == 0 and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    self.path.unlink()
            except FileNotFoundError:
                pass
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_error(self.path, error) from error

    def _write(self, piece: bytes, position: int) -> None:
        view = memoryview(piece)
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count

    def _cut(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            # The error that is on its way says more; readers take a torn end.
            return

    def _check_alive(self) -> None:
        # Writing into a file without a name succeeds, and is lost.
        try:
            deleted = os.fstat(self._descriptor).st_nlink == 0
        except OSError as error:
            raise write_error(self.path, error) from error
        if deleted:
            raise OutputError(
                f"{self.path} was deleted while it was being written, and what it held is lost: "
                "write to a folder that nobody tidies"
            )


def check_free_space(path: Path, target: int | Path, keep_free_mb: int) -> None:
    """Refuse to go on when little is left on a disk.

    Args:
        path: what the message names.
        target: descriptor or path on the disk.
        keep_free_mb: what must be left, in 10^6 bytes; 0: nothing.

    Raises:
        OutputError: less is left, or the disk does not answer.
    """
    if not keep_free_mb:
        return
    try:
        disk = os.statvfs(target)
    except OSError as error:
        raise write_error(path, error) from error
    left_mb = disk.f_bavail * disk.f_frsize / _MB
    if left_mb < keep_free_mb:
        raise OutputError(
            f"cannot write more to {path}: {left_mb:.0f} MB are left on its disk, and "
            f"{keep_free_mb} MB are kept free: free some space, or write to another disk (what was "
            "written is whole)"
        )


def write_error(path: Path, error: OSError) -> OutputError:
    """What to tell when ``path`` could not be written."""
    if error.errno in _FULL:
        what = "the disk is full: free some space, or write to another disk"
    elif error.errno == errno.EFBIG:
        what = "the file is as large as its disk allows: write to another disk"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = f"{os.strerror(error.errno)}: choose a folder that you may write to"
    elif error.errno in (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE):
        what = f"{os.strerror(error.errno)}: was the disk taken out? Write to another one"
    else:
        what = str(error.strerror or error)
    return OutputError(f"cannot write {path}: {what}")
