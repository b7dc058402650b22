"""An engine for each number of views, and the choice between them from frame to frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgeseg.bundle import read_manifest
from edgeseg.live.adaptive import LadderModels, make_rungs
from edgeseg.live.computation import Computation, Job, Mask, computation_for
from edgeseg.live.status import Events
from edgeseg.model import Model
from edgeseg.workflows._live_model import EngineChoice

__all__ = ["open_adaptive"]


@dataclass(frozen=True)
class _Answer:
    rung: int
    outputs: Any


class _Adaptive(Computation):
    """Computes each frame with the views that the last frames' times allow."""

    def __init__(self, models: LadderModels, budget_ms: float, events: Events) -> None:
        self._models = models
        self._ladder = models.ladder(budget_ms)
        self._rungs = [computation_for(model, close_model=False) for model in models]
        self._index = self._ladder.index
        self._events = events
        self.views = self._ladder.label

    def compute(self, job: Job) -> Any:
        """With the views in use; then look at what it took."""
        start = time.monotonic()
        index = self._index
        outputs = self._rungs[index].compute(job)
        now = time.monotonic()
        self._index = self._ladder.observe(
            1e3 * (now - start),
            now,
            queue_ms=max(0.0, 1e3 * (start - job.frame.captured_s)),
        )
        if self._index != index:
            self.views = self._ladder.label
            self._events("views", views=self._ladder.label, why=self._ladder.why)
        return _Answer(index, outputs)

    def read(self, job: Job, computed: Any) -> Mask:
        """With the read-out of the views that the frame went through."""
        answer: _Answer = computed
        return self._rungs[answer.rung].read(job, answer.outputs)

    def close(self) -> None:
        """Free all engines."""
        try:
            for rung in self._rungs:
                rung.close()
        finally:
            self._models.close()


def open_adaptive(
    choice: EngineChoice, budget_ms: float, events: Events
) -> tuple[Computation, Model]:
    """Open an engine for each choice of views, and time them.

    Args:
        choice: the bundle; its settings say which views there are to begin with.
        budget_ms: from the capture of a frame to its logits.
        events: is told of changes.

    Returns:
        The computation, and the model with most views, of which the page tells.

    Raises:
        EdgesegError: as ``edgeseg.open``.
    """
    preprocess = choice.settings.preprocess(read_manifest(choice.bundle).preprocess)
    models = LadderModels(
        choice.bundle,
        make_rungs(preprocess),
        settings=choice.settings,
        backend=choice.backend,
        device=choice.device,
        precision=choice.precision,
        threads=choice.threads,
    )
    try:
        return _Adaptive(models, budget_ms, events), models[0]
    except BaseException:
        models.close()
        raise
