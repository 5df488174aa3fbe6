"""Trainings that go on from a finished network: the encoder's and the judge's `start`, and a moved w space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.config import to_plain
from limner.training.families.encoder import run as encoder_family
from limner.training.families.judge import run as judge_family
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.models.irse import BodyConfig
from limner.training.models.psp import E4eEncoder, EncoderConfig
from limner.training.models.store import save_model
from limner.training.models.stylegan2 import Generator, StyleGAN2Config
from limner.training.running import resolve

TINY = "data={size: 32, train: 24, validation: 8, test: 8}"
STYLE = STYLES["avataaars"]
SIZES = tuple(CodeEmbedding(STYLE, 1).sizes)
W_DIM = sum(SIZES)  # so that codes can be read from w exactly
STORED: dict[str, Any] = {"atol": 2e-3, "rtol": 1e-3}  # checkpoints hold fp16


# --- the encoder ------------------------------------------------------------------------------------------


def moved(book: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A book whose every option is moved by a vector of its own, the pose not; and by how much w moves."""
    shifts = torch.randn(len(SIZES) - 1, book.shape[1], generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([shifts.repeat_interleave(torch.tensor(SIZES[:-1]), 0), torch.zeros(SIZES[-1], book.shape[1])])
    return book + rows, shifts.sum(0)


def code(count: int = 3) -> Tensor:
    """Codes [N,K] of random options and poses."""
    rng = torch.Generator().manual_seed(4)
    rows = [torch.randint(size, (count,), generator=rng) for size in SIZES[:-1]]
    pose = torch.rand(count, SIZES[-1], generator=rng) * 2 - 1
    return CodeEmbedding(STYLE, 1).encode(torch.stack(rows, 1), pose)


def test_rebase_follows_an_offset_of_w() -> None:
    """An encoder that knows a picture's w gives that picture's options in the new book, at the moved w."""
    torch.manual_seed(0)
    network = E4eEncoder(EncoderConfig(32, 32, 4, W_DIM, BodyConfig(8, (8, 8, 8), (1, 1, 1), 4), 8, 2, 3, SIZES))
    torch.nn.init.zeros_(network.styles[0].linear.weight)  # type: ignore[union-attr,arg-type]
    assert network.codebook is not None
    old = CodeEmbedding(STYLE, W_DIM).weight.detach()
    new, offset = moved(old)
    known = code(1)
    network.latent_avg.copy_((known @ old).expand_as(network.latent_avg))
    network.codebook.fill(old)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = network.eval()(image)
        torch.testing.assert_close(before[:, 0], known @ old, atol=1e-3, rtol=1e-3)
        encoder_family.rebase(network, new)
        after = network(image)
    torch.testing.assert_close(after - before, offset.expand_as(after), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(network.latent_avg[0], known[0] @ old + offset, atol=1e-4, rtol=1e-4)
    assert torch.equal(network.codebook.book, new)


def test_rebase_leaves_an_encoder_without_a_book() -> None:
    network = E4eEncoder(EncoderConfig(32, 32, 4, 12, BodyConfig(8, (8, 8, 8), (1, 1, 1), 4), 8, 2, 3))
    encoder_family.rebase(network, torch.ones(5, 12))
    assert not network.latent_avg.any()


def write_generator(folder: Path, book: Tensor) -> Path:
    torch.manual_seed(1)
    config = StyleGAN2Config(32, 8, W_DIM, 1, channels={4: 16, 8: 16, 16: 16, 32: 16})
    save_model(folder, "stylegan2", to_plain(config), Generator(config).state_dict())
    save_file({"weight": book.contiguous()}, folder / "code_embedding.safetensors")
    return folder


def encoder_run(generator: Path, *more: str) -> Any:
    body = "body: {stem: 8, widths: [8, 8, 8], units: [1, 1, 1], reduction: 4}"
    return resolve("encoder", overrides=[
        TINY, f"generator={generator}", "identity=", "judge=", "training.identity=0", "training.perceptual=0",
        f"model={{input_size: 32, {body}, style_width: 8, coarse: 2, middle: 3, codebook: true}}",
        "trainer={max_steps: 2, batch_size: 4, precision: 32-true, validation_limit: 4, accelerator: cpu}", *more,
    ])  # fmt: skip


def test_an_encoder_goes_on_from_another_generator_of_the_same_options(tiny_cache: Path, tmp_path: Path) -> None:
    old = CodeEmbedding(STYLE, W_DIM).weight.detach()
    new, offset = moved(old)
    first, _ = encoder_family.build(encoder_run(write_generator(tmp_path / "old", old)), tiny_cache)
    earlier: Any = first.network
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(0.25)
        earlier.latent_avg += 0.5
    save_model(tmp_path / "encoder", "encoder", to_plain(earlier.config), earlier.state_dict())
    run = encoder_run(write_generator(tmp_path / "new", new), f"start={tmp_path / 'encoder'}")
    second: Any = encoder_family.build(run, tiny_cache)[0].network
    for (name, theirs), ours in zip(earlier.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, **STORED)
    torch.testing.assert_close(second.latent_avg, earlier.latent_avg + offset, atol=2e-2, rtol=2e-3)
    torch.testing.assert_close(second.codebook.book, new, **STORED)


def test_an_encoder_of_other_sizes_is_refused(tiny_cache: Path, tmp_path: Path) -> None:
    generator = write_generator(tmp_path / "generator", CodeEmbedding(STYLE, W_DIM).weight.detach())
    module, _ = encoder_family.build(encoder_run(generator, "model.style_width=16"), tiny_cache)
    save_model(tmp_path / "wide", "encoder", to_plain(module.network.config), module.network.state_dict())
    for folder in (tmp_path / "wide", generator):
        with pytest.raises(InputError) as caught:
            encoder_family.build(encoder_run(generator, f"start={folder}"), tiny_cache)
        assert caught.value.field == "start"


# --- the judge --------------------------------------------------------------------------------------------


def judge_run(*more: str) -> Any:
    return resolve("judge", overrides=[
        TINY, "model={channels: [16, 16, 16], blocks: [1], features: 16}",
        "trainer={max_steps: 2, batch_size: 8, precision: 32-true, validation_limit: 8, accelerator: cpu}", *more,
    ])  # fmt: skip


def test_a_judge_goes_on_from_a_finished_one(tiny_cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    first = judge_family.build(judge_run(), tiny_cache)[0].network
    save_model(tmp_path / "judge", "judge", to_plain(first.config), first.state_dict())
    torch.manual_seed(3)
    fresh = judge_family.build(judge_run(), tiny_cache)[0].network
    second = judge_family.build(judge_run(f"start={tmp_path / 'judge'}"), tiny_cache)[0].network
    image = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        ours, theirs, other = (torch.cat([*net.eval()(image).values()], 1) for net in (second, first, fresh))
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)
    assert (ours - other).abs().max() > 0.05


def test_another_judge_is_refused(tiny_cache: Path, tmp_path: Path) -> None:
    wide = judge_family.build(judge_run("model.features=32"), tiny_cache)[0].network
    save_model(tmp_path / "wide", "judge", to_plain(wide.config), wide.state_dict())
    with pytest.raises(InputError) as caught:
        judge_family.build(judge_run(f"start={tmp_path / 'wide'}"), tiny_cache)
    assert caught.value.field == "start"
    with pytest.raises(InputError):
        judge_family.build(judge_run(f"start={tmp_path / 'gone'}"), tiny_cache)
