"""The folder of a run: what is refused before any data is made and before any file in it is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from limner.runtime.errors import InputError
from limner.runtime.storage.files import read_plain, write_atomically
from limner.training.config import to_plain
from limner.training.loop.checkpoints import LAST

CONFIG = "config.yaml"
MAX_BYTES = 1_000_000  # of it
MAY_CHANGE = "trainer."  # settings that a run may go on with changed; all others made what is in the checkpoint
FIXED = ("trainer.seed", "trainer.batch_size", "trainer.accumulate_grad_batches")  # of those, what orders the data


def check_run_folder(out: Path, run: Any, resume: bool) -> None:
    """InputError when `resume` finds nothing or other settings, or when a fresh run meets an old one."""
    last = out / LAST
    if out.exists() and not out.is_dir():
        raise InputError("--out", f"{out}, which is a file", "a folder")
    if not resume:
        if last.exists():
            raise InputError("--out", f"{out}, which holds an earlier run", "another folder, or --resume")
        return
    if not last.is_file():
        raise InputError("--resume", f"{out}, which has no {LAST}", "the folder of an earlier run")
    for name, before, now in changed(read_config(out), to_plain(run)):
        raise InputError("--resume", f"{name} {now!r} in a run of {before!r}", "the settings that the run began with",
                         f"only those of {MAY_CHANGE}* may change, but {', '.join(FIXED)}")  # fmt: skip
    check_checkpoint(last)


def changed(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings whose values differ and may not, by their dotted names; a setting that the old run did not know yet
    counts as unchanged."""
    for key, value in now.items():
        name = f"{where}{key}"
        if key not in before or (name.startswith(MAY_CHANGE) and name not in FIXED):
            continue
        old = before[key]
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from changed(old, value, f"{name}.")
        elif _numbers(old) != _numbers(value):
            yield name, old, value


def read_config(out: Path) -> dict[str, Any]:
    """The settings that a run was begun with; empty where config.yaml is not there."""
    path = out / CONFIG
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(read_plain(path, "--resume", MAX_BYTES, "the config.yaml of the run").decode())
    except (yaml.YAMLError, ValueError, RecursionError) as reason:  # ValueError: bytes that are no text, huge integers
        raise InputError("--resume", f"{path}, which does not read", "the config.yaml of the run") from reason
    return found if isinstance(found, dict) else {}


def write_config(out: Path, run: Any) -> None:
    write_atomically(out / CONFIG, yaml.safe_dump(to_plain(run), sort_keys=False).encode(), field="--out")


def check_checkpoint(path: Path) -> None:
    """InputError unless the file is a checkpoint of numbers and plain containers; nothing that it carries is run."""
    allowed = "a checkpoint that a training of this version wrote"
    try:
        found = torch.load(path, map_location="meta", weights_only=True)
    except Exception as reason:  # torch raises many kinds for a broken archive
        raise InputError("--resume", f"{path}, which does not read as numbers", allowed) from reason
    if not isinstance(found, dict) or not {"state_dict", "optimizer_states", "loops"} <= set(found):
        raise InputError("--resume", f"{path}, which is no checkpoint of a training", allowed)


def _numbers(value: Any) -> Any:
    """Lists and numbers in one form: YAML may give a tuple back as a list and 1.0 as 1."""
    if isinstance(value, (list, tuple)):
        return [_numbers(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _numbers(one) for key, one in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
