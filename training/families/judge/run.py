"""The judge's run: config, networks, data, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.augment import AugmentConfig
from limner.training.families.card import Card
from limner.training.families.judge.figures import evaluate
from limner.training.families.judge.module import JudgeModule
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig
from limner.training.models.judge import Judge, JudgeConfig
from limner.training.models.store import go_on_from, load_model, save_model


@dataclass(frozen=True)
class JudgeSizes:
    """The network's sizes; its attributes come from the data's style."""

    patch: int = 2  # pixels a side that the first layer joins
    channels: tuple[int, ...] = (32, 64, 96, 128, 192)  # one a resolution, halved from one to the next
    blocks: tuple[int, ...] = (2, 3)  # resolutions, as indices of `channels`, with a residual block
    features: int = 256  # width of what the classifiers read


@dataclass(frozen=True)
class Run:
    """Everything that makes one judge."""

    start: str = ""  # folder of a judge of the same sizes to go on from; empty: anew
    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    model: JudgeSizes = field(default_factory=JudgeSizes)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    weights: dict[str, float] = field(default_factory=dict)  # of an attribute's loss, 1 where none is given
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def model_config(run: Run) -> JudgeConfig:
    style = STYLES[run.data.style]
    attributes = tuple((name, style.attribute_values(name)) for name, _ in style.attributes)
    model = run.model
    return JudgeConfig(attributes, run.data.size, model.patch, model.channels, model.blocks, model.features)


def build(run: Run, cache: Path) -> tuple[JudgeModule, StepData]:
    """The module and its data; the network is fresh, or that of `run.start`."""
    network = Judge(model_config(run))
    if run.start:
        go_on_from(network, run.start, "a judge")
    module = JudgeModule(network, run.augment, run.optimizer, run.trainer.max_steps, run.trainer.seed,
                         run.weights)  # fmt: skip
    data = StepData(
        lambda: AvatarsDataset(run.data, "train", cache), lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    return module, data


def save(run: Run, module: JudgeModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint, measure what was written on the test split, write the card. Returns the figures."""
    config = model_config(run)
    save_model(folder, "judge", config, module.network.state_dict())
    figures = evaluate(load_model(folder), AvatarsDataset(run.data, "test", cache))  # type: ignore[arg-type]
    card = Card("Attribute judge", "judge", WHAT, run, STYLES[run.data.style], figures)
    card.write(folder)
    return figures


WHAT = """A small convolutional network that reads the attributes of an avatar: one classifier per attribute over
shared features. It measures edits and generated pictures and is in no loss of any other model. It saw rendered
pictures of the train split only, with shift, brightness, blur, noise, JPEG and cutout."""
