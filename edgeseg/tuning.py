"""Threads and cores of an engine on the CPU: a short calibration, kept for this machine.

``tune`` compares ways to lay an engine's threads onto the processor with what its library does by
itself, two engines at a time, in turns. What is not clearly faster is not taken. The answer lies in
the per-machine cache (``tuning/<key>.json``) under a hash of everything that it depends on, and
``edgeseg.open`` uses it where the caller names no threads; it never calibrates by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeseg import __version__
from edgeseg._cache import cache_folder, cache_root
from edgeseg._files import atomic_file
from edgeseg._linux import cpu_quota
from edgeseg._machine import cpu_name
from edgeseg._processors import busy_s, processors, usable_processors
from edgeseg.backends import (
    Engine,
    EngineOptions,
    Hint,
    backend_version,
    open_engine,
)
from edgeseg.backends.base import Binding, CoreType
from edgeseg.errors import BackendError, BundleError, UsageError
from edgeseg.spec import BackendName, from_json, to_json

__all__ = [
    "LIBRARY_DEFAULT",
    "Machine",
    "Placing",
    "Subject",
    "Tuned",
    "candidates",
    "kept",
    "subject",
    "this_machine",
    "tune",
]

_log = logging.getLogger(__name__)

_KIND = "tuning"
_RECORD_LIMIT_BYTES = 1 << 16
_SERVED: tuple[BackendName, ...] = ("openvino", "onnxruntime")

_GAIN = 0.03
"""A candidate is taken if its median time is shorter by this share, and ..."""
_AGREEMENT = 0.9
"""... it was the faster one in this share of the rounds: noise is as often against it as for it."""
_FEWEST_ROUNDS = 10
_MOST_ROUNDS = 500
_HOPELESS_ROUNDS, _HOPELESS = 3, 1.25
"""After so many rounds a candidate this many times as slow is not followed any further."""
_WARM_UPS = 2
_MOST_OTHERS = 0.2
"""Beyond this share of the processors' time for other programs nothing is concluded."""

Open = Callable[[Path, BackendName, EngineOptions], Engine]


@dataclass(frozen=True)
class Placing:
    """How an engine's threads lie on the processor; None leaves it to the library."""

    threads: int | None = None
    pinning: bool | None = None
    hyper_threading: bool | None = None
    core_type: CoreType | None = None

    def applied(self, options: EngineOptions) -> EngineOptions:
        """The options with this placing."""
        return dataclasses.replace(options, **dataclasses.asdict(self))

    def __str__(self) -> str:
        words = []
        if self.threads is not None:
            words.append("1 thread" if self.threads == 1 else f"{self.threads} threads")
        if self.pinning is not None:
            words.append("pinned to cores" if self.pinning else "not pinned to cores")
        if self.hyper_threading is not None:
            words.append("both" if self.hyper_threading else "one")
            words[-1] += " of a core's threads"
        if self.core_type is not None:
            words.append(f"{self.core_type} cores")
        return ", ".join(words) or "the library's default"


LIBRARY_DEFAULT = Placing()


@dataclass(frozen=True)
class Machine:
    """What an answer is bound to."""

    cpu: str
    processors: tuple[int, ...]
    """Logical ones that this process may use."""
    cores: int
    efficient: tuple[int, ...]
    quota: float | None
    """Processors' worth of time that a container may take."""


@dataclass(frozen=True)
class Subject:
    """An engine whose threads nobody has laid down."""

    file: Path
    sha256: tuple[str, ...]
    """Of the file, and of its weights where they lie beside it."""
    backend: BackendName
    options: EngineOptions


@dataclass(frozen=True)
class _Key:
    """All that an answer depends on."""

    sha256: tuple[str, ...]
    backend: str
    version: str
    machine: Machine
    hint: str
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...] | None
    batch: int | None
    bfloat16: bool
    edgeseg: str

    @property
    def file(self) -> Path:
        """Where the answer lies, or will."""
        text = json.dumps(to_json(self), sort_keys=True)
        return cache_root() / _KIND / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True)
class Tuned:
    """What a calibration found."""

    placing: Placing
    speedup: float
    """Median over the rounds of the default's time over this one's; 1 for the default."""
    rounds: int
    """In which the two took turns; of all candidates together for the default."""
    why: str


@dataclass(frozen=True)
class _Record:
    key: _Key
    tuned: Tuned


def this_machine() -> Machine:
    """What answers found here are bound to."""
    found = processors()
    return Machine(cpu_name(), found.numbers, found.cores, found.efficient, cpu_quota())


