"""The YAML of every training as it is shipped, with its sizes and steps made smaller and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limner.training.config import read_yaml, to_plain
from limner.training.running import CONFIGS, resolve

TRAINER = ("trainer.max_steps=4", "trainer.batch_size=4", "trainer.validate_every=2", "trainer.validation_limit=4",
           "trainer.checkpoint_every=1", "trainer.log_every=1")  # fmt: skip
PICTURES = ("data.train=24", "data.validation=8", "data.test=8")
# Family, or stylegan2 with a stage -> what is smaller.
SMALLER: dict[str, tuple[str, ...]] = {
    "judge": PICTURES,
    "reader": PICTURES,
    "clip": (*PICTURES, "tokenizer.captions=400"),
    "identity": ("data.identities=8", "data.pictures=2", "held_out=4", "trainer.validation_limit=8"),
    "encoder": PICTURES,
    "autoencoder": PICTURES,
    "diffusion": (*PICTURES, "training.steps=2", "training.prompts=[a smiling person]"),
    "mapper": ("latents.count=12", "latents.held_out=4"),
    "stylegan2-warmup": (*PICTURES, "warmup.stages=[[64, 2], [128, 2]]"),
    "stylegan2-mapping": ("mapping.batch_size=8",),
    "stylegan2-adversarial": PICTURES,
}
SIZES_AND_STEPS = {text.partition("=")[0] for text in (*TRAINER, *(one for more in SMALLER.values() for one in more))}


def family_of(name: str) -> str:
    return name.partition("-")[0]


def stage_settings(name: str) -> list[str]:
    """What the shipped stages set for a stage, and the folder that it goes on from."""
    family, _, stage = name.partition("-")
    if not stage:
        return []
    start = [] if stage == "warmup" else ["start=checkpoints/avatars/stylegan2"]
    return [f"stage={stage}", *read_yaml(CONFIGS / f"{family}_stages.yaml")[stage], *start]


def overrides(name: str, *more: str) -> list[str]:
    return [*stage_settings(name), *TRAINER, *SMALLER[name], *more]


def shipped(name: str) -> Any:
    """The run as shipped."""
    return resolve(family_of(name), overrides=stage_settings(name))


def smaller(name: str, *more: str) -> Any:
    """The run as shipped, smaller; checkpoints are the shipped ones, by their paths in the repository."""
    return resolve(family_of(name), overrides=overrides(name, *more))


def leaves(run: Any, where: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in (to_plain(run) if not isinstance(run, dict) else run).items():
        found |= leaves(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found


def arguments(name: str, out: Path, cache: Path, *more: str) -> list[str]:
    """The same as a command line."""
    settings = [word for text in overrides(name, *more) for word in ("--set", text)]
    place = ["--out", str(out)] + (["--cache", str(cache)] if family_of(name) != "mapper" else [])
    return ["train", family_of(name), *settings, *place]
