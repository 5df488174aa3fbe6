"""State dicts from foreign content, and the checks that every family shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.runtime.errors import InputError
from limner.training.importers.files.names import ArrayRecord, TensorRecord
from limner.training.importers.files.opening import HINT, Foreign
from limner.training.importers.files.pickles import Record, Refused

SHOWN = 10  # keys of each kind in an error
NOT_FINITE = "NaN or infinity"


@dataclass(frozen=True)
class Options:
    """What the caller adds to the file."""

    out: Path  # folder of the set of checkpoints
    name: str = ""  # of a mapper; the file's own if empty
    tokenizer: Path | None = None  # of an OpenAI CLIP
    style_stats: Path | None = None  # S_mean_std of a fs3.npy
    decoder: bool = False  # of an e4e file: its generator instead of its encoder


@dataclass(frozen=True, eq=False)
class Imported:
    """What an importer made of a file; `folder` lies below the set's folder."""

    family: str  # of the checkpoint, or "relevance"
    folder: str
    config: Any
    state: dict[str, Tensor]  # in our names, fp32
    title: str
    facts: dict[str, Any] = field(default_factory=dict)  # lines of the card
    notes: tuple[str, ...] = ()  # sentences of the card
    files: dict[str, bytes] = field(default_factory=dict)  # beside the weights
    unknown: tuple[str, ...] = ()  # keys of the file that fit nowhere


def wrong(foreign: Foreign, what: str, allowed: str, hint: str = HINT) -> InputError:
    """The error of a file whose content does not fit."""
    return InputError("file", f"{foreign.path.name!r}, {what}", allowed, hint)


def tensor_of(value: Any) -> Tensor | None:
    """A tensor of a foreign value; None if it is something else."""
    if isinstance(value, TensorRecord):
        return value.tensor()
    if isinstance(value, ArrayRecord):
        return torch.from_numpy(value.array())
    return value if isinstance(value, Tensor) else None


def is_tensor(value: Any) -> bool:
    return isinstance(value, (TensorRecord, ArrayRecord, Tensor))


def flat(value: Any) -> dict[str, Any] | None:
    """A state dict: text to tensors and nothing else; None if it is none."""
    if not isinstance(value, Mapping) or not value:
        return None
    fits = all(isinstance(key, str) and is_tensor(item) for key, item in value.items())
    return dict(value) if fits else None


def below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names start with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


MAX_MODULES = 20_000  # of a network, a module that lies in several places counted each time


def module_state(record: Any, prefix: str = "", depth: int = 0, seen: list[int] | None = None) -> dict[str, Any]:
    """Parameters and buffers of a pickled torch module, as state_dict() would name them."""
    state = record.state if isinstance(record, Record) else None
    seen = _counted(seen, "a network")
    if not isinstance(state, dict) or depth > 32:
        raise Refused("a network whose modules do not fit")
    found: dict[str, Any] = {}
    for group in ("_parameters", "_buffers"):
        found |= {f"{prefix}{name}": value for name, value in _items(state.get(group)) if value is not None}
    for name, child in _items(state.get("_modules")):
        if child is not None:
            found |= module_state(child, f"{prefix}{name}.", depth + 1, seen)
    return found


def _counted(seen: list[int] | None, what: str) -> list[int]:
    """One module more; Refused for more than any network has: shared ones nested would be without end."""
    found = [0] if seen is None else seen
    found[0] += 1
    if found[0] > MAX_MODULES:
        raise Refused(f"{what} of more than {MAX_MODULES} modules")
    return found


def script_state(record: Any, prefix: str = "", depth: int = 0, seen: list[int] | None = None) -> dict[str, Any]:
    """The same of a TorchScript module, whose attributes lie in one mapping."""
    seen = _counted(seen, "a TorchScript archive")
    if not isinstance(record, Record) or not isinstance(record.state, dict) or depth > 32:
        raise Refused("a TorchScript archive whose modules do not fit")
    found: dict[str, Any] = {}
    for name, value in _items(record.state):
        if is_tensor(value):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Record):
            found |= script_state(value, f"{prefix}{name}.", depth + 1, seen)
    return found


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Refused("a network whose modules do not fit")
    return value.items()


def size_of(value: Any) -> tuple[int, ...]:
    """The shape of a foreign tensor, without reading it."""
    if isinstance(value, TensorRecord):
        return value.size
    found = tensor_of(value)
    return () if found is None else tuple(found.shape)


def shape(state: Mapping[str, Any], key: str, rank: int) -> tuple[int, ...]:
    """The shape of a key that the sizes are read from. Raises Refused if it is missing or of another rank."""
    found = size_of(state[key]) if key in state else None
    if found is None:
        raise Refused(f"weights without {key!r}")
    if len(found) != rank or 0 in found:
        raise Refused(f"weights whose {key!r} has the shape {list(found)}")
    return found


def count(state: Iterable[str], pattern: str) -> int:
    """How many different numbers `{}` takes in keys of the form `pattern`, counted from the first one on."""
    before, after = pattern.split("{}")
    expression = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}")
    numbers = {int(m[1]) for m in map(expression.fullmatch, state) if m}
    return len(numbers)


def rename(state: Mapping[str, Any], new_name: Callable[[str], str | None]) -> dict[str, Any]:
    """The state under other names; None drops a key."""
    named = ((new_name(key), value) for key, value in state.items())
    return {key: value for key, value in named if key is not None}


def as_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every entry read, floating-point ones as fp32. Raises Refused for NaN and infinity, the first ten names said."""
    found: dict[str, Tensor] = {}
    broken = []
    for key, value in state.items():
        tensor = tensor_of(value)
        if tensor is None:
            raise Refused(f"weights whose {key!r} is no tensor")
        if tensor.is_floating_point():
            tensor = tensor.float()
            if not bool(torch.isfinite(tensor).all()):
                broken.append(key)
        found[key] = tensor
    if broken:
        raise Refused(f"weights with {NOT_FINITE} in {listed(broken)}")
    return found


def rows(value: Any, width: int, what: str) -> Tensor:
    """A foreign tensor as rows [n, width], finite and fp32."""
    tensor = as_tensors({what: value})[what]
    if tensor.numel() == 0 or tensor.numel() % width:
        raise Refused(f"weights whose {what} has the shape {list(tensor.shape)} for a width of {width}")
    return tensor.reshape(-1, width)


def listed(names: list[str]) -> str:
    """The number of names and the first ten of them."""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """True if both have the same learnt tensors up to fp16's rounding; constants do not count."""
    names = [key for key in other if key.rpartition(".")[2] in ("weight", "bias", "input")]
    return all(
        key in one and one[key].shape == other[key].shape
        and torch.allclose(one[key].float(), other[key].float(), rtol=2e-3, atol=1e-6)
        for key in names
    )  # fmt: skip
