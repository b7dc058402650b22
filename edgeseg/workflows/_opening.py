"""Opens a bundle for a job over many frames: tuned to the machine where that pays."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeseg import model as models
from edgeseg._progress import Progress, silent
from edgeseg.backends import Hint
from edgeseg.errors import OutputError
from edgeseg.model import Model
from edgeseg.settings import Settings
from edgeseg.spec import Precision
from edgeseg.tuning import LIBRARY_DEFAULT, Tuned, kept, tune

__all__ = ["FRAMES_WORTH_TUNING", "open_for_job"]

_log = logging.getLogger(__name__)

FRAMES_WORTH_TUNING = 300
"""A job of fewer frames is not calibrated for: some seconds of calibration gain a few per cent."""


def open_for_job(
    bundle: str | Path,
    frames: int,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    hint: Hint = "latency",
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Model:
    """As ``edgeseg.open``; a long job on the CPU calibrates threads and cores first, once.

    That is one of at least ``FRAMES_WORTH_TUNING`` frames for which the caller names no threads and
    no earlier calibration has an answer.

    Args:
        bundle: the folder ``NAME.edgeseg``.
        frames: that the job has at least; 0 where nobody knows.
        backend: as for ``edgeseg.open``, like all others up to ``settings``.
        device: see ``backend``.
        precision: see ``backend``.
        threads: see ``backend``.
        hint: see ``backend``.
        settings: see ``backend``.
        progress: told of the calibration.

    Raises:
        EdgesegError: as ``edgeseg.open``.
    """

    def open_it() -> Model:
        return models.open(
            bundle,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            hint=hint,
            settings=settings or Settings(),
        )

    model = open_it()
    try:
        tuned = _calibrate(model, progress) if frames >= FRAMES_WORTH_TUNING else None
    except BaseException:
        model.close()
        raise
    if tuned is None or tuned.placing == LIBRARY_DEFAULT:
        return model
    model.close()
    return open_it()


def _calibrate(model: Model, progress: Progress) -> Tuned | None:
    """What a new calibration says; None where there is nothing to find out."""
    subject = model.tuning_subject
    if subject is None or kept(subject) is not None:
        return None
    progress("calibrate threads", 0, 1)
    try:
        tuned = tune(subject)
    except OutputError as error:
        # It would be lost, and made again for every job.
        _log.warning("threads are not calibrated: %s", error)
        return None
    finally:
        progress("calibrate threads", 1, 1)
    _log.info("threads, calibrated for this machine: %s", tuned.why)
    return tuned
