"""Training of latent mappers: one for each text, over one frozen generator.

    loss = clip (1 - cos(CLIP(G(w')), text)) + identity (1 - cos(ID(G(w')), ID(G(w)))) + latent mean (w' - w)^2

with w' = w + 0.1 M(w), as published (Patashnik et al. 2021, section 5; mapper/training/coach.py). Of a mapper in the
style space the latent term is the sum over style layers of their means. Two terms of our own are off by default:

    direction   1 - cos(CLIP(G(w')) - CLIP(G(w)), text - neutral)    (Gal et al. 2021, StyleGAN-NADA, section 4.1)
    keep        mean |G(w') - G(w)|

Every mapper has its own loss and no weight in common, so a run of several gives what a run of each would, and draws
the source pictures once for all. The judge measures on held-out latents and is in no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.training.families.mapper.ranger import Ranger
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.judge import Judge
from limner.training.models.mapper import LatentMapper
from limner.training.models.stylegan2 import Generator

SHOWN = 6  # held-out latents on a grid
Features = Callable[[Tensor], Tensor]  # image [N,3,H,W] in [-1,1] -> unit features [N,C]


@dataclass(frozen=True)
class MapperTraining:
    """Weights of the losses, the published ones; a weight of 0 skips its work."""

    clip: float = 1.0  # 1 - cosine of picture and text
    identity: float = 0.1  # 1 - cosine of identity before and after
    latent: float = 0.8  # mean square of the step
    direction: float = 0.0  # 1 - cosine of the change of the picture and of the text
    keep: float = 0.0  # mean absolute change of the pixels
    truncation: float = 1.0  # training latents are truncated at random, by a factor between this and 1
    preprocess: Literal["correct", "published"] = "correct"  # of CLIP's input; "published" is StyleCLIP's own

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"truncation is {self.truncation}; allowed: 0 to 1")


@dataclass(frozen=True)
class MapperOptimizer:
    """The published one is Ranger with a constant rate; "adamw" warms up and falls along a cosine."""

    name: Literal["ranger", "adamw"] = "ranger"  # the published one, or AdamW
    learning_rate: float = 0.5  # weights are stored 100 times as large as they act
    weight_decay: float = 0.0  # of all weights
    betas: tuple[float, float] = (0.95, 0.999)  # of the means of the gradient and of its square
    warmup: float = 0.05  # of all steps, of "adamw"


@dataclass(frozen=True, eq=False)
class Target:
    """What a mapper is trained towards, and what the judge should then see."""

    text: Tensor  # [C] unit
    neutral: Tensor  # [C] unit
    attribute: int = -1  # column of the judge; -1: nothing is expected
    value: int = -1


class MapperModule(pl.LightningModule):
    """Losses and logging; the networks are passed in, and all but the mappers are frozen."""

    def __init__(
        self,
        network: nn.ModuleList,  # of LatentMapper
        targets: dict[str, Target],  # name -> target, in the order of the mappers
        generator: Generator,
        clip_image: Features,
        identity: Features | None,  # None leaves its loss and figure out
        judge: Judge | None,
        training: MapperTraining,
        optimizer: MapperOptimizer,
        max_steps: int,
        held_out: Tensor,  # [N,L,D] latents for the figures after the training
        seed: int = 0,
        compile: bool = False,  # torch.compile the synthesis of training steps
    ) -> None:
        super().__init__()
        self.seed = seed
        self._compiled = torch.compile(generator.synthesis_from_styles) if compile else None
        self.network, self.targets, self.held_out = network, targets, held_out
        self.generator, self.clip_image, self.identity, self.judge = generator, clip_image, identity, judge
        for frozen in self._frozen():
            frozen.eval().requires_grad_(False)
        self.config, self.optimizer, self.max_steps = training, optimizer, max_steps
        self.strict_loading = False  # a checkpoint holds the mappers alone
        self.grid_columns = 1 + len(targets)
        self._shown: list[Tensor] = []

    def _frozen(self) -> list[nn.Module]:
        parts = (self.generator, self.clip_image, self.identity, self.judge)
        return [part for part in parts if isinstance(part, nn.Module)]

    def train(self, mode: bool = True) -> MapperModule:
        super().train(mode)
        for frozen in self._frozen():
            frozen.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the mappers alone: the frozen networks have checkpoints of their own."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in state.items() if key.startswith("network.")}

    def mapper(self, name: str) -> LatentMapper:
        found = self.network[list(self.targets).index(name)]
        assert isinstance(found, LatentMapper)
        return found

    def draw(self, latent: Tensor, mapper: LatentMapper) -> Tensor:
        """A latent of the mapper's space -> image [N,3,H,W], noise fixed."""
        return self.synthesis(self.generator.affine(latent) if mapper.config.space == "w_plus" else latent)

    def synthesis(self, style_channels: Tensor) -> Tensor:
        """style_channels [N,S] -> image [N,3,H,W], noise fixed."""
        drawn = self._compiled if self._compiled is not None and self.training else self.generator.synthesis_from_styles
        return drawn(style_channels).float()

    def compiled_parts(self) -> list[nn.Module]:
        """The synthesis is compiled when the module is made."""
        return []

    def edited(self, name: str, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """w_plus [N,L,D] -> the edited picture [N,3,H,W], and the step in the mapper's space."""
        mapper = self.mapper(name)
        latent = w_plus if mapper.config.space == "w_plus" else self.generator.affine(w_plus)
        step: Tensor = mapper(latent).float()
        return self.draw(latent + step, mapper), step

    def latent_loss(self, name: str, step: Tensor) -> Tensor:
        """The mean square of the step; in the style space, the sum over layers of their means."""
        styles = self.mapper(name).config.styles
        parts = step.split(list(styles), 1) if styles else (step,)
        return torch.stack([part.square().mean() for part in parts]).sum()

    def losses(self, name: str, w_plus: Tensor, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss terms of one mapper, each a mean over the batch."""
        weights, target = self.config, self.targets[name]
        made, step = self.edited(name, w_plus)
        found = {"latent": self.latent_loss(name, step)}
        features = self.clip_image(made).float()
        text = target.text.to(features)
        found["clip"] = 1 - (features @ text).mean()
        if weights.direction:
            found["direction"] = 1 - _cosine(features - source["clip"], text - target.neutral.to(features)).mean()
        if self.identity is not None and weights.identity:
            found["identity"] = 1 - (self.identity(made).float() * source["identity"]).sum(1).mean()
        if weights.keep:
            found["keep"] = (made - source["image"]).abs().mean()
        return found

    @torch.no_grad()
    def source(self, w_plus: Tensor) -> dict[str, Tensor]:
        """The picture of w_plus [N,L,D], and its features."""
        image = self.synthesis(self.generator.affine(w_plus))
        found = {"image": image, "clip": self.clip_image(image).float()}
        return found if self.identity is None else found | {"identity": self.identity(image).float()}

    def truncated(self, w_plus: Tensor, draw: int) -> Tensor:
        """Training latents, each drawn towards the mean by a factor of its own, which the seed and `draw` decide.

        Small text-image models tell little between two attributes, and much where one turns into the other. Latents
        near the mean are close to that for every attribute, so that there is a gradient to follow.
        """
        if self.config.truncation == 1:
            return w_plus
        share = torch.rand(len(w_plus), 1, 1, generator=step_generator(self.seed, draw)).to(w_plus)
        psi = 1 - share * (1 - self.config.truncation)
        return self.generator.latent_avg + psi * (w_plus - self.generator.latent_avg)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        w_plus = self.truncated(batch["w_plus"], draw_number(self))
        source = self.source(w_plus)
        total = w_plus.new_zeros(())
        for name in self.targets:
            losses = self.losses(name, w_plus, source)
            self.log_dict({f"train/{name}/{term}": value for term, value in losses.items()})
            total = total + torch.stack([getattr(self.config, term) * value for term, value in losses.items()]).sum()
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        w_plus = batch["w_plus"]
        source = self.source(w_plus)
        edits, clip = [], []
        for name in self.targets:
            made, _ = self.edited(name, w_plus)
            edits.append(made[:SHOWN])
            found = self.measure(name, made, source)
            clip.append(found["clip"])
            for figure, value in found.items():
                self.log(f"validation/{name}/{figure}", value, batch_size=len(w_plus), sync_dist=True)
        self.log("validation/clip", torch.stack(clip).mean(), batch_size=len(w_plus), sync_dist=True)
        if batch_idx == 0:
            self._shown = [source["image"][:SHOWN], *edits]

    def measure(self, name: str, made: Tensor, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """Figures of edited pictures: clip and identity are cosines; seen and kept are shares, by the judge.

        kept is that of the other attributes (of all, where none is expected) that the judge reads as in the source.
        """
        target = self.targets[name]
        found = {"clip": (self.clip_image(made).float() @ target.text.to(made)).mean()}
        if self.identity is not None:
            found["identity"] = (self.identity(made).float() * source["identity"]).sum(1).mean()
        if self.judge is not None:
            before, after = self.judge.read(source["image"].clamp(-1, 1)), self.judge.read(made.clamp(-1, 1))
            others = [i for i in range(before.shape[1]) if i != target.attribute]
            found["kept"] = (before == after)[:, others].float().mean()
            if target.attribute >= 0:
                found["seen"] = (after[:, target.attribute] == target.value).float().mean()
        return found

    def grid(self) -> Tensor | None:
        """One held-out picture a row: itself, then the edit of each mapper."""
        return torch.stack(self._shown, 1).flatten(0, 1) if self._shown else None

    def configure_optimizers(self) -> Any:
        config = self.optimizer
        if config.name == "ranger":
            return Ranger(self.network.parameters(), config.learning_rate, config.betas,
                          weight_decay=config.weight_decay)  # fmt: skip
        settings = OptimizerConfig(config.learning_rate, config.weight_decay, config.betas, config.warmup)
        return optimizer_of(self.network, settings, self.max_steps, uses_scaler(self))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of rows a [N,C] with one b [C]; a row of no length gives 0."""
    return F.cosine_similarity(a, b[None], dim=1, eps=1e-6)