def subject(
    file: Path, sha256: tuple[str, ...], backend: BackendName, options: EngineOptions
) -> Subject | None:
    """What can be tuned: an engine on the CPU of which the caller has said nothing; else None."""
    stated = (options.threads, options.pinning, options.hyper_threading, options.core_type)
    if backend not in _SERVED or options.device != "CPU" or stated != (None,) * len(stated):
        return None
    return Subject(file, sha256, backend, options)


def candidates(
    backend: BackendName, hint: Hint, default_threads: int, machine: Machine
) -> tuple[Placing, ...]:
    """What may be better than the library's default, which is not among them; at most six.

    Counts of threads: 1 (not for throughput, which then would be one request at a time), the
    physical cores, all logical processors, and what a container's limit leaves, but never more than
    that. Besides: the fast cores of a hybrid processor alone, and the other way of pinning than the
    library's (OpenVINO pins on Linux, ONNX Runtime does not where its threads are counted).

    Args:
        backend: ``openvino`` or ``onnxruntime``.
        hint: of the engine.
        default_threads: what the library takes by itself.
        machine: where.
    """
    logical = len(machine.processors)
    most = logical if machine.quota is None else min(logical, max(1, math.ceil(machine.quota)))
    counts = {min(machine.cores, most), most} | ({1} if hint == "latency" else set())
    openvino = backend == "openvino"
    found = [
        Placing(count, hyper_threading=True if openvino and count > machine.cores else None)
        for count in sorted(counts - {default_threads})
    ]
    fast = logical - len(machine.efficient)
    if openvino and 0 < fast < logical:
        found.append(Placing(core_type="performance"))
    if default_threads > 1:
        if openvino:
            found.append(Placing(pinning=False))
        elif hint == "latency" and default_threads <= logical:
            found.append(Placing(pinning=True))
    return tuple(found)


def kept(subject: Subject, machine: Machine | None = None) -> Tuned | None:
    """What an earlier calibration found, if there was one; a file that cannot be read is none.

    Args:
        subject: what is to be opened.
        machine: where; None for this one.
    """
    key = _key(subject, machine or this_machine())
    path = key.file
    try:
        if path.stat().st_size > _RECORD_LIMIT_BYTES:
            raise ValueError("it is larger than any answer")
        record = from_json(_Record, json.loads(path.read_bytes()), "answer")
        if record.key != key:
            raise ValueError("it answers something else")
        _check(record.tuned.placing, subject, key.machine)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, BundleError, UsageError) as error:
        _log.warning("the calibration in %s is not used: %s", path, error)
        return None
    return record.tuned


def tune(
    subject: Subject,
    *,
    budget_s: float = 2.0,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.perf_counter,
    others_s: Callable[[], float | None] | None = None,
    open_engine: Open = open_engine,
) -> Tuned:
    """Calibrate, and keep the answer in the cache; an earlier one is replaced.

    Each candidate runs beside the library's default, in turns, so at most two engines are open. It
    is taken if the median of its times over the default's, round by round, is at least 3 % below 1
    and it was faster in nine of ten rounds; the best of those is the answer. Otherwise it is the
    default, which is kept as well.

    Where other programs take more than a fifth of the processors' time meanwhile, it is the default
    too, and nothing is kept: what is best beside them is not what is best without them.

    Args:
        subject: what ``Model.tuning_subject`` says.
        budget_s: time for the rounds of all candidates together. Slow graphs take longer, since
            ten rounds each are the least; opening the engines comes on top.
        machine: where; None for this one.
        clock: seconds.
        others_s: seconds that other programs have worked on the processors; None in place of a
            number: nobody knows. None for what the system says.
        open_engine: opens them.

    Raises:
        OutputError: the cache cannot be written; nothing was run.
        BackendError: the engine cannot be opened as the library does by itself.
    """
    here = machine or this_machine()
    key = _key(subject, here)
    cache_folder(_KIND)
    others_s = others_s or _others_s
    start, busy = clock(), others_s()
    best, rounds, tried = None, 0, 0
    with _Contender(open_engine(subject.file, subject.backend, subject.options)) as default:
        ways = candidates(subject.backend, subject.options.hint, default.engine.info.threads, here)
        for way in ways:
            options = way.applied(subject.options)
            try:
                engine = open_engine(subject.file, subject.backend, options)
            except BackendError as error:
                _log.info("%s is left out: %s", way, error)
                continue
            with _Contender(engine) as contender:
                ratios = _take_turns(default, contender, budget_s / len(ways), clock)
            ratio = statistics.median(ratios)
            faster = sum(value < 1.0 for value in ratios) / len(ratios)
            _log.info(
                "%s: %.3f times the default's time, faster in %.0f %% of %d rounds",
                way,
                ratio,
                100.0 * faster,
                len(ratios),
            )
            tried, rounds = tried + 1, rounds + len(ratios)
            if ratio > 1.0 - _GAIN or faster < _AGREEMENT or len(ratios) < _FEWEST_ROUNDS:
                continue
            if best is None or ratio < best[1]:
                best = way, ratio, len(ratios)
    share = _share(busy, others_s(), (clock() - start) * len(here.processors))
    if tried and share > _MOST_OTHERS:
        why = f"the library's default: other programs took {share:.0%} of the processors meanwhile"
        return Tuned(LIBRARY_DEFAULT, 1.0, rounds, why)
    tuned = _conclude(best, tried, rounds)
    with atomic_file(key.file) as path:
        path.write_text(json.dumps(to_json(_Record(key, tuned)), indent=2) + "\n", encoding="utf-8")
    return tuned


