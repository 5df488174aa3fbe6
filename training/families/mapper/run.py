"""The mappers' run: config, networks, latents, one checkpoint folder a mapper."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limner.runtime.bundle.mappers import NAME
from limner.runtime.errors import InputError, nearest
from limner.training.avatars.tokens import CaptionTokenizer
from limner.training.families.mapper.figures import save_mapper
from limner.training.families.mapper.latents import LatentPool, LatentsConfig, make_pool, split_pool
from limner.training.families.mapper.module import MapperModule, MapperOptimizer, MapperTraining, Target
from limner.training.loop.batches import StepData
from limner.training.loop.runner import TrainerConfig
from limner.training.models.clip import ClipImageTower, ClipTextTower
from limner.training.models.irse import IdentityNet
from limner.training.models.judge import Judge
from limner.training.models.mapper import Kind, LatentMapper, MapperConfig, build_mapper, generator_digest
from limner.training.models.store import load_model
from limner.training.models.stylegan2 import Generator

Level = Literal["coarse", "medium", "fine"]


@dataclass(frozen=True)
class Prompt:
    """One text, and the mapper that is trained for it."""

    text: str
    name: str = ""  # of the mapper; made of the text if empty
    neutral: str = "a person"  # of the loss term `direction`
    attribute: str = ""  # what the judge should see, for the figures alone
    value: str = ""
    levels: tuple[Level, ...] = ()  # instead of the model's
    strength: float = 1.0  # suggested for edits

    def __post_init__(self) -> None:
        if not any(letter.isalnum() for letter in self.text):
            raise ValueError(f"the text {self.text!r} has no word")
        if self.name and not NAME.fullmatch(self.name):
            raise ValueError(f"the name {self.name!r} is not lower-case letters, digits and single dashes")
        if not 0 < self.strength <= 2:
            raise ValueError(f"strength is {self.strength}; allowed: above 0, up to 2")

    @property
    def label(self) -> str:
        """The mapper's name."""
        return self.name or "-".join(re.findall(r"[a-z0-9]+", self.text.lower()))


@dataclass(frozen=True)
class MapperSizes:
    """The networks; their sizes follow from the generator."""

    kind: Kind = "levels"  # as published: three levels, one network, or the style space
    levels: tuple[Level, ...] = ("coarse", "medium", "fine")  # of kind "levels"
    pixel_norm: Literal["features", "layers"] = "features"  # "layers" is the published code's, a quirk
    scale: float = 0.1  # what the network says is multiplied with


@dataclass(frozen=True)
class Run:
    """Everything that makes mappers. Folders are those of finished checkpoints; an empty one is left out."""

    prompts: tuple[Prompt, ...] = ()  # one mapper each: text, name, what the judge should see, levels, strength
    generator: str = "checkpoints/avatars/stylegan2"  # the frozen StyleGAN2
    clip: str = "checkpoints/avatars/clip"  # with its tokenizer
    identity: str = "checkpoints/avatars/identity"  # for the identity loss
    judge: str = "checkpoints/avatars/judge"  # for figures alone
    start: str = ""  # folder of finished mappers, one below it a name: their weights to begin with
    drawings: str = ""  # style of the pictures that the networks know, for the cards' licence
    model: MapperSizes = field(default_factory=MapperSizes)
    latents: LatentsConfig = field(default_factory=LatentsConfig)
    training: MapperTraining = field(default_factory=MapperTraining)
    optimizer: MapperOptimizer = field(default_factory=MapperOptimizer)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        names = [prompt.label for prompt in self.prompts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"prompts has two mappers of one name: {', '.join(twice)}; allowed: a name for each, NAME=TEXT"
            )


def with_prompts(run: Run, texts: Sequence[str]) -> Run:
    """The run for other prompts: each a name or a text that the run knows, a new text, or NAME=TEXT."""
    known = {p.label: p for p in run.prompts} | {p.text: p for p in run.prompts}
    chosen = []
    for given in texts:
        name, equals, text = given.partition("=")
        if given in known:
            chosen.append(known[given])
            continue
        try:
            if equals and not name.strip():
                raise ValueError("there is no name before the equals sign")
            chosen.append(Prompt(text.strip(), name.strip()) if equals else Prompt(given))
        except ValueError as reason:
            raise InputError("prompt", repr(given), "a text, or NAME=TEXT", str(reason)) from reason
    try:
        return replace(run, prompts=tuple(chosen))
    except ValueError as reason:
        raise InputError("prompts", ", ".join(map(repr, texts)), "each name once", str(reason)) from reason


