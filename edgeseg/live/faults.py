"""How a live session tells of errors that it survives."""

from __future__ import annotations

from edgeseg.errors import EdgesegError

__all__ = ["describe_error"]


def describe_error(error: BaseException) -> str:
    """One line: the message of our own errors, with the type of all others."""
    text = " ".join(str(error).split())
    return text if isinstance(error, EdgesegError) else f"{type(error).__name__}: {text}"
