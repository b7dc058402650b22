"""Reading a state dict from a file without running what it says."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeseg._files import sha256_file
from edgeseg.errors import CheckpointError
from edgeseg.export.settings import read_settings

__all__ = ["StateDict", "read_state_dict"]

_NESTED = ("state_dict", "model", "model_state_dict", "teacher")
_WRAPPERS = ("module.", "_orig_mod.")
"""Put before every name by DistributedDataParallel and by torch.compile."""

_ZIP_MAGIC = b"PK\x03\x04"
_HARMLESS = re.compile(
    r"collections\.OrderedDict|torch\.\w+|torch\.(_utils|_tensor|storage|serialization)\.\w+"
    r"|torch\.nn\.parameter\.Parameter|(__builtin__|builtins)\.set"
)
"""Globals that belong to saved tensors."""

_MAX_NESTING = 3
_SAFETENSORS_HEADER_BYTES = 8
_MAX_LISTED = 4


@dataclass(frozen=True)
class StateDict:
    """The tensors of a checkpoint, on the CPU, in the file's own dtypes."""

    tensors: Mapping[str, Tensor]
    path: Path
    sha256: str
    size_bytes: int
    nested_under: str | None
    """The key that held the state dict; None if the file is one."""
    config: Any = None
    """What lies under ``config`` beside the nested state dict, of any type the loader accepts; None
    if there is no such key."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor."""
        return {key: tuple(value.shape) for key, value in self.tensors.items()}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the checkpoint says besides its tensors; empty if it says nothing.

        That is the dictionary under ``config``, else the JSON object in the file of the same name
        that ends in ``.json``. Read when asked for, since training code leaves other things under
        such names.

        Raises:
            CheckpointError: either is there and is no plain dictionary (`edgeseg.export.settings`).
        """
        return read_settings(self.path, self.config)


def read_state_dict(path: Path) -> StateDict:
    """Read the state dict in a ``torch.save`` or safetensors file.

    Accepts a bare state dict, or one nested under ``state_dict``, ``model``, ``model_state_dict``
    or ``teacher``; a leading ``module.`` (or ``_orig_mod.``) is dropped from the names. Nothing in
    the file is executed: torch's restricted unpickler knows tensors and containers only.

    Args:
        path: the checkpoint; large ones are mapped into memory, not read into it.

    Raises:
        CheckpointError: the file is missing, a folder, no checkpoint, truncated or would run code;
            or it holds no tensors, something else than tensors, or numbers that are not finite.
    """
    path = Path(path)
    _check_file(path)
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state, nested_under, config = _unwrap(content, path)
    tensors = _named_tensors(state, path)
    size_bytes = path.stat().st_size
    for key, value in tensors.items():
        _check_tensor(key, value, size_bytes, path)
    return StateDict(tensors, path, sha256_file(path), size_bytes, nested_under, config)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: check the path of the checkpoint")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not a file: give the checkpoint itself (.pth, .pt or .safetensors)"
        )
    try:
        with path.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise CheckpointError(
            f"{path} is empty: it was probably never fully written; copy it again"
        )


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as stream:
        start = stream.read(_SAFETENSORS_HEADER_BYTES + 1)
    header_bytes = int.from_bytes(start[:_SAFETENSORS_HEADER_BYTES], "little")
    return start[_SAFETENSORS_HEADER_BYTES:] == b"{" and header_bytes < path.stat().st_size


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}): it is truncated or damaged; "
            "copy it again"
        ) from error


def _read_torch(path: Path) -> Any:
    is_zip = _check_zip(path)
    try:
        with warnings.catch_warnings():
            # About pickle protocols and deprecated storages: nothing that a user could act on.
            warnings.simplefilter("ignore")
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # torch raises almost any type on bytes it does not expect
        refused = _refused_globals(path)
        if refused:
            raise CheckpointError(
                f"{path} was refused: loading it would import {_listed(refused)}, and could run "
                "any code that way. Nothing was executed. If you trust where it came from, load it "
                "in your training code and save its weights alone: "
                "torch.save(model.state_dict(), ...)"
            ) from error
        raise CheckpointError(
            f"{path} is not a PyTorch or safetensors checkpoint, or is damaged{_detail(error)}"
        ) from error


def _check_zip(path: Path) -> bool:
    """Whether the file is a zip archive of ``torch.save``; refuse a broken or foreign one."""
    with path.open("rb") as stream:
        if stream.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch stores without compression: a compressed member could only be there to expand.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(
                    f"{path} was refused: it holds compressed parts, which torch.save never writes"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged: it begins like a PyTorch checkpoint, but its list of "
            f"parts at the end cannot be read ({error}); copy it again"
        ) from error
    if not any(member.filename.endswith("data.pkl") for member in members):
        raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote")
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: the checksum of its part {damaged!r} does not fit; copy it again"
        )
    return True


def _refused_globals(path: Path) -> list[str]:
    """What the pickle would import beyond tensors and containers, found without executing it."""
    found: dict[str, None] = {}
    try:
        for name in _pickled_globals(path):
            if not _HARMLESS.fullmatch(name):
                found[name] = None
    except Exception:  # pickletools raises almost any type on bytes that are no pickle
        return list(found)
    return list(found)


def _pickled_globals(path: Path) -> Iterator[str]:
    """``module.name`` of each global that the pickle refers to."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            yield from _globals_of(archive.read(name))
    else:
        yield from _globals_of(path.read_bytes())


