"""As many views of a frame as there is time for: DINO-MVR under a latency budget.

A model of many views opens as a ladder of engines, from all views (the best mask) to one (the
quickest). ``ViewLadder`` looks at how long frames take and says which engine the next one goes
through; ``LadderModels`` holds the engines.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import model as models
from edgeseg._closing import Closing
from edgeseg.errors import UsageError
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.spec import Flip, PreprocessSpec, ViewSpec

__all__ = ["LadderModels", "Rung", "ViewLadder", "make_rungs"]

_log = logging.getLogger(__name__)

_AS_BUILT = Settings()
_TIMED_RUNS = 5
_TIMING_S = 5.0
_WARM_UP_HW_PX = (720, 1280)

_WINDOW = 30
_WINDOW_S = 10.0
_MIN_SAMPLES = 10
_MUCH, _MUCH_FRAMES = 1.5, 3
_EXTREME, _EXTREME_FRAMES = 3.0, 2
_MARGIN = 0.85
_FIRST_WAIT_S = 3.0
_LONGEST_WAIT_S = 600.0
_TRIAL_S = 60.0
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class Rung:
    """One choice of views."""

    views: tuple[tuple[int, int], ...] | None
    """(height, width) of each size in pixels; None for what the bundle has."""
    flips: tuple[Flip, ...] | None
    """Mirrorings besides the identity; None for what the bundle has."""
    count: int
    """How many times the network looks at a frame."""
    label: str
    """For a person: ``2 of 9 views``."""

    def settings(self, base: Settings = _AS_BUILT) -> Settings:
        """What ``edgeseg.open`` takes: ``base`` with this choice of views."""
        if self.views is None and self.flips is None:
            return base
        return dataclasses.replace(base, views=self.views, flips=self.flips)


def make_rungs(spec: PreprocessSpec) -> tuple[Rung, ...]:
    """The choices of views of a model, from all of them to one.

    Mirrored copies go first, then sizes, the largest first, as cost and benefit have it. On the 100
    polyp images of README.md (probes fitted to 40 images, FP32, compared at the images' own size)
    the sizes 256, 384 and 512 score a Dice of 0.6043, without the largest 0.6058, the smallest
    alone 0.6028; without the smallest it is 0.5885, with the largest alone 0.5827. Of the time of
    the three the largest takes more than half. Mirrored copies, each as dear as the frame itself,
    bring nothing: in README.md's table nine views score 0.5995, the three sizes alone 0.5996.
    ``edgeseg eval --ablate`` and ``--views`` give these figures for other models.

    Args:
        spec: the bundle's, or ``Settings.preprocess`` of it to start from fewer views.

    Returns:
        Rungs of which each costs clearly less than the one before it; a single one for a model
        that looks at a frame once.
    """
    if not spec.views:
        return (Rung(None, None, 1, "1 of 1 views"),)
    sizes = sorted(spec.views, key=lambda view: view.height_px * view.width_px)
    mirrored = tuple(flip for flip in sizes[0].flips if flip != "none")
    choices: list[tuple[Sequence[ViewSpec], tuple[Flip, ...]]] = [(sizes, mirrored)]
    if len(mirrored) > 1:
        choices.append((sizes, mirrored[:1]))
    if mirrored:
        choices.append((sizes, ()))
    choices += [(sizes[:count], ()) for count in range(len(sizes) - 1, 0, -1)]
    total = sum(len(view.flips) for view in spec.views)
    return tuple(_rung(views, flips, total) for views, flips in choices)


def _rung(views: Sequence[ViewSpec], flips: tuple[Flip, ...], total: int) -> Rung:
    count = len(views) * (1 + len(flips))
    return Rung(
        views=tuple((view.height_px, view.width_px) for view in views),
        flips=flips,
        count=count,
        label=f"{count} of {total} views",
    )


class ViewLadder:
    """Decides how many views the next frame is looked at with. Pure: no clock, no threads.

    Down, at once, on the rung that is expected to fit, when

    - three frames in a row take more than 1.5 times the budget, or two more than three times, or
    - nine tenths of the last frames (10 to 30 of them) do not keep to the budget.

    Up, one rung at a time, when the rung above is expected to keep to 85 % of the budget without a
    break for some seconds. What a rung is expected to take is its time at the warm-up times the
    present load: what the rung in use takes now (the 90 % quantile) beside its own warm-up; and the
    time that frames would wait for an engine that becomes slower than the source. An
    attempt that is taken back within a minute has failed, and doubles the time before the next one
    on that rung: 3 s at first, 10 minutes at most. One that lasts halves it again. So a load that
    sits between two rungs costs a few changes, and then one attempt every 10 minutes.

    Attributes:
        budget_ms: longest time from the moment a frame is there to its logits.
        index: of the rung in use, 0 for most views.
        why: reason of the last decision, one sentence without a full stop.
        changes: how often the rung changed.
        within_budget: False while even the fewest views do not keep to it.
    """

    def __init__(
        self, rungs: Sequence[Rung], budget_ms: float, *, warm_up_ms: Sequence[float]
    ) -> None:
        """Start on the rung with most views whose warm-up time fits with margin.

        Args:
            rungs: from most views to fewest.
            budget_ms: for waiting, preprocessing and inference of a frame.
            warm_up_ms: what preprocessing and inference took for each rung, unhindered.

        Raises:
            UsageError: no rungs, not as many times, or times and budget that are not positive.
        """
        if not rungs or len(rungs) != len(warm_up_ms):
            raise UsageError(f"{len(rungs)} rungs need as many times, got {len(warm_up_ms)}")
        if not (math.isfinite(budget_ms) and budget_ms > 0.0):
            raise UsageError(f"the latency budget must be a positive time in ms, got {budget_ms}")
        if not all(math.isfinite(took) and took > 0.0 for took in warm_up_ms):
            raise UsageError("the warm-up times of the views must be positive times in ms")
        self.rungs = tuple(rungs)
        self.budget_ms = budget_ms
        self.changes = 0
        self._warm_up_ms = tuple(warm_up_ms)
        self._wait_s = [_FIRST_WAIT_S] * len(rungs)
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=_WINDOW)
        self._settled = True
        self._now_s: float | None = None
        self._tried_s: float | None = None
        self._fits_since_s: float | None = None
        self.within_budget = True
        self.index = self._first_that_fits(0, load=1.0, queue_ms=0.0, limit_ms=_MARGIN * budget_ms)
        took_ms = self._warm_up_ms[self.index]
        if len(self.rungs) == 1:
            self.why = "the model looks at a frame once: there is nothing to choose"
        else:
            self.why = f"took {took_ms:.0f} ms at the warm-up, budget {budget_ms:.0f} ms"
        _log.info("%s: %s", self.label, self.why)

    @property
    def rung(self) -> Rung:
        """The rung in use."""
        return self.rungs[self.index]

    @property
    def label(self) -> str:
        """Views in use, for a person."""
        return self.rung.label

    def observe(self, engine_ms: float, now_s: float, *, queue_ms: float = 0.0) -> int:
        """Take note of a frame that went through the rung in use.

        Args:
            engine_ms: what preprocessing and inference took; infinite for a call that was given up.
            now_s: when it was done; a clock that never runs backwards.
            queue_ms: how long the frame waited before, from its capture on.

        Returns:
            Index of the rung for the next frame.

        Raises:
            UsageError: a time is negative or no number.
        """
        if not (engine_ms >= 0.0 and queue_ms >= 0.0 and math.isfinite(now_s)):
            raise UsageError(
                f"times must be numbers of at least 0, got {engine_ms} and {queue_ms} ms at {now_s}"
            )
        last_s, self._now_s = self._now_s, now_s
        if not self._settled:
            # The first frame on another engine finds cold caches.
            self._settled = True
            return self.index
        if last_s is not None and now_s - last_s > _LONGEST_PAUSE_S + self.budget_ms / 1e3:
            # The source was away: nothing is known about the time in between.
            self._fits_since_s = None
        self._samples.append((now_s, engine_ms, queue_ms))
        while now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        if not self._go_down(now_s):
            self._go_up(now_s)
        return self.index

    def _go_down(self, now_s: float) -> bool:
        for factor, frames in ((_EXTREME, _EXTREME_FRAMES), (_MUCH, _MUCH_FRAMES)):
            last = list(self._samples)[-frames:]
            totals = [engine_ms + queue_ms for _, engine_ms, queue_ms in last]
            if len(last) == frames and min(totals) > factor * self.budget_ms:
                engine_ms = statistics.median(sample[1] for sample in last)
                queue_ms = statistics.median(sample[2] for sample in last)
                why = f"{frames} frames took more than {min(totals):.0f} ms"
                return self._down(engine_ms, queue_ms, why, now_s)
        if len(self._samples) < _MIN_SAMPLES:
            return False
        total_ms = _p90([engine_ms + queue_ms for _, engine_ms, queue_ms in self._samples])
        if total_ms <= self.budget_ms:
            self.within_budget = True
            return False
        engine_ms, queue_ms = self._typical()
        return self._down(engine_ms, queue_ms, f"frames take {total_ms:.0f} ms", now_s)

    def _down(self, engine_ms: float, queue_ms: float, why: str, now_s: float) -> bool:
        """Go to the first lower rung that fits at this load; whether there is a lower one."""
        why = f"{why}, budget {self.budget_ms:.0f} ms"
        if self.index == len(self.rungs) - 1:
            self._fits_since_s = None
            if self.within_budget:
                self.within_budget = False
                self.why = f"{why}, and there are no fewer views"
                _log.warning("%s: %s", self.label, self.why)
            return False
        if self._tried_s is not None:
            failed = now_s - self._tried_s < _TRIAL_S
            wait_s = self._wait_s[self.index] * (2.0 if failed else 0.5)
            self._wait_s[self.index] = min(max(wait_s, _FIRST_WAIT_S), _LONGEST_WAIT_S)
            self._tried_s = None
        load = engine_ms / self._warm_up_ms[self.index]
        self._change(self._first_that_fits(self.index + 1, load, queue_ms, self.budget_ms), why)
        return True

    def _go_up(self, now_s: float) -> None:
        if self.index == 0 or len(self._samples) < _MIN_SAMPLES:
            return
        above = self.index - 1
        engine_ms, queue_ms = self._typical()
        load = engine_ms / self._warm_up_ms[self.index]
        above_ms = self._warm_up_ms[above] * load
        expected_ms = above_ms + max(queue_ms, self._future_queue_ms(above_ms))
        # A quantile of infinite times is infinite or no number, and fits neither way.
        if not expected_ms <= _MARGIN * self.budget_ms:
            self._fits_since_s = None
            return
        if self._fits_since_s is None:
            self._fits_since_s = now_s
        if now_s - self._fits_since_s < self._wait_s[above]:
            return
        self._change(above, f"expected {expected_ms:.0f} ms, budget {self.budget_ms:.0f} ms")
        self._tried_s = now_s

    def _future_queue_ms(self, engine_ms: float) -> float:
        """How long frames would wait, if they do not now, for an engine that takes so long.

        An engine that is quicker than the source waits for frames. Once it is slower than the
        source, frames wait for it, each up to one interval of the source.
        """
        times_s = [sample[0] for sample in self._samples]
        interval_ms = 1e3 * statistics.median(b - a for a, b in itertools.pairwise(times_s))
        now_ms = statistics.median(sample[1] for sample in self._samples)
        waits = any(sample[2] > 0.0 for sample in self._samples)
        idle = now_ms < _MARGIN * interval_ms
        return 0.9 * interval_ms if waits and idle and engine_ms > interval_ms else 0.0

    def _change(self, index: int, why: str) -> None:
        before = self.label
        self.index = index
        self.why = why
        self.changes += 1
        self._samples.clear()
        self._settled = False
        self._fits_since_s = None
        self.within_budget = True
        _log.info("%s after %s: %s", self.label, before, why)

    def _first_that_fits(self, first: int, load: float, queue_ms: float, limit_ms: float) -> int:
        """The rung with most views, from ``first`` on, that is expected to keep to the limit."""
        for index in range(first, len(self.rungs)):
            if self._warm_up_ms[index] * load + queue_ms <= limit_ms:
                return index
        return len(self.rungs) - 1

    def _typical(self) -> tuple[float, float]:
        """90 % quantiles of the engine's and the waiting times, in ms."""
        return _p90([sample[1] for sample in self._samples]), _p90(
            [sample[2] for sample in self._samples]
        )


class LadderModels(Closing):
    """The engines of a ladder, all open, so that the number of views changes between two frames.

    Each takes its memory. A choice of views that saves the engine nothing is closed again: ONNX
    Runtime, for one, computes all mirrored copies whether they are wanted or not.

    Attributes:
        rungs: those that are open, from most views to fewest.
        warm_up_ms: shortest time of preprocessing and inference of a 720p picture, for each rung.
        left_out: labels of the rungs that save nothing.
    """

    def __init__(
        self,
        bundle: str | Path,
        rungs: Sequence[Rung],
        *,
        settings: Settings = _AS_BUILT,
        **choice: Any,
    ) -> None:
        """Open a model for each rung, and time it.

        Args:
            bundle: the folder ``NAME.edgeseg``.
            rungs: of ``make_rungs``.
            settings: what else to set; its views and flips are those of the rung.
            **choice: what else ``edgeseg.open`` takes: backend, device, precision, threads.

        Raises:
            UsageError: there are no rungs, or the bundle has not these views.
            EdgesegError: as ``edgeseg.open``.
        """
        if not rungs:
            raise UsageError("a ladder needs at least one choice of views")
        self._models: list[Model] = []
        kept: list[Rung] = []
        left_out: list[str] = []
        try:
            for rung in rungs:
                model = models.open(bundle, settings=rung.settings(settings), **choice)
                self._models.append(model)
                if kept and _work(model) >= _work(self._models[-2]):
                    self._models.pop().close()
                    left_out.append(rung.label)
                    _log.info(
                        "%s left out: %s computes as much for them as for %s",
                        rung.label,
                        model.engine.info.backend,
                        kept[-1].label,
                    )
                else:
                    kept.append(rung)
            times_ms = _times_ms(self._models)
        except BaseException:
            self.close()
            raise
        self.rungs = tuple(kept)
        self.warm_up_ms = tuple(times_ms)
        self.left_out = tuple(left_out)
        for rung, took_ms in zip(kept, times_ms, strict=True):
            _log.info("%s take %.1f ms", rung.label, took_ms)

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, index: int) -> Model:
        return self._models[index]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def ladder(self, budget_ms: float) -> ViewLadder:
        """Decisions for these models.

        Raises:
            UsageError: the budget is not a positive time.
        """
        return ViewLadder(self.rungs, budget_ms, warm_up_ms=self.warm_up_ms)

    def close(self) -> None:
        """Free all engines."""
        for model in self._models:
            model.close()