def build(run: Run, cache: Path) -> tuple[MapperModule, StepData]:
    """The module and its data: fresh mappers over loaded networks."""
    if not run.prompts:
        raise InputError("prompts", "none", "one prompt or more")
    drawn, wanted = run.latents.count - run.latents.held_out, run.trainer.batch_size
    if run.latents.source in ("generator", "avatars") and drawn < wanted:
        raise InputError("latents.count", f"{drawn} to train on", f"trainer.batch_size = {wanted} or more")
    generator = _loaded(run.generator, Generator, "generator")
    judge = _loaded(run.judge, Judge, "judge") if run.judge else None
    identity = _loaded(run.identity, IdentityNet, "identity") if run.identity else None
    clip: Any = load_model(run.clip)
    digest = generator_digest(generator.state_dict())
    mappers = nn.ModuleList([first_mapper(run, prompt, generator, digest) for prompt in run.prompts])
    targets = make_targets(run, clip, judge)
    train, held_out = split_pool(make_pool(run.latents, generator), run.latents.held_out)
    if len(train) < wanted:
        raise InputError("latents", f"{len(train)} to train on", f"trainer.batch_size = {wanted} or more")
    module = MapperModule(
        mappers, targets, generator,
        ClipImageTower(clip, generator.config.size, run.training.preprocess), identity, judge, run.training,
        run.optimizer, run.trainer.max_steps, held_out, run.trainer.seed, run.trainer.compile,
    )  # fmt: skip
    data = StepData(lambda: LatentPool(train), lambda: LatentPool(held_out), run.trainer.batch_size,
                    run.trainer.seed, run.trainer.validation_limit, run.trainer.workers)  # fmt: skip
    return module, data


def first_mapper(run: Run, prompt: Prompt, generator: Generator, digest: str) -> LatentMapper:
    """A fresh mapper, or one with the weights below `start`, which may have been trained for another generator."""
    mapper = fresh_mapper(run, prompt, generator, digest)
    if run.start:
        folder = Path(run.start) / prompt.label
        trained = _loaded(str(folder), LatentMapper, "start")
        try:
            mapper.load_state_dict(trained.state_dict())
        except RuntimeError as reason:
            raise InputError("start", f"{folder}, of other sizes", "mappers of the run's model") from reason
    return mapper


def fresh_mapper(run: Run, prompt: Prompt, generator: Generator, digest: str) -> LatentMapper:
    """A mapper whose first weights depend on the seed and its name alone, not on the others of the run."""
    levels, styles = prompt.levels or run.model.levels, run.model.kind == "styles"
    try:
        config = MapperConfig(
            run.model.kind, generator.num_ws, generator.config.w_dim, "coarse" in levels, "medium" in levels,
            "fine" in levels, tuple(layer.channels for layer in generator.layers) if styles else (),
            run.model.pixel_norm, run.model.scale, prompt.text, digest, prompt.strength,
        )  # fmt: skip
    except ValueError as reason:
        where = f"prompts.{prompt.label}.levels"
        raise InputError(where, ", ".join(levels) or "none", "levels that the generator has", str(reason)) from reason
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.trainer.seed * 2**32 + zlib.crc32(prompt.label.encode()))
        return build_mapper(config)


@torch.no_grad()
def make_targets(run: Run, clip: Any, judge: Judge | None) -> dict[str, Target]:
    """The features of each prompt's texts, and what the judge should see. InputError for what it does not know."""
    tokenizer, tower = CaptionTokenizer(run.clip), ClipTextTower(clip).eval()
    columns = dict(judge.config.attributes) if judge is not None else {}
    targets = {}
    for prompt in run.prompts:
        text, neutral = tower(tokenizer.encode([prompt.text, prompt.neutral], 77))
        attribute = value = -1
        if prompt.attribute and judge is not None:
            if prompt.value not in columns.get(prompt.attribute, ()):
                values = columns.get(prompt.attribute)
                allowed = ", ".join(values or columns)
                raise InputError(f"prompts.{prompt.label}", f"{prompt.attribute} {prompt.value!r}", allowed,
                                 nearest(prompt.value if values else prompt.attribute, values or columns))  # fmt: skip
            attribute = list(columns).index(prompt.attribute)
            value = columns[prompt.attribute].index(prompt.value)
        targets[prompt.label] = Target(text, neutral, attribute, value)
    return targets


def save(run: Run, module: MapperModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write one checkpoint folder a mapper below `folder`, each with figures on held-out latents and a card."""
    return {prompt.label: save_mapper(run, prompt, module, folder / prompt.label) for prompt in run.prompts}


def _loaded(folder: str, kind: type[Any], what: str) -> Any:
    model = load_model(folder)
    if not isinstance(model, kind):
        raise InputError(what, f"{folder}, a {type(model).__name__}", f"the folder of a {kind.__name__}")
    return model
