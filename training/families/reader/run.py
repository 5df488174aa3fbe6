"""The second judge's run: config, networks, data, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limner.runtime.study.scores import DRAWN
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.augment import AugmentConfig
from limner.training.families.card import Card
from limner.training.families.reader.figures import evaluate, like_drawings
from limner.training.families.reader.module import ReaderModule
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig
from limner.training.models.reader import Reader, ReaderConfig, config_of
from limner.training.models.store import go_on_from, load_model, save_model


@dataclass(frozen=True)
class ReaderSizes:
    """The network's sizes; options and attributes come from the data's style."""

    stem: tuple[int, ...] = (32, 64)  # channels at 1/2 and 1/4 of the size
    width: int = 128  # of a token, at 1/8
    blocks: int = 3  # of self-attention
    heads: int = 4  # of its attention


@dataclass(frozen=True)
class Run:
    """Everything that makes one reader."""

    start: str = ""  # folder of a reader of the same sizes to go on from; empty: anew
    data: AvatarsConfig = field(default_factory=lambda: AvatarsConfig(pose=1.0, independent=True))
    model: ReaderSizes = field(default_factory=ReaderSizes)
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(shift=0))
    weights: dict[str, float] = field(default_factory=dict)  # of an option's loss, 1 where none is given
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def model_config(run: Run) -> ReaderConfig:
    model = run.model
    return config_of(STYLES[run.data.style], image_size=run.data.size, stem=model.stem, width=model.width,
                     blocks=model.blocks, heads=model.heads)  # fmt: skip


def build(run: Run, cache: Path) -> tuple[ReaderModule, StepData]:
    """The module and its data; the network is fresh, or that of `run.start`."""
    network = Reader(model_config(run))
    if run.start:
        go_on_from(network, run.start, "a reader")
    module = ReaderModule(network, run.augment, run.optimizer, run.trainer.max_steps, run.trainer.seed,
                          run.weights)  # fmt: skip
    data = StepData(
        lambda: AvatarsDataset(run.data, "train", cache), lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    return module, data


def save(run: Run, module: ReaderModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint, measure what was written on the test split, write the card. Returns the figures."""
    save_model(folder, "reader", model_config(run), module.network.state_dict())
    written: Any = load_model(folder)
    figures = evaluate(written, AvatarsDataset(run.data, "test", cache))
    usual = AvatarsConfig(style=run.data.style, size=run.data.size, test=run.data.test)
    other = evaluate(written, AvatarsDataset(replace(usual, train=1, validation=1), "test", cache))
    figures |= {f"{name}, the other models' draws": value for name, value in other.items() if name != "test pictures"}
    figures[f"like a drawing at {DRAWN:g}, %"] = like_drawings(
        written, AvatarsDataset(replace(usual, train=1, validation=1), "test", cache)
    )
    Card("Second judge", "reader", WHAT, run, STYLES[run.data.style], figures).write(folder)
    return figures


WHAT = """Reads the options of a drawing (which hair, which mouth, which colour) and its pose off a picture: one learnt
query an option over tokens of convolutions and self-attention; attributes are sums of option probabilities. It is
another network than the judge, on other draws of the train identities, in which eyes, eyebrows and mouth vary
independently, so that an expression is what the mouth says. It measures edits and is in no loss of any other model."""