def _work(model: Model) -> int:
    """Pixels that the engine looks at for one frame, wanted or not."""
    spec = model.fed_spec
    if not spec.views:
        return spec.height_px * spec.width_px
    return sum(len(view.flips) * view.height_px * view.width_px for view in spec.views)


def _times_ms(opened: Sequence[Model]) -> list[float]:
    """Shortest time of preprocessing and inference of each, the way that live frames take.

    They take turns, and the shortest of some rounds counts: a machine that is busy for a moment
    must not make one of them look slow.
    """
    frame = np.random.default_rng(0).integers(0, 256, (*_WARM_UP_HW_PX, 3), dtype=np.uint8)
    stages = [model.bound_stages() for model in opened]
    times_ms = [math.inf] * len(opened)
    began = time.perf_counter()
    for turn in range(1 + _TIMED_RUNS):
        for index, stage in enumerate(stages):
            start = time.perf_counter()
            outputs = stage.infer(stage.preprocess(frame))
            took_ms = 1e3 * (time.perf_counter() - start)
            stage.read_out(outputs, frame.shape[:2])
            if turn:
                times_ms[index] = min(times_ms[index], took_ms)
        if turn and time.perf_counter() - began > _TIMING_S:
            break
    # Less work does not take longer, whatever was measured.
    return [min(times_ms[: index + 1]) for index in range(len(times_ms))]


def _p90(values: Sequence[float]) -> float:
    """The value that nine tenths do not exceed, one of them."""
    ordered = sorted(values)
    return ordered[math.ceil(0.9 * len(ordered)) - 1]
