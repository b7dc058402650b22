"""Objects that hold something open, and are their own context manager."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TypeVar

__all__ = ["Closing"]

C = TypeVar("C", bound="Closing")


class Closing(abc.ABC):
    """``with`` closes it at the end; ``close`` does so by hand, and may be called twice."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what is held."""

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
