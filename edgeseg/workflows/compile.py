"""``compile_plans``: a bundle's variants become TensorRT plans of this machine, judged on it.

Only what the run time needs is used: no torch, no onnx. The bundle is read and never written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeseg._files import sha256_file
from edgeseg._progress import Progress, silent
from edgeseg.backends import EngineOptions, resolve_device
from edgeseg.backends._tensorrt import CompileOptions, compile_plan
from edgeseg.bench.timing import interleave
from edgeseg.bundle import Bundle
from edgeseg.errors import BackendError, BackendUnavailableError, DeviceMemoryError
from edgeseg.golden import GoldenFigures, golden_figures
from edgeseg.plans import (
    LAYERS_FILE,
    PLAN_FILE,
    Plan,
    PlanKey,
    PlanMachine,
    PlanRecord,
    list_plans,
    new_plan,
    open_plan,
    plan_folder,
    this_machine,
    timing_cache,
    write_record,
)
from edgeseg.spec import GoldenLimits, Precision, Variant
from edgeseg.workflows._selftest import answering, feeder

__all__ = ["CompileReport", "compile_plans"]

_log = logging.getLogger(__name__)

_TRIED: tuple[Precision, ...] = ("int8", "fp16", "fp16-safe", "fp32")
"""In the order in which they are compiled; each is smaller, and mostly faster, than the next."""
_TIMING_ROUNDS = 20


@dataclass(frozen=True)
class CompileReport:
    """What was compiled, what it answered, and what is in use.

    Attributes:
        bundle: the folder.
        machine: what the plans are bound to.
        plans: one for each variant that was tried, in that order.
        chosen: the fastest that passed, which ``edgeseg.open`` takes.
        limits: of each tried variant's golden frames.
        reused: names of variants whose plan or verdict was there already.
    """

    bundle: Path
    machine: PlanMachine
    plans: tuple[Plan, ...]
    chosen: Plan
    limits: dict[str, GoldenLimits]
    reused: frozenset[str]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows: one row for each variant that was tried."""
        columns = ("variant", "state", "ms", "error", "cosine", "same mask", "MB", "compiled in s")
        rows: list[tuple[str, ...]] = []
        for plan in self.plans:
            record = plan.record
            rows.append(
                (
                    record.key.variant,
                    record.state,
                    _figure(record.median_ms, ".2f"),
                    _figure(record.relative_error, ".2g"),
                    _figure(record.cosine, ".6f"),
                    _figure(record.mask_agreement, ".5f"),
                    _figure(record.plan_bytes and record.plan_bytes / 1e6, ".1f"),
                    "reused"
                    if record.key.variant in self.reused
                    else _figure(record.build_s, ".0f"),
                )
            )
        return columns, rows

    def remarks(self) -> list[str]:
        """What became of those that are not in use, and what is."""
        lines = [
            f"{plan.record.key.variant} {plan.record.state}: {plan.record.why}"
            for plan in self.plans
            if plan.record.why
        ]
        for plan in self.plans:
            lines += [f"{plan.record.key.variant}: {note}" for note in plan.record.notes]
        lines.append(f"in use on {self.machine}: {self.chosen.record.key.variant}")
        lines.append(f"plan: {self.chosen.file}")
        return lines


def compile_plans(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    options: CompileOptions | None = None,
    rebuild: bool = False,
    progress: Progress = silent,
) -> CompileReport:
    """Compile a bundle for this machine's GPU and keep the fastest plan that computes rightly.

    Every plan must answer the bundle's golden frames within the limits that its manifest holds.
    One that does not is set aside with its figures. INT8 and FP16 are both compiled and timed in
    turn, since neither is the faster everywhere; ``fp16-safe`` is tried where FP16 did not pass,
    and FP32 where nothing else did.

    Args:
        bundle: verified.
        device: ``GPU``, ``GPU.1`` and so on; ``auto`` is the first.
        precision: the only one to compile; None for the search above.
        options: for the compiler.
        rebuild: compile again what has been compiled, or was rejected, before.
        progress: called with (stage, done, total).

    Raises:
        UsageError: it has no such variant.
        MissingDependencyError: TensorRT or cuda-bindings is not installed.
        BackendUnavailableError: no driver, no device, or a TensorRT that is not served.
        BackendError: no variant could be compiled and passed; the message says why of each.
        OutputError: the per-machine cache cannot be written.
    """
    name = resolve_device("tensorrt", device)
    machine = this_machine(name)
    job = _Job(
        bundle, name, machine, options or CompileOptions(), rebuild=rebuild, progress=progress
    )
    variants = _candidates(bundle, precision)
    for variant in variants:
        if precision is None and job.can_skip(variant):
            continue
        job.attempt(variant, may_be_slower=precision is None)
    return job.finish()


