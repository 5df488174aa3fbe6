"""CLIP's run: config, tokenizer, networks, data, checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.runtime.bundle.vocabulary import FILE as WORDS
from limner.runtime.bundle.vocabulary import vocabulary_text
from limner.training.avatars.attributes import STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.avatars.tokens import (
    CaptionTokenizer,
    caption_vocabulary,
    caption_words,
    learn_merges,
    write_tokenizer,
)
from limner.training.families.augment import AugmentConfig
from limner.training.families.card import Card
from limner.training.families.clip.figures import evaluate
from limner.training.families.clip.module import Captioner, ClipModule, ClipTraining, mark_positions
from limner.training.loop.batches import StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig
from limner.training.models.clip import build_clip, clip_config
from limner.training.models.store import load_model, save_model

BYTE_TOKENS, SPECIAL_TOKENS = 512, 2


@dataclass(frozen=True)
class TokenizerConfig:
    """What the byte-pair tokenizer is learnt from."""

    vocabulary: int = 1500  # tokens at most; 514 of them are bytes and specials
    captions: int = 20_000  # texts that the merges are learnt from

    def __post_init__(self) -> None:
        if self.vocabulary < BYTE_TOKENS + SPECIAL_TOKENS:
            raise ValueError(f"vocabulary is {self.vocabulary}; allowed: {BYTE_TOKENS + SPECIAL_TOKENS} or more")


@dataclass(frozen=True)
class ClipSizes:
    """The towers' sizes."""

    patch: int = 16  # pixels a side of a token
    vision_width: int = 192  # channels of a picture token
    vision_layers: int = 6  # transformer blocks
    vision_heads: int = 3  # of attention
    text_width: int = 128  # channels of a text token
    text_layers: int = 4  # transformer blocks
    text_heads: int = 4  # of attention
    embedding: int = 256  # width that pictures and texts share


@dataclass(frozen=True)
class Run:
    """Everything that makes one CLIP."""

    data: AvatarsConfig = field(default_factory=AvatarsConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ClipSizes = field(default_factory=ClipSizes)
    training: ClipTraining = field(default_factory=ClipTraining)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def make_tokenizer(run: Run, cache: Path) -> CaptionTokenizer:
    """Learn the tokenizer and write it beside the pictures; it is a function of the config alone."""
    config = run.tokenizer
    folder = cache / f"tokenizer-{run.data.style}-{config.vocabulary}-{config.captions}-{run.data.seed}"
    merges = learn_merges(caption_words(run.data.style, config.captions, run.data.seed),
                          config.vocabulary - BYTE_TOKENS - SPECIAL_TOKENS)  # fmt: skip
    write_tokenizer(folder, merges)
    known = caption_vocabulary(run.data.style, config.captions, run.data.seed)
    (folder / WORDS).write_text(vocabulary_text(known), encoding="utf-8")
    return CaptionTokenizer(folder)


def model_config(run: Run, vocabulary: int) -> dict[str, Any]:
    m = run.model
    return clip_config(vocabulary, run.data.size, m.patch, m.vision_width, m.vision_layers, m.vision_heads,
                       m.text_width, m.text_layers, m.text_heads, m.embedding)  # fmt: skip


def build(run: Run, cache: Path) -> tuple[ClipModule, StepData]:
    """The module and its data; the network is fresh."""
    style, tokenizer = STYLES[run.data.style], make_tokenizer(run, cache)
    network = build_clip(model_config(run, len(tokenizer.vocab)))
    mark_positions(network, run.training.position_scale, run.trainer.seed)
    module = ClipModule(network, style, tokenizer, run.training, run.augment, run.optimizer, run.trainer.max_steps,
                        run.data.size, run.trainer.seed, run.trainer.compile)  # fmt: skip
    data = StepData(
        lambda: AvatarsDataset(run.data, "train", cache), lambda: AvatarsDataset(run.data, "validation", cache),
        run.trainer.batch_size, run.trainer.seed, run.trainer.validation_limit, run.trainer.workers,
        Captioner(style, tokenizer, run.training.almost),
    )  # fmt: skip
    return module, data


def save(run: Run, module: ClipModule, folder: Path, cache: Path) -> dict[str, Any]:
    """Write the checkpoint and its tokenizer, measure them on the test split, write the card."""
    vocabulary = len(module.tokenizer.vocab)
    save_model(folder, "clip", model_config(run, vocabulary), module.network.state_dict())
    for name in ("vocab.json", "merges.txt", WORDS):
        shutil.copyfile(module.tokenizer.folder / name, folder / name)
    figures = evaluate(load_model(folder), folder, AvatarsDataset(run.data, "test", cache))  # type: ignore[arg-type]
    Card("CLIP of the avatars", "clip", WHAT, run, STYLES[run.data.style], figures).write(folder)
    return figures


WHAT = """transformers' CLIPModel at a small size, and its byte-pair tokenizer in CLIP's file format, trained from
scratch on captioned avatars. Pictures go in at 128 pixels with CLIP's mean and deviation. It knows the words of
`training/avatars/captions.py` and nothing else: names, professions and objects mean nothing to it."""
