"""Contrastive training of CLIP on captioned avatars.

A caption fits every picture that has the attributes it mentions, not only the one it was written for, so
the targets of a batch are a table [pictures, captions] of fits. Beside the pictures' own captions a batch
holds almost-true ones and one caption for every attribute value (probes), which train zero-shot reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from limner.training.avatars.attributes import StyleSpec
from limner.training.avatars.captions import Caption, caption, counterfactual, prompt_for
from limner.training.avatars.dataset import image_float
from limner.training.avatars.tokens import CaptionTokenizer
from limner.training.families.augment import AugmentConfig, augment
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.clip import ClipImageTower, ClipTextTower, unit

if TYPE_CHECKING:
    from transformers import CLIPModel


@dataclass(frozen=True)
class ClipTraining:
    """Weights of the loss and shape of a batch's captions."""

    almost: float = 0.5  # almost-true captions per picture
    probe_weight: float = 0.3  # of the cross-entropy per attribute over the probes
    head_weight: float = 0.2  # of the attribute heads inside the image tower, dropped afterwards
    position_scale: float = 0.5  # standard deviation of the patches' position embeddings at the start
    largest_scale: float = 50.0  # of the logits: exp(logit_scale) is held below


class Captioner:
    """Adds captions to a batch: input_ids [T,L], mentions [T,A] (value index or -1) and the probes' rows."""

    def __init__(self, style: StyleSpec, tokenizer: CaptionTokenizer, almost: float) -> None:
        self.tokenizer, self.almost = tokenizer, almost
        self.names = [name for name, _ in style.attributes]
        self.values = {name: style.attribute_values(name) for name in self.names}
        self.probes = [(name, value) for name in self.names for value in self.values[name] if value != "hidden"]

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        rows = [self.words(row) for row in batch["attributes"].tolist()]
        found = [caption(words, rng) for words in rows]
        almost = rows[: round(self.almost * len(rows))]
        found += [caption(counterfactual(words, self.values, rng), rng) for words in almost]
        found += [caption({name: value}, rng, (name,)) for name, value in self.probes]
        return {**batch, "input_ids": self.tokenizer.encode([c.text for c in found]), "mentions": self.mentions(found)}

    def words(self, row: Sequence[int]) -> dict[str, str]:
        return {name: self.values[name][i] for name, i in zip(self.names, row, strict=True)}

    def mentions(self, found: Sequence[Caption]) -> torch.Tensor:
        """int64 [T,A]: the mentioned value's index per attribute, -1 where a caption says nothing."""
        table = torch.full((len(found), len(self.names)), -1)
        for row, one in zip(table, found, strict=True):
            for name, value in one.mentions:
                row[self.names.index(name)] = self.values[name].index(value)
        return table


def fits(attributes: torch.Tensor, mentions: torch.Tensor) -> torch.Tensor:
    """attributes [N,A], mentions [T,A] -> bool [N,T]: all that a caption mentions is so in the picture."""
    return ((mentions[None] == attributes[:, None]) | (mentions[None] < 0)).all(-1)


