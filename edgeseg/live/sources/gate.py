"""Keeps pictures away that were made from damaged ones."""

from __future__ import annotations

__all__ = ["DamageGate"]


class DamageGate:
    """Closed by damage, opened by a frame that needs no other one.

    Codecs describe most frames by what changed. After a fault the decoder goes on with what it has,
    and smears of the damage travel through every frame up to the next key frame, although none of
    them is marked.
    """

    def __init__(self) -> None:
        self.closed = False

    def damage(self) -> None:
        """Something was damaged or is missing: close."""
        self.closed = True

    def passes(self, *, damaged: bool, key: bool) -> bool:
        """Whether a frame may be shown.

        Args:
            damaged: the decoder marked it.
            key: it needs no other frame.
        """
        if damaged:
            self.closed = True
        elif key:
            self.closed = False
        return not self.closed
