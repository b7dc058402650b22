"""Keeps pictures away that were made from damaged ones."""

from __future__ import annotations

__all__ = ["DamageGate"]

_BACKWARDS_S = 1.0


class DamageGate:
    """Closed by damage, opened by a later frame that needs no other one.

    Codecs describe most frames by what changed. After a fault the decoder goes on with what it has,
    and smears of the damage travel through every frame up to the next key frame, although none of
    them is marked. Time stamps are seconds; None where there is none.
    """

    def __init__(self) -> None:
        self._closed = False
        self._since_s: float | None = None

    def damage(self, stamp_s: float | None) -> None:
        """Something with this time stamp was damaged, or is missing before it: close.

        A decoder gives frames later than it takes packets. A key frame from before the damage must
        not open the gate again.
        """
        self._closed = True
        self._since_s = stamp_s

    def passes(self, *, damaged: bool, key: bool, stamp_s: float | None) -> bool:
        """Whether a frame may be shown.

        Args:
            damaged: the decoder marked it.
            key: it needs no other frame.
            stamp_s: its time stamp.
        """
        if damaged:
            self.damage(stamp_s)
        elif key and self._closed and self._is_later(stamp_s):
            self._closed = False
        return not self._closed

    def _is_later(self, stamp_s: float | None) -> bool:
        if stamp_s is None or self._since_s is None:
            return True
        # The damaged frame itself may be a key frame of which the rest is whole again: a packet
        # before it was lost.
        return stamp_s >= self._since_s or stamp_s < self._since_s - _BACKWARDS_S