def contrastive_loss(logits: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [N,T] against the fits, spread evenly over each row's and each column's positives.

    Rows or columns without a positive give no term of their own (Khosla et al. 2020, arXiv 2004.11362, eq. 2).
    """

    def one_way(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        count = target.sum(1)
        per_row = -(F.log_softmax(scores, 1) * target).sum(1) / count.clamp(min=1)
        return per_row[count > 0].mean()

    target = positive.to(logits.dtype)
    return 0.5 * (one_way(logits, target) + one_way(logits.t(), target.t()))


@torch.no_grad()
def mark_positions(model: CLIPModel, scale: float, seed: int = 0) -> None:
    """Draw the patches' position embeddings at a scale like that of the patches themselves.

    From the usual start of 0.02 the first layers hardly see a patch's place, and what a mouth does is a matter
    of one patch.
    """
    weight = model.vision_model.embeddings.position_embedding.weight
    weight.normal_(0.0, scale, generator=torch.Generator().manual_seed(seed))


class PatchHeads(nn.Module):
    """Attribute classifiers inside the image tower that teach the patches before the class token reads them.

    Half-way up a linear layer sees all patches in their places; before the last layer another sees their mean,
    which is what the class token's attention starts from.
    """

    def __init__(self, model: CLIPModel, style: StyleSpec) -> None:
        super().__init__()
        config: Any = model.config
        vision = config.vision_config
        width, layers = vision.hidden_size, vision.num_hidden_layers
        self.placed_layer, self.mean_layer = (layers - 1) // 2, max(layers - 2, 0)
        self.sizes = [len(style.attribute_values(name)) for name, _ in style.attributes]
        self.placed = nn.Linear(width * (vision.image_size // vision.patch_size) ** 2, sum(self.sizes))
        self.norm, self.mean = nn.LayerNorm(width), nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: Sequence[torch.Tensor], attributes: torch.Tensor) -> torch.Tensor:
        """Tokens [N,1+P,W] after each layer, attributes [N,A] -> mean cross-entropy."""
        placed = self.placed(hidden[self.placed_layer][:, 1:].flatten(1)).float()
        mean = self.mean(self.norm(hidden[self.mean_layer][:, 1:].mean(1))).float()
        losses = [
            F.cross_entropy(part, attributes[:, i])
            for logits in (placed, mean)
            for i, part in enumerate(logits.split(self.sizes, 1))
        ]
        return torch.stack(losses).mean()


class ClipModule(pl.LightningModule):
    """Losses and logging of CLIP; the model is passed in."""

    def __init__(
        self,
        network: CLIPModel,
        style: StyleSpec,
        tokenizer: CaptionTokenizer,
        training: ClipTraining,
        augmentation: AugmentConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        image_size: int,
        seed: int = 0,
        compile: bool = False,  # torch.compile the image tower
    ) -> None:
        super().__init__()
        self.network, self.style, self.tokenizer, self.config = network, style, tokenizer, training
        self.augmentation, self.optimizer, self.max_steps, self.seed = augmentation, optimizer, max_steps, seed
        self.image_tower, self.text_tower = ClipImageTower(network, image_size), ClipTextTower(network)
        self.names = [name for name, _ in style.attributes]
        self.heads = PatchHeads(network, style)
        self.captioner = Captioner(style, tokenizer, training.almost)
        self._prompts: torch.Tensor | None = None
        self._hidden = torch.compile(self.image_tower.hidden) if compile else self.image_tower.hidden

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        generator = step_generator(self.seed, draw_number(self))
        image = augment(image_float(batch["image"]), self.augmentation, generator)
        hidden = self._hidden(self.image_tower.pixels(image))  # [N,1+P,W] after each layer
        pooled = self.image_tower.vision.post_layernorm(hidden[-1][:, 0])
        image_features = unit(self.image_tower.projection(pooled).float())  # [N,C]
        text_features = unit(self.text_tower.projection(self._pool_texts(batch["input_ids"])).float())
        scale = self.network.logit_scale.exp().clamp(max=self.config.largest_scale)
        logits = scale * image_features @ text_features.t()  # [N,T]
        loss = contrastive_loss(logits, fits(batch["attributes"], batch["mentions"]))
        probe, right = self._probe_loss(logits, batch["attributes"])
        head = self.heads(hidden, batch["attributes"])
        self.log_dict({"train/contrastive": loss, "train/probe": probe, "train/head": head, "train/scale": scale,
                       "train/probe_accuracy": right})  # fmt: skip
        return loss + self.config.probe_weight * probe + self.config.head_weight * head

    def _pool_texts(self, input_ids: torch.Tensor) -> torch.Tensor:
        """ids [T,L] -> [T,W], in three groups of like length, each trimmed to its longest: less padding to work on."""
        lengths = (input_ids != self.tokenizer.end).sum(1) + 1  # the end token counts
        order = lengths.argsort()
        parts = [self.text_tower.pooled(input_ids[rows, : int(lengths[rows[-1]])]) for rows in order.tensor_split(3)]
        return torch.cat(parts)[order.argsort()]

    def _probe_loss(self, logits: torch.Tensor, attributes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy per attribute over its probes, and their mean accuracy."""
        probes = logits[:, -len(self.captioner.probes) :]
        start, losses, right = 0, [], []
        for i, name in enumerate(self.names):
            count = sum(value != "hidden" for value in self.style.attribute_values(name))
            seen = attributes[:, i] < count  # "hidden" is last, and has no words
            part = probes[:, start : start + count]
            losses.append(F.cross_entropy(part[seen], attributes[seen, i]))
            right.append((part[seen].argmax(1) == attributes[seen, i]).float().mean())
            start += count
        return torch.stack(losses).mean(), torch.stack(right).mean()

    def on_validation_start(self) -> None:
        self._prompts = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self._prompts is None:
            texts = [prompt_for(name, value) for name, value in self.captioner.probes]
            self._prompts = self.text_tower(self.tokenizer.encode(texts).to(self.device)).float()
        scores = self.image_tower(image_float(batch["image"])).float() @ self._prompts.t()
        found = zero_shot(self.style, scores, batch["attributes"])
        for name, right in found.items():
            self.log(f"validation/{name}", right.float().mean(), batch_size=len(right))
        mean = torch.stack([right.float().mean() for right in found.values() if len(right)]).mean()
        self.log("validation/accuracy", mean, batch_size=len(batch["image"]))

    def compiled_parts(self) -> list[nn.Module]:
        """The image tower is compiled when the module is made."""
        return []

    def configure_optimizers(self) -> Any:
        return optimizer_of(self, self.optimizer, self.max_steps, uses_scaler(self))


def zero_shot(style: StyleSpec, scores: torch.Tensor, attributes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Correct answers, bool, per attribute from scores [N, prompts] in table order.

    A hidden hair colour has no words, so pictures without visible hair give no answer for it.
    """
    found, start = {}, 0
    for i, (name, _) in enumerate(style.attributes):
        count = sum(value != "hidden" for value in style.attribute_values(name))
        seen = attributes[:, i] < count
        found[name] = scores[seen, start : start + count].argmax(1) == attributes[seen, i]
        start += count
    return found
