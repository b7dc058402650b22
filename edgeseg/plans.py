"""Compiled plans of this machine: which bundle, variant, library and device each was made for.

A plan serves one version of TensorRT on one kind of device. It lies in the per-machine cache with
a record of all that its validity depends on, and what it answered to the golden frames:

    tensorrt/NAME-<bundle>/<variant>-<key>/
        record.json    without it nothing is a plan
        plan.engine    of a kept one
        plan.rejected  of one that computes something else
        layers.json    what the compiler made of the layers

``<key>`` is a hash of the ``PlanKey``: another version, device, driver, bundle or option has
another folder, so that a plan is never loaded for what it was not made for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeseg import __version__
from edgeseg._cache import cache_folder, cache_root
from edgeseg._files import atomic_directory, atomic_file, sha256_file
from edgeseg.backends import Engine, EngineOptions, open_engine
from edgeseg.bundle import Bundle
from edgeseg.errors import BackendUnavailableError, BundleError, PlanError
from edgeseg.spec import Variant, from_json, to_json

__all__ = [
    "LAYERS_FILE",
    "PLAN_FILE",
    "REJECTED_FILE",
    "Plan",
    "PlanKey",
    "PlanMachine",
    "PlanRecord",
    "PlanState",
    "find_plan",
    "has_plans",
    "list_plans",
    "new_plan",
    "open_plan",
    "plan_folder",
    "read_plan",
    "this_machine",
    "timing_cache",
    "write_record",
]

_log = logging.getLogger(__name__)

_KIND = "tensorrt"
_RECORD_FILE = "record.json"
PLAN_FILE = "plan.engine"
REJECTED_FILE = "plan.rejected"
LAYERS_FILE = "layers.json"
_RECORD_LIMIT_BYTES = 1 << 20

PlanState = Literal["kept", "slower", "rejected", "failed"]
"""``kept``: in use; ``slower``: right, but another variant is faster, and its plan was dropped;
``rejected``: outside the golden limits; ``failed``: could not be compiled."""


@dataclass(frozen=True)
class PlanMachine:
    """What a plan is bound to."""

    tensorrt: str
    device: str
    """Marketing name of the GPU."""
    compute_capability: str
    """Such as ``8.7``."""
    driver_cuda: str
    """The newest CUDA that the driver serves, such as ``12.6``."""

    def __str__(self) -> str:
        return (
            f"TensorRT {self.tensorrt} on {self.device} (compute capability "
            f"{self.compute_capability}, driver for CUDA {self.driver_cuda})"
        )


@dataclass(frozen=True)
class PlanKey:
    """All that a plan's validity depends on."""

    bundle_sha256: str
    variant: str
    onnx_sha256: str
    machine: PlanMachine
    options: Mapping[str, Any]
    """Of the compiler."""
    edgeseg: str

    @classmethod
    def of(
        cls, bundle: Bundle, variant: str, machine: PlanMachine, options: Mapping[str, Any]
    ) -> PlanKey:
        """The key of one of a bundle's variants on a machine."""
        onnx = bundle.manifest.files[bundle.named(variant).file]
        return cls(bundle.digest, variant, onnx, machine, dict(options), __version__)

    @property
    def digest(self) -> str:
        """SHA-256 of the key, in hexadecimal digits."""
        text = json.dumps(to_json(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PlanRecord:
    """What became of compiling a variant."""

    key: PlanKey
    state: PlanState
    why: str
    """Of a state other than ``kept``; else empty."""
    relative_error: float | None = None
    """Of the golden frames, like the next two; None where nothing was run."""
    cosine: float | None = None
    mask_agreement: float | None = None
    median_ms: float | None = None
    """Of one inference, from host memory to host memory."""
    plan_sha256: str | None = None
    plan_bytes: int | None = None
    build_s: float | None = None
    device_memory_bytes: int | None = None
    """Scratch memory that the engine takes besides its weights."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A record and where it lies."""

    folder: Path
    record: PlanRecord

    @property
    def file(self) -> Path:
        """The plan, of a kept one."""
        return self.folder / PLAN_FILE

    @property
    def layers_file(self) -> Path:
        """What the compiler made of the layers (JSON)."""
        return self.folder / LAYERS_FILE

    def verify(self) -> None:
        """Compare the plan with its record, before anything reads it.

        Raises:
            PlanError: it is missing, cut off or changed.
        """
        record = self.record
        mend = "build it again with  edgeseg build NAME.edgeseg --backend tensorrt --rebuild"
        try:
            size = self.file.stat().st_size
        except OSError as error:
            raise PlanError(f"{self.file} is missing: {mend}") from error
        if size != record.plan_bytes:
            raise PlanError(
                f"{self.file} has {size} bytes where {record.plan_bytes} were written: {mend}"
            )
        if sha256_file(self.file) != record.plan_sha256:
            raise PlanError(f"{self.file} is not the plan that was accepted: {mend}")


def this_machine(device: str = "GPU") -> PlanMachine:
    """What plans made here are bound to.

    Args:
        device: ``GPU``, or ``GPU.1`` and so on.

    Raises:
        MissingDependencyError: TensorRT or cuda-bindings is not installed.
        BackendUnavailableError: there is no driver or no such device, or this version of TensorRT
            is not served.
    """
    from edgeseg.backends._tensorrt import library
    from edgeseg.gpu import gpus

    version = library.version()
    library.check_version(version)
    found = gpus()
    index = library.device_index(device)
    if index >= len(found):
        raise BackendUnavailableError(
            f"there is no device {device}: CUDA sees {len(found)} device(s);  edgeseg doctor  "
            "lists them"
        )
    info = found[index]
    major, minor = info.compute_capability
    return PlanMachine(
        version, info.name, f"{major}.{minor}", ".".join(str(n) for n in info.driver_cuda)
    )


def timing_cache(machine: PlanMachine) -> Path:
    """The file in which the compiler keeps what it has timed on this machine."""
    digest = hashlib.sha256(json.dumps(to_json(machine), sort_keys=True).encode()).hexdigest()
    return cache_folder(_KIND) / f"timing-{digest[:16]}.cache"


def plan_folder(bundle: Bundle, key: PlanKey) -> Path:
    """Where the plan of a key lies, or will."""
    return _bundle_folder(bundle) / f"{key.variant}-{key.digest[:16]}"


@contextlib.contextmanager
def new_plan(bundle: Bundle, key: PlanKey) -> Iterator[Path]:
    """Yield a folder to compile into; it becomes the plan's when the block ends well.

    What was there is replaced then; what a killed compilation left is removed by the next one.

    Raises:
        OutputError: the cache cannot be written.
    """
    folder = plan_folder(bundle, key)
    cache_folder(*folder.parent.relative_to(cache_root()).parts)
    with atomic_directory(folder, force=True) as temporary:
        yield temporary


def write_record(folder: Path, record: PlanRecord) -> None:
    """Write a plan's record, and let the name of the plan say whether it may be used.

    Raises:
        OutputError: the folder cannot be written.
    """
    plan, rejected = folder / PLAN_FILE, folder / REJECTED_FILE
    with atomic_file(folder / _RECORD_FILE) as path:
        # What a state no longer allows goes first: a record never promises too much.
        if record.state == "rejected" and plan.exists():
            plan.replace(rejected)
        elif record.state != "kept":
            plan.unlink(missing_ok=True)
        path.write_text(json.dumps(to_json(record), indent=2) + "\n", encoding="utf-8")


def has_plans(bundle: Bundle) -> bool:
    """Whether anything was ever compiled from the bundle here; asks no library and no device."""
    return _bundle_folder(bundle).is_dir()


def list_plans(bundle: Bundle) -> list[Plan]:
    """All readable records of a bundle; unreadable ones are left out with a warning."""
    folder = _bundle_folder(bundle)
    if not folder.is_dir():
        return []
    plans = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            plans.append(read_plan(path))
        except PlanError as error:
            _log.warning("%s", error)
    return [plan for plan in plans if plan.record.key.bundle_sha256 == bundle.digest]


def read_plan(folder: Path) -> Plan:
    """Read the record of one folder.

    Raises:
        PlanError: there is none, or it cannot be read.
    """
    path = folder / _RECORD_FILE
    try:
        if path.stat().st_size > _RECORD_LIMIT_BYTES:
            raise PlanError(f"{path} is larger than any record: delete {folder}")
        record = from_json(PlanRecord, json.loads(path.read_bytes()), "record")
    except (OSError, ValueError, RecursionError, BundleError) as error:
        raise PlanError(f"{path} cannot be read ({error}): delete {folder}") from error
    return Plan(folder, record)


def find_plan(bundle: Bundle, machine: PlanMachine, precision: str | None = None) -> Plan:
    """The fastest kept plan of a bundle for this machine, verified.

    Args:
        bundle: a verified bundle.
        machine: ``this_machine``.
        precision: of its variant; None: any.

    Raises:
        PlanError: there is none that fits, and why; or the plan was changed or cut off.
    """
    plans = list_plans(bundle)
    wanted = {v.name for v in bundle.manifest.variants if precision in (None, v.precision)}
    fitting = [
        plan
        for plan in plans
        if plan.record.state == "kept"
        and plan.record.key.variant in wanted
        and plan.record.key.machine == machine
        and plan.record.key.edgeseg == __version__
    ]
    if not fitting:
        raise PlanError(_why_none(bundle, plans, machine, precision))
    plan = min(fitting, key=lambda plan: plan.record.median_ms or float("inf"))
    plan.verify()
    return plan


def open_plan(plan: Plan, variant: Variant, options: EngineOptions) -> Engine:
    """Open the engine of a plan.

    Args:
        plan: verified, unless it was compiled just now.
        variant: which it was compiled from.
        options: for the backend; inputs and outputs that it does not name are all of them, in the
            order of the variant, which a compiler may have changed.

    Raises:
        BackendError: and its subclasses: it cannot be opened.
    """
    names = (spec.name for spec in variant.inputs), (spec.name for spec in variant.outputs)
    core = plan.record.key.options.get("dla")
    asked = dataclasses.replace(
        options,
        inputs=tuple(names[0]) if options.inputs is None else options.inputs,
        outputs=tuple(names[1]) if options.outputs is None else options.outputs,
        dla_core=core if isinstance(core, int) else None,
    )
    return open_engine(plan.file, "tensorrt", asked)


def _why_none(
    bundle: Bundle, plans: list[Plan], machine: PlanMachine, precision: str | None
) -> str:
    name = bundle.path.name
    what = f"{name} ({precision})" if precision else name
    build = f"run  edgeseg build {bundle.path} --backend tensorrt" + (
        f" --precision {precision}" if precision else ""
    )
    here = [plan.record for plan in plans if plan.record.key.machine == machine]
    for record in here:
        if record.key.edgeseg != __version__:
            return (
                f"the plans of {what} were made by edgeseg {record.key.edgeseg}, this is "
                f"{__version__}: {build}"
            )
    if here:
        states = "; ".join(
            f"{record.key.variant} {record.state}" + (f": {record.why}" if record.why else "")
            for record in here
        )
        return f"no plan of {what} is in use here ({states}): {build} --rebuild"
    others = {str(plan.record.key.machine) for plan in plans}
    if others:
        return (
            f"the plans of {what} were made for {' and '.join(sorted(others))}, this is {machine}: "
            f"{build}"
        )
    return f"{what} has not been compiled on this machine: {build}"


def _bundle_folder(bundle: Bundle) -> Path:
    # A bundle's own words must not lead out of the cache.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", bundle.manifest.name).lstrip(".")[:64]
    return cache_root() / _KIND / f"{name}-{bundle.digest[:12]}"
