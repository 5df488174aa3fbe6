"""The identity network's run: config, networks, data, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limner.training.avatars.attributes import STYLES
from limner.training.avatars.identities import IdentitiesConfig, IdentitiesDataset
from limner.training.families.augment import AugmentConfig
from limner.training.families.card import Card
from limner.training.families.identity.figures import evaluate
from limner.training.families.identity.module import ArcFaceConfig, IdentityModule
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig
from limner.training.models.irse import IdentityConfig, IdentityNet
from limner.training.models.store import load_model, save_model


@dataclass(frozen=True)
class Run:
    """Everything that makes one identity network."""

    data: IdentitiesConfig = field(default_factory=IdentitiesConfig)
    held_out: int = 150  # identities of the validation and the test split, 4 pictures each
    model: IdentityConfig = field(default_factory=IdentityConfig)
    training: ArcFaceConfig = field(default_factory=ArcFaceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def held_out(run: Run, split: str, cache: Path) -> IdentitiesDataset:
    return IdentitiesDataset(replace(run.data, identities=run.held_out, pictures=4), split, cache)


def build(run: Run, cache: Path) -> tuple[IdentityModule, StepData]:
    """The module and its data; the network is fresh."""
    module = IdentityModule(
        IdentityNet(run.model), run.data.identities, STYLES[run.data.style], run.training, run.augment,
        run.optimizer, run.trainer.max_steps, run.trainer.seed,
    )  # fmt: skip
    data = StepData(
        lambda: IdentitiesDataset(run.data, "train", cache), lambda: held_out(run, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
    )  # fmt: skip
    return module, data


def save(run: Run, module: IdentityModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint, measure it on test identities, write the card. Returns the figures."""
    save_model(folder, "identity", run.model, module.network.state_dict())
    network: Any = load_model(folder)
    figures = evaluate(network, held_out(run, "validation", cache), held_out(run, "test", cache))
    Card("Identity network of the avatars", "identity", WHAT, run, STYLES[run.data.style], figures).write(folder)
    return figures


WHAT = """An IR-SE network trained with ArcFace. Its unit embedding says who an avatar is: skin, hair, clothes and
their colours, whatever the background, the expression, a small pose, glasses or facial hair. The cosine of two
embeddings is the identity term of latent optimization. At the published sizes the same code takes ir_se50.pth."""
