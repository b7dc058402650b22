"""Reader, workers and writer in overlapping threads, with bounded slots between them.

Nothing is dropped: files wait. Order is kept, also with several workers in a stage. An error in any
stage stops the others and is raised to the caller; a source that ends early with a ``DataError``
(a video that breaks off) is different: what was read is carried through to the writer first, and
the report holds the error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import DataError
from edgeseg.video.channel import AbandonedError, Channel, EndedError, Switch
from edgeseg.video.timing import Spread

__all__ = ["PipelineReport", "Stage", "StageReport", "run_pipeline"]


@dataclass(frozen=True)
class Stage:
    """A step between reader and writer."""

    name: str
    work: Callable[[Any], Any]
    """Called with the previous stage's result; may be called from several threads at once if
    ``workers`` is larger than 1."""
    workers: int = 1


@dataclass(frozen=True)
class StageReport:
    """What one stage did. Waiting for its neighbours is not counted."""

    name: str
    workers: int
    frames: int
    busy_ms_mean: float
    busy_ms_p50: float
    busy_ms_p95: float
    cpu_ms_mean: float
    """CPU time of the stage's own threads per frame; a library's pool (codec, inference) is not
    in it: ``PipelineReport.process_cpu_ms`` has everything."""


@dataclass(frozen=True)
class PipelineReport:
    """What a run of the pipeline did."""

    frames: int
    wall_s: float
    process_cpu_ms: float
    """CPU time of the whole process per frame, all libraries' threads included."""
    stages: tuple[StageReport, ...]
    """Reader first, writer last."""
    ended_by: DataError | None
    """Why the source ended early; None if it was whole."""

    @property
    def fps(self) -> float:
        """Frames per second, start to end."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0


class _Meter:
    """Busy and CPU time of one stage, by any number of threads."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.workers = workers
        self._busy = Spread()
        self._cpu_s = 0.0
        self._lock = threading.Lock()

    def measure(self, work: Callable[..., Any], *arguments: Any) -> Any:
        start, start_cpu = time.perf_counter(), time.thread_time()
        result = work(*arguments)
        busy_ms = 1e3 * (time.perf_counter() - start)
        cpu_s = time.thread_time() - start_cpu
        with self._lock:
            self._busy.add(busy_ms)
            self._cpu_s += cpu_s
        return result

    def report(self) -> StageReport:
        return StageReport(
            name=self.name,
            workers=self.workers,
            frames=self._busy.count,
            busy_ms_mean=self._busy.mean_ms,
            busy_ms_p50=self._busy.percentile_ms(50),
            busy_ms_p95=self._busy.percentile_ms(95),
            cpu_ms_mean=1e3 * self._cpu_s / max(self._busy.count, 1),
        )


class _Reader:
    def __init__(self, source: Iterable[Any], out: Channel[Any], meter: _Meter) -> None:
        self._source = source
        self._out = out
        self._meter = meter
        self.ended_by: DataError | None = None

    def run(self) -> None:
        count = 0
        iterator = iter(self._source)
        try:
            while True:
                try:
                    item = self._meter.measure(next, iterator)
                except StopIteration:
                    break
                except DataError as error:
                    self.ended_by = error
                    break
                self._out.put(count, item)
                del item
                count += 1
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._out.end(count)


class _Worker:
    def __init__(
        self, work: Callable[[Any], Any], into: Channel[Any], out: Channel[Any], meter: _Meter
    ) -> None:
        self._work = work
        self._into = into
        self._out = out
        self._meter = meter

    def run(self) -> None:
        while True:
            try:
                number, item = self._into.get()
            except EndedError as ended:
                self._out.end(ended.args[0])
                return
            result = self._meter.measure(self._work, item)
            # A waiting worker must not keep the frame it was given alive beside its result.
            del item
            self._out.put(number, result)
            del result


def run_pipeline(
    source: Iterable[Any],
    stages: Sequence[Stage],
    write: Callable[[Any], object],
    *,
    slots: int = 2,
    read_name: str = "decode",
    write_name: str = "encode",
) -> PipelineReport:
    """Carry every item of ``source`` through ``stages`` to ``write``, all at work at once.

    The reader and each stage have their own threads; ``write`` runs in the caller's, so a callback
    in it may touch what belongs to that thread, and Ctrl-C reaches it. At most ``slots`` items lie
    between two stages, one more for every additional worker of either, and each thread holds one.

    Args:
        source: read in its own thread. A ``DataError`` from it ends the run early but regularly.
        stages: any number.
        write: called with the last stage's results, in the order of the source.
        slots: items between two stages (at least 1).
        read_name: name of the reader in the report.
        write_name: name of the writer in the report.

    Returns:
        What each stage took, and why the source ended early if it did.

    Raises:
        Exception: the first error of any stage, of ``write`` or (unless a ``DataError``) of
            ``source``. All threads have ended by then.
    """
    switch = Switch()
    meters = [_Meter(read_name, 1), *(_Meter(s.name, s.workers) for s in stages)]
    writer_meter = _Meter(write_name, 1)
    # Frames of parallel workers end out of order. Without room for those that wait for an earlier
    # one, a worker whose neighbour was held up would have to stop.
    workers = [1, *(stage.workers for stage in stages), 1]
    channels: list[Channel[Any]] = [
        Channel(max(slots, 1) + workers[i] + workers[i + 1] - 2, switch)
        for i in range(len(stages) + 1)
    ]
    reader = _Reader(source, channels[0], meters[0])
    jobs = [(read_name, reader.run)]
    for i, stage in enumerate(stages):
        worker = _Worker(stage.work, channels[i], channels[i + 1], meters[i + 1])
        jobs.extend((stage.name, worker.run) for _ in range(stage.workers))
    threads = [
        threading.Thread(target=_guarded, args=(job, switch), name=f"edgeseg {name}", daemon=True)
        for name, job in jobs
    ]
    start, start_cpu = time.perf_counter(), time.process_time()
    frames = 0
    try:
        for thread in threads:
            thread.start()
        while True:
            _, item = channels[-1].get()
            writer_meter.measure(write, item)
            del item
            frames += 1
    except EndedError:
        pass
    except AbandonedError:
        pass  # the switch holds the error
    finally:
        # After a regular end nobody waits any more; otherwise this is what stops the others.
        switch.throw()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if switch.error is not None:
        raise switch.error
    return PipelineReport(
        frames=frames,
        wall_s=time.perf_counter() - start,
        process_cpu_ms=1e3 * (time.process_time() - start_cpu) / max(frames, 1),
        stages=tuple(meter.report() for meter in (*meters, writer_meter)),
        ended_by=reader.ended_by,
    )


def _guarded(job: Callable[[], None], switch: Switch) -> None:
    try:
        job()
    except AbandonedError:
        pass
    except BaseException as error:
        switch.throw(error)