def _globals_of(pickled: bytes) -> Iterator[str]:
    strings: list[str] = []
    position = 0
    while position < len(pickled):
        stop = position
        for opcode, argument, at in pickletools.genops(pickled[position:]):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                yield f"{strings[-2]}.{strings[-1]}"
            elif isinstance(argument, str):
                strings.append(argument)
            stop = position + (at or 0) + 1
        position = stop


def _unwrap(content: Any, path: Path) -> tuple[Mapping[Any, Any], str | None, Any]:
    """The innermost mapping that holds tensors, the key that held it, and ``config`` beside it."""
    nested_under = config = None
    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        key = next((name for name in _NESTED if isinstance(content.get(name), Mapping)), None)
        if key is None:
            break
        config = content.get("config", config)
        content, nested_under = content[key], key
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()"
        )
    return content, nested_under, config


def _named_tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    if not state or not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no tensors (keys: {_listed([str(key) for key in state]) or 'none'}): "
            f"expected a state dict, bare or under one of {', '.join(_NESTED)}"
        )
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: the value of {key!r} is of type {type(value).__name__}; a state dict "
                "maps names to tensors only"
            )
        name = key
        while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None):
            name = name[len(wrapper) :]
        if name in tensors:
            raise CheckpointError(
                f"{path} holds {name!r} twice, with and without a wrapper's prefix"
            )
        tensors[name] = value
    return tensors


def _check_tensor(key: str, value: Tensor, size_bytes: int, path: Path) -> None:
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise CheckpointError(
            f"{path}: {key!r} is a {value.layout} tensor on {value.device}; expected dense weights"
        )
    # A view with stride zero could claim any size; no file holds fewer bytes than its weights.
    if value.numel() * value.element_size() > size_bytes:
        raise CheckpointError(
            f"{path}: {key!r} claims shape {tuple(value.shape)}, more than the whole file holds"
        )
    if value.is_complex():
        raise CheckpointError(f"{path}: {key!r} is complex; expected real weights")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = int(value.numel() - torch.isfinite(value).sum())
        raise CheckpointError(
            f"{path}: {key!r} holds {bad} values that are not finite (NaN or infinite): the "
            "training diverged, or the file is damaged; take an earlier checkpoint"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _detail(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return ""
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    return f" ({type(error).__name__}: {first_line})"
