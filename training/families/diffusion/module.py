"""Training of the latent denoiser: predict the noise in a latent, given the token states of its caption.

Ho et al. 2020, eq. 14, on latents (Rombach et al. 2022, eq. 3), weighted by min(SNR, gamma) / SNR (Hang et al. 2023,
eq. 6). Some captions are dropped for classifier-free guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import StyleSpec
from limner.training.avatars.captions import ATTRIBUTES, PLAIN_COLORS, caption
from limner.training.avatars.descriptions import describe
from limner.training.avatars.tokens import CONTEXT_LENGTH, CaptionTokenizer
from limner.training.families.diffusion.drawing import Sampler, noise_levels
from limner.training.families.diffusion.places import keep_maps, noun_ids, noun_places, places_loss
from limner.training.loop.batches import Batch, step_generator
from limner.training.loop.runner import OptimizerConfig, optimizer_of
from limner.training.loop.steps import draw_number, uses_scaler
from limner.training.models.diffusion import SCHEDULER

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


SILENT = ("", "facial_hair", "eyewear", "expression")  # what a description may leave unsaid where it is not there
WORN = ("facial_hair", "eyewear")  # attributes that are there or not: what a text leaves unsaid, its picture lacks


@dataclass(frozen=True)
class DenoiserTraining:
    """Captions, loss and validation pictures."""

    caption_dropout: float = 0.1  # share of empty captions, for classifier-free guidance
    fewest_mentions: int = 2  # attributes in a caption; the number is drawn evenly from here to all of them
    background_at_end: float = 0.25  # of captions with a background: named last, after a comma
    worn_is_named: float = 0.0  # share of captions that name a beard, a moustache or glasses wherever there are any
    described: float = 0.0  # share of captions that say all of a picture, as the texts of edits do; avataaars alone
    places: float = 0.0  # weight of the term that lets nouns look at what they name; 0 for none
    min_snr: float = 5.0  # gamma of the weighting; 0 for none
    guidance: float = 4.0  # of the pictures in the grid
    steps: int = 20  # of the pictures in the grid
    prompts: tuple[str, ...] = (  # of the pictures in the grid
        "a portrait of a smiling person with short red hair, a beard and glasses, blue background",
        "a portrait of a smiling person with short black hair, a beard and glasses, blue background",
        "a portrait of a sad person with long blonde hair, wearing a green hoodie, on a pink background",
        "a person with dark skin, wearing a hat and sunglasses, on a yellow background",
        "a surprised bald person with a moustache, wearing a red t-shirt",
        "a person with pale skin and gray hair in a bun, wearing glasses and a blue blazer",
        "an angry person with curly brown hair and a beard, on a purple background",
        "a person wearing a hijab and black overalls, on a gray background",
    )

    def __post_init__(self) -> None:
        for name in ("caption_dropout", "background_at_end", "worn_is_named", "described"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        if not 0 <= self.fewest_mentions <= len(ATTRIBUTES):
            raise ValueError(f"fewest_mentions is {self.fewest_mentions}; allowed: 0 to {len(ATTRIBUTES)}")
        if not 0 <= self.places < float("inf"):
            raise ValueError(f"places is {self.places}; allowed: 0 or more")
        if not self.prompts:
            raise ValueError("prompts is empty; allowed: one or more texts")


class Describer:
    """Adds input_ids [N,77] to a batch: one caption a picture, composed of many attributes, or empty; where the batch
    has regions, also noun_places bool [N,R,77]."""

    def __init__(self, style: StyleSpec, tokenizer: CaptionTokenizer, training: DenoiserTraining) -> None:
        self.tokenizer, self.config = tokenizer, training
        self.values = {name: style.attribute_values(name) for name, _ in style.attributes}
        if training.described and not set(ATTRIBUTES) <= set(self.values):
            lacks = ", ".join(sorted(set(ATTRIBUTES) - set(self.values)))
            raise InputError(
                "training.described", f"{training.described} for drawings of {style.name}, without {lacks}", "0"
            )

    @cached_property
    def nouns(self) -> list[list[list[int]]]:
        """Token ids of the nouns of clothes and background."""
        return noun_ids(self.tokenizer)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        texts = [self.text(row, rng) for row in batch["attributes"].tolist()]
        ids = self.tokenizer.encode(texts, CONTEXT_LENGTH)
        named = {"noun_places": noun_places(ids, self.nouns)} if "regions" in batch else {}
        return {**batch, "input_ids": ids, **named}

    def text(self, row: Sequence[int], rng: np.random.Generator) -> str:
        """A caption that is true of the attribute indices `row`."""
        if rng.random() < self.config.caption_dropout:
            return ""
        words = {name: values[i] for (name, values), i in zip(self.values.items(), row, strict=True)}
        if self.config.described and rng.random() < self.config.described:
            return describe(words, str(rng.choice(SILENT)))
        seen = [name for name in words if words[name] != "hidden"]
        count = int(rng.integers(min(self.config.fewest_mentions, len(seen)), len(seen) + 1))
        mention = [str(name) for name in rng.choice(seen, count, replace=False)]
        if self.config.worn_is_named and rng.random() < self.config.worn_is_named:
            mention += [name for name in WORN if words.get(name, "none") != "none" and name not in mention]
        last = "background" in mention and rng.random() < self.config.background_at_end
        if not last:
            return caption(words, rng, mention).text
        colors = PLAIN_COLORS[words["background"]]
        color = colors[int(rng.integers(len(colors)))]
        return f"{caption(words, rng, [n for n in mention if n != 'background']).text}, {color} background"


def snr_weights(alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Weight of the noise's squared error at each step: min(SNR, gamma) / SNR with SNR = a / (1 - a)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / snr if gamma else torch.ones_like(snr)


def spread_steps(rows: int, steps: int, generator: torch.Generator) -> Tensor:
    """Steps int64 [rows], each uniform over 0..steps-1, together spread evenly: (u + i / rows) mod 1 for one u.

    The low-discrepancy draw of Kingma et al. 2021 (appendix I.1): the loss of a batch varies less.
    """
    device = generator.device
    places = (torch.rand((), generator=generator, device=device) + torch.arange(rows, device=device) / rows) % 1
    return (places * steps).long().clamp(max=steps - 1)


class DenoiserModule(pl.LightningModule):
    """Losses and logging; the UNet is passed in, the text encoder and the sampler's VAE are frozen."""

    def __init__(
        self,
        network: UNet2DConditionModel,
        text_encoder: nn.Module,  # CLIPTextModel
        sampler: Sampler,
        training: DenoiserTraining,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.text_encoder, self.sampler = network, text_encoder, sampler
        text_encoder.eval().requires_grad_(False)
        self.config, self.optimizer, self.max_steps, self.seed = training, optimizer, max_steps, seed
        levels = noise_levels(SCHEDULER)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("weights", snr_weights(levels, training.min_snr), persistent=False)
        self.maps = keep_maps(network) if training.places else []
        self._shown: Tensor | None = None

    levels: Tensor  # cumulative product of alphas [1000]
    weights: Tensor

    def train(self, mode: bool = True) -> DenoiserModule:
        super().train(mode)
        self.text_encoder.eval()
        return self

    def noisy(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noised latents, the noise in them [N,C,h,w], and the steps int64 [N]."""
        mean, logvar = batch["moments"].chunk(2, 1)
        draws = [torch.randn(mean.shape, generator=generator, device=generator.device).to(mean) for _ in range(2)]
        latents = (mean + (0.5 * logvar).exp() * draws[0]) * self.sampler.scaling_factor
        step = spread_steps(len(mean), len(self.levels), generator).to(mean.device)
        level = self.levels[step].view(-1, 1, 1, 1)
        return level.sqrt() * latents + (1 - level).sqrt() * draws[1], draws[1], step  # Ho et al., eq. 4

    def losses(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Squared error of each row [N], and the steps."""
        sample, noise, step = self.noisy(batch, generator)
        states = self.text_encoder(batch["input_ids"]).last_hidden_state
        made = self.network(sample, step, states).sample
        return F.mse_loss(made.float(), noise, reduction="none").mean((1, 2, 3)), step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = step_generator(self.seed, draw_number(self), self.device)  # every process its own noise
        error, step = self.losses(batch, draws)
        self.log("train/error", error.mean().detach())
        total = (error * self.weights[step]).mean()
        if self.maps:
            places = self.places(batch)
            self.log("train/places", places.detach())
            total = total + self.config.places * places
        return total

    def places(self, batch: Batch) -> Tensor:
        """How far the nouns of the last call look past their regions."""
        return places_loss([kept.take() for kept in self.maps], batch["noun_places"], batch["regions"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        error, step = self.losses(batch, step_generator(self.seed + 1, batch_idx, "cpu"))
        self.log("validation/error", error.mean(), batch_size=len(error))
        if self.maps:
            self.log("validation/places", self.places(batch), batch_size=len(error))
        for name, rows in (("early", step < 333), ("middle", (step >= 333) & (step < 667)), ("late", step >= 667)):
            if rows.any():
                self.log(f"validation/{name}", error[rows].mean(), batch_size=int(rows.sum()))

    def on_validation_epoch_end(self) -> None:
        prompts = list(self.config.prompts)
        self._shown = self.sampler.pictures(
            self.network, self.text_encoder, prompts, self.config.guidance, self.config.steps, seed=self.seed
        )

    def grid(self) -> Tensor | None:
        """One picture a prompt [P,3,H,W], from the same noise every time."""
        return self._shown

    replays = True  # a step goes through the parts and back once

    def compiled_parts(self) -> list[nn.Module]:
        """What `trainer.compile` compiles."""
        return [self.network]

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.network, self.optimizer, self.max_steps, uses_scaler(self))
