"""``doctor`` on a Jetson: its release, power mode, clocks, and whether anything slows it down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from edgeseg._jetson import Clock, JetsonState, PowerMode, is_jetson, read_jetson
from edgeseg.workflows._findings import Finding, output_of

__all__ = ["checks"]

_HARMFUL = ("under-voltage", "average over-current")
"""Instantaneous peaks are cut by the thousand in a mode without limits, at little cost."""


def checks() -> list[tuple[str, Callable[[], Finding]]]:
    """The checks in their order; more than the first only on a Jetson."""
    first: list[tuple[str, Callable[[], Finding]]] = [("Jetson", _release)]
    if not is_jetson():
        return first
    return [*first, ("Jetson clocks", _clocks), ("Jetson throttling", _throttling)]


def _release() -> Finding:
    state = read_jetson()
    if state is None:
        return Finding("Jetson", "ok", "this machine is none")
    if state.l4t is None:
        return Finding("Jetson", "ok", f"{state.model}; it does not say which release it runs")
    known = state.jetpack
    if known is None:
        return Finding(
            "Jetson", "ok", f"{state.model}, L4T {state.l4t}: newer or older than edgeseg's table"
        )
    detail = (
        f"{state.model}, L4T {state.l4t} (JetPack {known.name}: TensorRT {known.tensorrt}, CUDA "
        f"{known.cuda})"
    )
    if known.served:
        return Finding("Jetson", "ok", detail)
    return Finding(
        "Jetson",
        "warning",
        f"{detail}; this TensorRT has no strongly typed networks, so only CPU backends serve",
        "install JetPack 6.1 or later: docs/jetson.md",
    )


def _clocks() -> Finding:
    state = _state()
    mode = state.power_mode or _asked_mode()
    words = [f"power mode {mode.words}" if mode else "power mode unknown"]
    words += [_clock_words(clock) for clock in state.clocks]
    if state.clocks and not all(clock.pinned for clock in state.clocks):
        words.append("clocks follow the load (sudo jetson_clocks  pins them)")
    fastest = state.fastest_mode
    capped = any(clock.capped for clock in state.clocks)
    if fastest is not None and mode is not None and mode.number != fastest.number:
        return Finding(
            "Jetson clocks",
            "warning",
            f"{'; '.join(words)}: the mode lowers the clocks" if capped else "; ".join(words),
            f"sudo nvpmodel -m {fastest.number}  ({fastest.name}, if power and cooling allow)",
        )
    return Finding("Jetson clocks", "ok", "; ".join(words))


def _throttling() -> Finding:
    state = _state()
    slowing = [f"{name} is raised" for name in state.throttles] + list(state.hot)
    electrical = [f"{n} times {kind}" for kind, n in state.over_current if n > 0]
    harmful = any(n > 0 and kind in _HARMFUL for kind, n in state.over_current)
    warmest = max(state.zones, key=lambda zone: zone.temperature_c, default=None)
    words = [f"{warmest.name} {warmest.temperature_c:.1f} degrees"] if warmest else []
    words += slowing
    if electrical:
        words.append(f"slowed since the start for {', '.join(electrical)}")
    detail = "; ".join(words) or "the device shows no sensors"
    if slowing:
        mend = "cool it: sudo jetson_clocks --fan, a free heat sink; or a lower mode: nvpmodel -m"
        return Finding("Jetson throttling", "warning", detail, mend)
    if harmful:
        mend = "a power supply as the board's manual asks for; or a lower mode: sudo nvpmodel -m"
        return Finding("Jetson throttling", "warning", detail, mend)
    return Finding("Jetson throttling", "ok", detail)


def _state() -> JetsonState:
    state = read_jetson()
    if state is None:
        raise RuntimeError("the files of the Jetson are gone")
    return state


def _asked_mode() -> PowerMode | None:
    """The mode that nvpmodel names, where its own file cannot be read."""
    program = shutil.which("nvpmodel") or shutil.which("nvpmodel", path="/usr/sbin")
    if program is None:
        return None
    found = re.search(r"NV Power Mode: *(\S+)\s+(\d+)", output_of(program, "-q"))
    return PowerMode(int(found[2]), found[1]) if found else None


def _clock_words(clock: Clock) -> str:
    words = f"{clock.name} at {clock.current_hz / 1e6:.0f} of {clock.highest_hz / 1e6:.0f} MHz"
    if clock.capped and clock.fastest_hz is not None:
        words += f" (the hardware: {clock.fastest_hz / 1e6:.0f})"
    return words
