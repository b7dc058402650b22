"""Memory of a device that does not exist: blocks between guards, which are kept when freed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GUARD_BYTES = 512
"""Before and behind every block; must not change."""
GUARD = 0xA5
STALE = 0xFF
"""Fresh and freed memory: NaN in every floating type."""
ALIGNMENT = 512
KEPT_BYTES = 256 << 20
"""Of freed memory, the youngest, which is looked at in the end."""

DEVICE, HOST, MAPPED, OUTSIDE = "device", "page-locked", "mapped", "another library's"


class IllegalAddressError(Exception):
    """What runs on the device used memory that is not there."""


class Block:
    """An allocation."""

    def __init__(self, nbytes: int, kind: str, device: int = 0) -> None:
        self.nbytes = nbytes
        self.kind = kind
        self.device = device
        self._whole = np.full(nbytes + 2 * GUARD_BYTES + ALIGNMENT, GUARD, np.uint8)
        begin = self._whole.ctypes.data
        self.address = -(-(begin + GUARD_BYTES) // ALIGNMENT) * ALIGNMENT
        first = self.address - begin
        self.bytes = self._whole[first : first + nbytes]
        self.bytes[:] = STALE
        self._around = (self._whole[:first], self._whole[first + nbytes :])

    def holds(self, address: int, nbytes: int) -> bool:
        return self.address <= address and address + nbytes <= self.address + self.nbytes

    def problem(self, *, freed: bool) -> str | None:
        """What was done to it that must not be."""
        if not all(bool((guard == GUARD).all()) for guard in self._around):
            return f"written beside {self.nbytes} bytes of {self.kind} memory"
        if freed and not bool((self.bytes == STALE).all()):
            return f"{self.nbytes} bytes of {self.kind} memory written after they were freed"
        return None


class Pool:
    """All blocks of a runtime."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.blocks: list[Block] = []
        self.freed: list[Block] = []
        self.outside: list[Block] = []

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - sum(b.nbytes for b in self.blocks if b.kind == DEVICE)

    def allocate(self, nbytes: int, kind: str, device: int) -> Block | None:
        if nbytes < 1 or (kind == DEVICE and nbytes > self.free_bytes):
            return None
        block = Block(nbytes, kind, device)
        self.blocks.append(block)
        return block

    def release(self, address: int, kinds: tuple[str, ...]) -> Block | None:
        found = next((b for b in self.blocks if b.address == address and b.kind in kinds), None)
        if found is None:
            return None
        self.blocks.remove(found)
        # It stays where it is, so that whoever uses it still is found out and not killed.
        if found.problem(freed=False) is None:
            found.bytes[:] = STALE
        self.freed.append(found)
        while sum(block.nbytes for block in self.freed) > KEPT_BYTES:
            self.freed.pop(0)
        return found

    def find(self, address: int, nbytes: int) -> Block | None:
        """The block that holds a range, if it is not freed."""
        places = (*self.blocks, *self.outside)
        return next((block for block in places if block.holds(address, nbytes)), None)

    def reachable(self, address: int, nbytes: int) -> bool:
        """Whether the device may use a range. Memory that is page-locked and not mapped is none,
        although devices with one address space for all let it pass."""
        block = self.find(address, nbytes)
        return block is not None and block.kind != HOST

    def require(self, address: int, nbytes: int, *, host: bool = False) -> None:
        """Raise unless a range may be used, in the middle of something that runs."""
        if self.find(address, nbytes) if host else self.reachable(address, nbytes):
            return
        freed = any(block.holds(address, nbytes) for block in self.freed)
        state = "were freed" if freed else "are no memory of the device"
        raise IllegalAddressError(f"{nbytes} bytes at {address:#x} were used, which {state}")

    def problems(self) -> list[str]:
        found = [block.problem(freed=False) for block in (*self.blocks, *self.outside)]
        found += [block.problem(freed=True) for block in self.freed]
        return [problem for problem in found if problem is not None]

    def read(self, array: Any) -> Array:
        """What lies in a device array at this moment."""
        interface = array.__cuda_array_interface__
        assert self.find(interface["data"][0], 1) is not None, "no memory of this double"
        return np.array(SimpleNamespace(__array_interface__=interface))


class OutsideArray:
    """An array that another library has on the device."""

    def __init__(self, pool: Pool, values: Array, device: int) -> None:
        values = np.ascontiguousarray(values)
        self._block = Block(values.nbytes, OUTSIDE, device)
        self._block.bytes[:] = values.reshape(-1).view(np.uint8)
        self.values: Array = self._block.bytes.view(values.dtype).reshape(values.shape)
        """As they are at this moment."""
        pool.outside.append(self._block)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self.values.__array_interface__)
