"""How far the builder is: TensorRT's nested phases as one number that only grows."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["TOTAL", "BuildProgress", "make_monitor"]

TOTAL = 100
"""Of what is reported."""


@dataclass
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """What the builder has told, in percent; and the wish that it stop.

    The builder reports from threads of its own. Whoever waits for it does so here.
    """

    def __init__(self) -> None:
        self._phases: list[_Phase] = []
        self._percent = 0
        self._finished = False
        self._stop = False
        self._changed = threading.Condition()

    @property
    def percent(self) -> int:
        """How much is done, 0 to 99; the end is told by the builder's return."""
        with self._changed:
            return self._percent

    @property
    def stopped(self) -> bool:
        """Whether somebody wants the builder to give up."""
        with self._changed:
            return self._stop

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; one without a parent is an outermost one."""
        with self._changed:
            self._phases.append(_Phase(name, parent or None, max(int(steps), 1)))

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is over; returns whether to go on."""
        with self._changed:
            phase = self._find(name)
            if phase is not None:
                phase.done = min(max(phase.done, int(step) + 1), phase.steps)
                self._advance()
            return not self._stop

    def finish(self, name: str) -> None:
        """A phase is over, whether or not all of its steps were reported."""
        with self._changed:
            phase = self._find(name)
            if phase is not None:
                phase.done = phase.steps
                self._advance()
                self._phases.remove(phase)

    def stop(self) -> None:
        """Ask the builder to give up at its next step."""
        with self._changed:
            self._stop = True

    def close(self) -> None:
        """The builder has returned; nobody needs to wait any longer."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def wait(self, known: int) -> int | None:
        """Wait for a higher percentage than ``known`` and return it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or self._percent > known)
            return None if self._finished else self._percent

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._phases) if phase.name == name), None)

    def _advance(self) -> None:
        """Count the steps of the outermost phase, and the share of those that are running."""
        outermost = next((phase for phase in self._phases if phase.parent is None), None)
        if outermost is None:
            return
        # The end is the builder's return, not the end of its last phase.
        percent = min(int(TOTAL * self._share(outermost)), TOTAL - 1)
        if percent > self._percent:
            self._percent = percent
            self._changed.notify_all()

    def _share(self, phase: _Phase) -> float:
        """How much of a phase is done, 0 to 1; its running step counts as much as its phases."""
        if phase.done >= phase.steps:
            return 1.0
        inner = [self._share(p) for p in self._phases if p.parent == phase.name and p is not phase]
        running = sum(inner) / len(inner) if inner else 0.0
        return min((phase.done + running) / phase.steps, 1.0)


def make_monitor(lib: Any, progress: BuildProgress) -> trt.IProgressMonitor:
    """TensorRT's monitor that tells ``progress``. Keep it until the builder is gone."""

    class Monitor(lib.IProgressMonitor):
        def __init__(self) -> None:
            lib.IProgressMonitor.__init__(self)

        # An exception that leaves a callback of TensorRT ends the process.
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with contextlib.suppress(Exception):
                progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return progress.step(phase_name, step)
            except Exception:
                return True

        def phase_finish(self, phase_name: str) -> None:
            with contextlib.suppress(Exception):
                progress.finish(phase_name)

    return Monitor()