def _others_s() -> float | None:
    """Seconds that others have worked on the processors that this process may use."""
    busy = busy_s(usable_processors())
    return None if busy is None else busy - time.process_time()


def _share(before_s: float | None, after_s: float | None, available_s: float) -> float:
    """Of the processors' time, what others took; 0 where nobody knows."""
    if before_s is None or after_s is None or available_s <= 0.0:
        return 0.0
    return max(0.0, after_s - before_s) / available_s


def _conclude(best: tuple[Placing, float, int] | None, tried: int, rounds: int) -> Tuned:
    if not tried:
        return Tuned(
            LIBRARY_DEFAULT, 1.0, rounds, "the library's default: there is no other way here"
        )
    if best is None:
        why = (
            f"the library's default: none of {tried} other ways was {_GAIN:.0%} faster in "
            f"{_AGREEMENT:.0%} of the rounds"
        )
        return Tuned(LIBRARY_DEFAULT, 1.0, rounds, why)
    way, ratio, turns = best
    why = f"{way}: {1.0 / ratio:.2f} times as fast as the library's default in {turns} rounds"
    return Tuned(way, 1.0 / ratio, turns, why)


def _key(subject: Subject, machine: Machine) -> _Key:
    options = subject.options
    return _Key(
        subject.sha256,
        subject.backend,
        backend_version(subject.backend),
        machine,
        options.hint,
        options.inputs,
        options.outputs,
        options.batch,
        options.bfloat16,
        __version__,
    )


def _check(placing: Placing, subject: Subject, machine: Machine) -> None:
    """Refuse what ``candidates`` would not offer.

    Raises:
        UsageError, ValueError: it means nothing on this machine, or to this library.
    """
    placing.applied(subject.options)
    if placing.threads is not None and placing.threads > len(machine.processors):
        raise ValueError(f"{placing.threads} threads are more than the processors")
    if subject.backend != "openvino" and (placing.hyper_threading, placing.core_type) != (
        None,
        None,
    ):
        raise ValueError("it asks for what OpenVINO alone has")


class _Contender:
    """An engine with as many requests as it takes at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._resources = ExitStack()
        self._resources.callback(engine.close)
        try:
            self._bindings = [self._filled() for _ in range(engine.parallel)]
            self._pool = self._resources.enter_context(ThreadPoolExecutor(engine.parallel))
        except BaseException:
            self._resources.close()
            raise

    def _filled(self) -> Binding:
        binding = self.engine.bind()
        rng = np.random.default_rng(0)
        for array in binding.inputs.values():
            if array.dtype.kind == "f":
                array[...] = rng.standard_normal(array.shape)
        return binding

    def run(self) -> int:
        """Run all requests once; how many there were."""
        if len(self._bindings) == 1:
            self._bindings[0].run()
        else:
            # ``list``: what a request raised is raised here.
            list(self._pool.map(Binding.run, self._bindings))
        return len(self._bindings)

    def __enter__(self) -> _Contender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()


def _take_turns(
    default: _Contender, other: _Contender, budget_s: float, clock: Callable[[], float]
) -> list[float]:
    """For each round the time of ``other`` over the default's, a frame."""

    def time_s(contender: _Contender) -> float:
        start = clock()
        frames = contender.run()
        return (clock() - start) / frames

    for _ in range(_WARM_UPS):
        default.run()
        other.run()
    ratios: list[float] = []
    start = clock()
    while len(ratios) < _MOST_ROUNDS:
        if len(ratios) % 2:
            reference, found = time_s(default), time_s(other)
        else:
            found, reference = time_s(other), time_s(default)
        ratios.append(found / max(reference, 1e-9))
        rounds = len(ratios)
        if rounds >= _HOPELESS_ROUNDS and statistics.median(ratios) > _HOPELESS:
            break
        if rounds >= _FEWEST_ROUNDS and clock() - start >= budget_s:
            break
    return ratios
