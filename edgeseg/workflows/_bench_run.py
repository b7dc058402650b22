"""One run of the benchmark: candidates that are open side by side, and what is measured of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg import __version__
from edgeseg._processors import processors
from edgeseg._progress import Progress
from edgeseg.bench.candidate import Candidate
from edgeseg.bench.end_to_end import end_to_end_notes, measure_end_to_end
from edgeseg.bench.energy import find_meter
from edgeseg.bench.engine_candidate import EngineCandidate
from edgeseg.bench.frame_rate import FrameRate
from edgeseg.bench.limits import measure_limits
from edgeseg.bench.machine import ThrottleWatch, describe_machine
from edgeseg.bench.peers import CandidateSpec
from edgeseg.bench.profile import BlockTable, profile_model
from edgeseg.bench.result import (
    SCHEMA_VERSION,
    AccuracyRecord,
    BenchResult,
    BoundRecord,
    CandidateRecord,
    ConcurrencyRecord,
    EndToEndRecord,
    EnergyRecord,
    LimitsRecord,
)
from edgeseg.bench.rounds import Rounds
from edgeseg.bench.stats import summary_ms
from edgeseg.errors import BackendError
from edgeseg.workflows._bench_accuracy import score_candidates
from edgeseg.workflows._bench_bound import bound_of, graph_of, size_mib
from edgeseg.workflows._bench_child import (
    ChildFigures,
    EngineSpec,
    measure_child,
    open_spec,
)
from edgeseg.workflows._bench_inputs import FrameInputs
from edgeseg.workflows._bench_masks import FUSION_NOTE, OWN_FUSION, mask_calls
from edgeseg.workflows._bench_measure import (
    Effort,
    Frame,
    frame_path_rate,
    measure_calls,
    measure_energy,
    measure_latencies,
    measure_stages,
    measure_throughput,
)
from edgeseg.workflows._bench_source import Subject
from edgeseg.workflows._peers import peer_specs
from edgeseg.workflows._validate import Validation

__all__ = ["Bench", "BenchReport"]

END_TO_END_S = 60.0
"""Of the video that goes from capture to overlay, at its own rate."""
_LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "torch",
    "timm",
    "nncf",
)


@dataclass(frozen=True)
class BenchReport:
    """What ``benchmark`` measured, and where it wrote it.

    Attributes:
        result: all figures.
        output: the folder of ``result.json`` and ``report.html``; None if none was asked for.
        blocks: the time of the frame by part of the model; None if not asked for.
        frame_path: what the frame path on a GPU reaches; None where the engine works on the host.
        no_frame_path: why an engine on a GPU has none; None otherwise.
    """

    result: BenchResult
    output: Path | None = None
    blocks: BlockTable | None = None
    frame_path: FrameRate | None = None
    no_frame_path: str | None = None


class Bench:
    """Candidates that are open side by side, and what is measured of them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        subject: Subject,
        frame: Frame,
        effort: Effort,
        progress: Progress,
    ) -> None:
        self._stack = stack
        self._subject = subject
        self._frame = frame
        self._effort = effort
        self._progress = progress
        self._specs: dict[str, EngineSpec | CandidateSpec] = {}
        self._candidates: list[Candidate] = []
        self._peers: list[CandidateSpec] = []
        self._notes = list(subject.notes)

    def open(self, spec: EngineSpec | CandidateSpec) -> None:
        """Open one more candidate; they are closed with the stack."""
        candidate = self._stack.enter_context(open_spec(spec))
        self._candidates.append(candidate)
        self._specs[candidate.name] = spec

    def open_peers(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        data: Path | None,
        validation: Path | None,
        threads: int | None,
    ) -> None:
        """Make and open the peers, with a thread for each physical core unless told otherwise."""
        manifest = self._subject.bundle.manifest
        assert self._subject.checkpoint is not None  # ``check_arguments`` asks for it
        self._peers = peer_specs(
            self._subject.checkpoint,
            names,
            folder=folder,
            preprocess=manifest.preprocess,
            readout=manifest.readout,
            sha256=manifest.provenance.checkpoint_sha256,
            data=data,
            validation=validation,
            # A calibration may have chosen fewer for edgeseg; peers get what libraries take.
            threads=threads or processors().cores,
            fusion=self._has_views,
            progress=self._progress,
        )
        for spec in self._peers:
            if spec.unavailable is not None:
                raise BackendError(f"--vs {spec.kind}: {spec.unavailable}")
            self._notes += spec.notes
            self.open(spec)

    @property
    def _own(self) -> EngineCandidate:
        """edgeseg's first candidate, whose preprocessing and read-out serve all."""
        first = self._candidates[0]
        assert isinstance(first, EngineCandidate)
        return first

    @property
    def _inputs(self) -> FrameInputs:
        """The frame, for all candidates."""
        return FrameInputs(self._own.model, self._frame)

    def measure(
        self, validation: Validation | None, video: Path | None, *, profile: bool
    ) -> BenchReport:
        """Everything, in an order in which a failing candidate shows early.

        Args:
            validation: to score all candidates on; None: they are not scored.
            video: to take from capture to overlay; None: none is.
            profile: whether to time the layers of the first candidate.
        """
        own, progress = self._own, self._progress
        children = self._children()
        limits = self._limits()
        watch = ThrottleWatch()
        samples, inference = self._latencies()
        watch.look()
        stages = measure_stages(own, self._frame, inference[own.name], self._effort, progress)
        throughput = self._throughputs()
        frame_path, no_frame_path = self._frame_path()
        energy = self._energy()
        watch.look()
        accuracy = self._accuracy(validation)
        blocks = self._blocks(stages) if profile else None
        end_to_end = self._end_to_end(video) if video is not None else None
        records = tuple(
            CandidateRecord(
                name=one.name,
                version=one.version,
                how=self._how(one),
                precision=one.precision,
                threads=one.threads,
                samples_ms=samples[one.name],
                load_ms=children[one.name].load_ms,
                peak_rss_mib=children[one.name].peak_rss_mib,
                file_mib=size_mib(one, self._peers),
                throughput=throughput[one.name],
                accuracy=accuracy.get(one.name),
                energy=energy.get(one.name),
                bound=None if limits is None else self._bound(one, inference[one.name], limits),
            )
            for one in self._candidates
        )
        manifest = self._subject.bundle.manifest
        height_px, width_px = self._frame.shape[:2]
        result = BenchResult(
            schema_version=SCHEMA_VERSION,
            edgeseg_version=__version__,
            date_utc="",
            command="",
            subject=self._subject.name,
            checkpoint_sha256=manifest.provenance.checkpoint_sha256,
            family=manifest.family,
            input_hw_px=(manifest.preprocess.height_px, manifest.preprocess.width_px),
            frame_hw_px=(height_px, width_px),
            rewrites=tuple(rewrite.name for rewrite in manifest.rewrites),
            machine=describe_machine(_LIBRARIES, throttling=watch.verdict()),
            candidates=records,
            stages_ms=stages,
            limits=limits,
            blocks=blocks.record() if blocks is not None else None,
            frame_path=frame_path.record() if frame_path is not None else None,
            end_to_end=end_to_end,
            notes=tuple(self._notes),
        )
        return BenchReport(
            result, blocks=blocks, frame_path=frame_path, no_frame_path=no_frame_path
        )

    @property
    def _has_views(self) -> bool:
        return bool(self._subject.bundle.manifest.preprocess.views)

    def _how(self, candidate: Candidate) -> str:
        if self._has_views and isinstance(candidate, EngineCandidate):
            return f"{candidate.how}; {OWN_FUSION}"
        return candidate.how

    def _latencies(self) -> tuple[dict[str, Rounds], dict[str, Rounds]]:
        """What is compared, and of it the network alone: less where its answer is many views."""
        if not self._has_views:
            found = measure_latencies(
                self._candidates, self._inputs.of, self._effort, self._progress
            )
            return found, found
        self._notes.append(FUSION_NOTE)
        spec = self._own.model.preprocess_spec
        grid_hw_px = (spec.height_px, spec.width_px)
        calls = mask_calls(self._candidates, self._inputs.of, grid_hw_px)
        found = measure_calls(calls, self._effort, self._progress)
        return found, {name: call.inference(found[name]) for name, call in calls.items()}

    def _children(self) -> dict[str, ChildFigures]:
        found = {}
        inputs = self._inputs
        for done, one in enumerate(self._candidates):
            self._progress("load time and memory", done, len(self._specs))
            found[one.name] = measure_child(one.name, self._specs[one.name], inputs.of(one))
        self._progress("load time and memory", len(self._specs), len(self._specs))
        return found

    def _limits(self) -> LimitsRecord | None:
        info = self._own.model.engine.info
        if info.device != "CPU":
            self._notes.append(f"bound: rates are measured on the CPU alone, not on {info.device}")
            return None
        threads = min(self._own.threads, processors().cores)
        return measure_limits(threads, progress=self._progress)

    def _throughputs(self) -> dict[str, tuple[ConcurrencyRecord, ...]]:
        """By concurrency; several requests get an engine that was opened for several."""
        found = {}
        for done, one in enumerate(self._candidates):
            self._progress("throughput", done, len(self._candidates))
            with self._several(one) as several:
                found[one.name] = measure_throughput(one, several, self._inputs.of(one))
        self._progress("throughput", len(self._candidates), len(self._candidates))
        return found

    @contextlib.contextmanager
    def _several(self, candidate: Candidate) -> Iterator[Candidate]:
        """The same candidate, opened for several requests at once."""
        spec = self._specs[candidate.name]
        if isinstance(candidate, EngineCandidate) and candidate.backend == "tensorrt":
            # It takes one request at a time, and a second engine may not fit beside the first.
            yield candidate
            return
        more = (
            spec.open(hint="throughput")
            if isinstance(spec, EngineSpec)
            else open_spec(dataclasses.replace(spec, hint="throughput"))
        )
        with more:
            yield more

    def _frame_path(self) -> tuple[FrameRate | None, str | None]:
        rate, reason = frame_path_rate(self._own.model, self._frame)
        if reason is not None:
            self._notes.append(f"no frame path on the GPU: {reason}")
        return rate, reason

    def _energy(self) -> dict[str, EnergyRecord]:
        meter, words = find_meter()
        if meter is None:
            self._notes.append(words)
            return {}
        self._progress("energy", 0, 1)
        found = measure_energy(self._candidates, self._inputs.of, meter)
        self._progress("energy", 1, 1)
        return found

    def _accuracy(self, validation: Validation | None) -> dict[str, AccuracyRecord]:
        if validation is None:
            self._notes.append("accuracy: not measured: pass --val with held-out images")
            return {}
        own = [one for one in self._candidates if isinstance(one, EngineCandidate)]
        fp32 = next((one for one in own if one.model.variant.precision == "fp32"), None)
        if fp32 is None and not validation.labelled:
            spec = EngineSpec(str(self._subject.bundle.path), "auto", "CPU", "fp32", None)
            fp32 = self._stack.enter_context(spec.open())
        return score_candidates(self._candidates, self._own.model, validation, fp32, self._progress)

    def _blocks(self, stages: dict[str, dict[str, float]]) -> BlockTable:
        self._progress("profile", 0, 1)
        spec = self._specs[self._own.name]
        assert isinstance(spec, EngineSpec)
        with spec.open(profile=True) as profiled:
            table = profile_model(
                profiled.model,
                self._frame,
                preprocess_ms=stages["preprocess"]["p50"],
                inference_ms=stages["inference"]["p50"],
                readout_ms=stages["readout"]["p50"],
                rounds=self._effort.stage_rounds,
            )
        self._progress("profile", 1, 1)
        return table

    def _end_to_end(self, video: Path) -> EndToEndRecord:
        found = measure_end_to_end(
            self._own.model, video, seconds=END_TO_END_S, progress=self._progress
        )
        self._notes += end_to_end_notes(found)
        return found

    def _bound(
        self, candidate: Candidate, samples: Rounds, limits: LimitsRecord
    ) -> BoundRecord | None:
        graph = graph_of(candidate, self._peers)
        return bound_of(candidate, graph, limits, summary_ms(samples)["p50"])