def _candidates(bundle: Bundle, precision: Precision | None) -> list[Variant]:
    """Variants for TensorRT in the order of trying; at least one."""
    if precision is not None:
        return [bundle.variant(precision, "tensorrt")]
    return [
        variant
        for tried in _TRIED
        for variant in bundle.manifest.variants
        if variant.precision == tried and "tensorrt" in variant.backends
    ]


class _Job:
    """One run of ``compile_plans``."""

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        machine: PlanMachine,
        options: CompileOptions,
        *,
        rebuild: bool,
        progress: Progress,
    ) -> None:
        self._bundle = bundle
        self._device = device
        self._machine = machine
        self._options = options
        self._rebuild = rebuild
        self._progress = progress
        self._golden = bundle.golden()
        self._known = {plan.folder: plan for plan in list_plans(bundle)}
        self._plans: list[Plan] = []
        self._reused: set[str] = set()

    def can_skip(self, variant: Variant) -> bool:
        """Whether a variant that passed already makes this one pointless."""
        passed = {
            self._variant(plan).precision
            for plan in self._plans
            if plan.record.state in ("kept", "slower")
        }
        if variant.precision == "fp16-safe":
            return "fp16" in passed
        return variant.precision == "fp32" and bool(passed)

    def attempt(self, variant: Variant, *, may_be_slower: bool) -> None:
        """Compile and judge a variant, unless that was done before."""
        key = PlanKey.of(self._bundle, variant.name, self._machine, self._options.to_key())
        known = self._known.get(plan_folder(self._bundle, key))
        # A failure may have been a lack of memory, which may be there now.
        final = ("kept", "rejected", "slower") if may_be_slower else ("kept", "rejected")
        if known is not None and known.record.state in final and not self._rebuild:
            if known.record.state == "kept":
                known.verify()
            _log.info("%s: %s before, in %s", variant.name, known.record.state, known.folder)
            self._plans.append(known)
            self._reused.add(variant.name)
            return
        with new_plan(self._bundle, key) as folder:
            record = self._compile(variant, key, folder)
            write_record(folder, record)
        self._plans.append(Plan(plan_folder(self._bundle, key), record))

    def finish(self) -> CompileReport:
        """Time what passed, keep the fastest, and report."""
        kept = [plan for plan in self._plans if plan.record.state == "kept"]
        if not kept:
            reasons = "; ".join(
                f"{plan.record.key.variant} {plan.record.state}: {plan.record.why}"
                for plan in self._plans
            )
            raise BackendError(
                f"{self._bundle.path.name} cannot be served by {self._machine}: {reasons}. Build "
                "the bundle with --fp16 for more variants to try, or use --backend openvino or "
                "onnxruntime"
            )
        fresh = [plan for plan in kept if plan.record.key.variant not in self._reused]
        if fresh:
            kept = self._timed(kept)
        chosen = min(kept, key=lambda plan: plan.record.median_ms or float("inf"))
        for plan in kept:
            if plan is not chosen:
                self._replace(plan, self._slower(plan.record, chosen.record))
        return CompileReport(
            self._bundle.path,
            self._machine,
            tuple(self._plans),
            chosen,
            {
                plan.record.key.variant: self._variant(plan).golden_limits["tensorrt"]
                for plan in self._plans
            },
            frozenset(self._reused),
        )

    def _compile(self, variant: Variant, key: PlanKey, folder: Path) -> PlanRecord:
        file = folder / PLAN_FILE
        try:
            compiled = compile_plan(
                self._bundle.file(variant.file),
                file,
                folder / LAYERS_FILE,
                self._options,
                device=_index(self._device),
                timing_cache=timing_cache(self._machine),
                progress=self._named(variant),
            )
        except BackendUnavailableError:
            raise  # no variant would fare better
        except BackendError as error:
            _log.info("%s cannot be compiled: %s", variant.name, error)
            return PlanRecord(key, "failed", str(error))
        record = PlanRecord(
            key,
            "kept",
            "",
            plan_sha256=sha256_file(file),
            plan_bytes=compiled.plan_bytes,
            build_s=compiled.build_s,
            device_memory_bytes=compiled.device_memory_bytes,
            notes=compiled.notes,
        )
        try:
            figures = self._figures(variant, Plan(folder, record))
        except BackendUnavailableError:
            raise
        except BackendError as error:
            _log.info("%s cannot be run: %s", variant.name, error)
            return dataclasses.replace(record, state="failed", why=str(error))
        limits = variant.golden_limits["tensorrt"]
        record = dataclasses.replace(record, **dataclasses.asdict(figures))
        if figures.within(limits):
            return record
        why = f"golden frames: {figures.against(limits)}"
        _log.info("%s is rejected: %s", variant.name, why)
        return dataclasses.replace(record, state="rejected", why=why)

    def _figures(self, variant: Variant, plan: Plan) -> GoldenFigures:
        manifest = self._bundle.manifest
        feed = feeder(manifest.preprocess, variant.inputs)
        with open_plan(plan, variant, EngineOptions(self._device)) as engine:
            return golden_figures(answering(engine, feed), self._golden, manifest.readout)

    def _timed(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans with their times, of inferences in turn where all engines fit into memory."""
        try:
            medians_ms = self._medians_ms(plans)
        except DeviceMemoryError as error:
            if len(plans) == 1:
                raise
            _log.info("plans are timed one after the other: %s", error)
            medians_ms = {}
            for plan in plans:
                medians_ms |= self._medians_ms([plan])
        return [
            self._replace(
                plan,
                dataclasses.replace(plan.record, median_ms=medians_ms[plan.record.key.variant]),
            )
            for plan in plans
        ]

    def _medians_ms(self, plans: Sequence[Plan]) -> dict[str, float]:
        calls = {}
        with contextlib.ExitStack() as stack:
            for plan in plans:
                variant = self._variant(plan)
                engine = stack.enter_context(open_plan(plan, variant, EngineOptions(self._device)))
                preprocess = self._bundle.manifest.preprocess
                tensors = feeder(preprocess, variant.inputs)(self._golden.frames[0])
                calls[variant.name] = partial(engine.infer, tensors)
            times = interleave(
                calls, rounds=_TIMING_ROUNDS, progress=self._progress, stage="time plans"
            )
        return {name: timing.median_ms for name, timing in times.items()}

    def _slower(self, record: PlanRecord, fastest: PlanRecord) -> PlanRecord:
        why = f"{record.median_ms:.2f} ms; {fastest.key.variant} takes {fastest.median_ms:.2f} ms"
        return dataclasses.replace(record, state="slower", why=why)

    def _replace(self, plan: Plan, record: PlanRecord) -> Plan:
        write_record(plan.folder, record)
        changed = Plan(plan.folder, record)
        self._plans[self._plans.index(plan)] = changed
        return changed

    def _variant(self, plan: Plan) -> Variant:
        return self._bundle.named(plan.record.key.variant)

    def _named(self, variant: Variant) -> Progress:
        """Progress of one variant's compilation, as one stage of its own."""

        def report(stage: str, done: int, total: int) -> None:
            self._progress(f"{stage} {variant.name}", done, total)

        return report


def _index(device: str) -> int:
    from edgeseg.backends._tensorrt.library import device_index

    return device_index(device)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
