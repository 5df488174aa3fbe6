"""Mapper trainings: losses against float64, resume, several prompts at once, two processes, bf16, checkpoints."""

# ruff: noqa: F811  fixtures are named like their import

from __future__ import annotations

import copy
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from support.mapper_parts import NUM_WS, PROMPTS, W_DIM, mapper_checkpoints, settings, tiny_run  # noqa: F401
from torch import Tensor

from limner.runtime.errors import InputError
from limner.training.families.mapper import run as family
from limner.training.families.mapper.module import MapperModule
from limner.training.families.mapper.ranger import Ranger
from limner.training.families.mapper.run import Run
from limner.training.loop.runner import fit, seed_all
from limner.training.models.mapper import LatentMapper, generator_digest
from limner.training.models.store import load_model, save_model


class Interrupt(Exception):
    """Stands for a machine that stops."""


def built(run: Run, cache: Path) -> MapperModule:
    seed_all(run.trainer)
    return family.build(run, cache)[0]


def train(run: Run, out: Path, resume: bool = False, stop_at: int | None = None) -> dict[str, Tensor]:
    """The mappers' weights after a training, which may be interrupted at a step."""
    seed_all(run.trainer)
    module, data = family.build(run, out)
    hooks: tuple[pl.Callback, ...] = ()
    if stop_at is not None:

        class Stop(pl.Callback):
            def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
                if trainer.global_step == stop_at:
                    raise Interrupt

        hooks = (Stop(),)
    fit(module, data, run.trainer, out, run, resume, callbacks=hooks)
    return module.network.state_dict()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["levels", "styles"])
def test_losses_against_the_formulas_in_float64(mapper_checkpoints: Path, tmp_path: Path, kind: str) -> None:
    run = tiny_run(mapper_checkpoints, f"model.kind={kind}", "training.direction=1", "training.keep=1")
    module = built(run, tmp_path)
    w = torch.randn(3, NUM_WS, W_DIM)
    found = module.losses("beard", w, module.source(w))
    parts: list[Any] = [module.generator, module.clip_image, module.identity, module.mapper("beard")]
    generator, clip, identity, mapper = (copy.deepcopy(part).double() for part in parts)
    identity._resizes, w = {k: r.double() for k, r in identity._resizes.items()}, w.double()
    generator.compute_dtype = torch.float64
    latent = generator.affine(w) if kind == "styles" else w
    step = mapper(latent)
    draw = generator.synthesis_from_styles if kind == "styles" else generator.synthesis
    x, made = generator.synthesis(w).double(), draw(latent + step).double()  # to-RGB gives fp32
    target = module.targets["beard"]
    text, neutral = target.text.double(), target.neutral.double()
    f0, f1 = clip(x), clip(made)
    widths = [layer.channels for layer in generator.layers]
    expected = {
        "clip": (1 - f1 @ text).mean(),
        "identity": (1 - (identity(made) * identity(x)).sum(1)).mean(),
        "latent": sum((p**2).mean() for p in step.split(widths, 1)) if kind == "styles" else (step**2).mean(),
        "direction": (1 - unit(f1 - f0) @ ((text - neutral) / (text - neutral).norm())).mean(),
        "keep": (made - x).abs().mean(),
    }
    assert set(found) == set(expected)
    for term, value in expected.items():
        assert float(found[term].detach()) == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6), term


def test_resume_gives_the_weights_of_an_uninterrupted_run(mapper_checkpoints: Path, tmp_path: Path) -> None:
    run = tiny_run(mapper_checkpoints)
    whole = train(run, tmp_path / "whole")
    with pytest.raises(Interrupt):
        train(run, tmp_path / "broken", stop_at=5)
    torch.manual_seed(99)
    resumed = train(run, tmp_path / "broken", resume=True)
    assert len(whole) == 2 * 4 * 2  # two mappers, 4 layers of weight and bias: 8 px have coarse rows alone
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    state = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=False)["state_dict"]
    assert {key.partition(".")[0] for key in state} == {"network"}  # no frozen network in it
    with (tmp_path / "whole" / "csv" / "0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    figures = {"clip", "identity", "kept"}
    assert figures <= {
        key.rpartition("/")[2] for row in rows for key, v in row.items() if v and "validation/beard" in key
    }
    assert list((tmp_path / "whole" / "tensorboard").iterdir())
    assert (tmp_path / "whole" / "grids" / "0000006.png").exists()


def test_compiled_trainings_take_the_same_steps(mapper_checkpoints: Path, tmp_path: Path) -> None:
    """Within 1e-3 of the largest weight: sums in another order, six steps of Ranger."""
    plain = train(tiny_run(mapper_checkpoints), tmp_path / "plain")
    compiled = train(tiny_run(mapper_checkpoints, "trainer.compile=true"), tmp_path / "compiled")
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=1e-3 * float(value.abs().max()), rtol=0)


def test_several_prompts_in_one_run_are_each_alone(mapper_checkpoints: Path, tmp_path: Path) -> None:
    both = train(tiny_run(mapper_checkpoints), tmp_path / "both")
    for i, prompt in enumerate(PROMPTS):
        alone = train(tiny_run(mapper_checkpoints, prompts=(prompt,)), tmp_path / str(i))
        for key, value in alone.items():
            assert torch.equal(both[f"{i}.{key.partition('.')[2]}"], value), key


def test_two_processes_are_one_with_the_doubled_batch(mapper_checkpoints: Path, tmp_path: Path) -> None:
    """Gloo, two processes of 4 latents a step, against one of 8, within 1e-5 of the largest weight."""
    states = []
    for name, more in (("two", ["trainer.devices=2", "trainer.strategy=ddp"]), ("one", ["trainer.batch_size=8"])):
        words = [word for setting in settings(mapper_checkpoints, *more) for word in ("--set", setting)]
        command = [sys.executable, "-m", "limner.training.cli", "mapper", "--prompt", PROMPTS[0], *words]
        done = subprocess.run([*command, "--out", str(tmp_path / name)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(json.loads(done.stdout)) == {"beard", "training, minutes"}
        states.append(torch.load(tmp_path / name / "last.ckpt", weights_only=False)["state_dict"])
    for key, value in states[1].items():
        assert (states[0][key] - value).abs().max() <= 1e-5 * value.abs().max(), key


def test_training_latents_are_truncated_by_the_step(mapper_checkpoints: Path, tmp_path: Path) -> None:
    module = built(tiny_run(mapper_checkpoints, "training.truncation=0.3"), tmp_path)
    average = module.generator.get_buffer("latent_avg").normal_()
    w = torch.randn(64, NUM_WS, W_DIM)
    found = module.truncated(w, 5)
    psi = ((found - average) / (w - average)).flatten(1)
    assert torch.allclose(psi, psi[:, :1].expand_as(psi), rtol=1e-3, atol=1e-3)  # one factor a latent
    assert 0.3 <= float(psi[:, 0].min()) < 0.4 and 0.9 < float(psi[:, 0].max()) <= 1.001
    assert torch.equal(found, module.truncated(w, 5)) and not torch.equal(found, module.truncated(w, 6))
    whole = built(tiny_run(mapper_checkpoints), tmp_path)
    assert whole.truncated(w, 5) is w
    with pytest.raises(InputError, match="truncation"):
        tiny_run(mapper_checkpoints, "training.truncation=1.5")


def test_bf16_trains_in_fp32_weights(mapper_checkpoints: Path, tmp_path: Path) -> None:
    run = tiny_run(mapper_checkpoints, "trainer.precision=bf16-mixed", "trainer.max_steps=2")
    before = built(run, tmp_path).network.state_dict()
    after = train(run, tmp_path / "run")
    for key, value in after.items():
        assert value.dtype == torch.float32 and bool(torch.isfinite(value).all())
        assert not torch.equal(value, before[key]), key


def test_a_training_reaches_for_its_text(mapper_checkpoints: Path, tmp_path: Path) -> None:
    run = tiny_run(mapper_checkpoints, "trainer.max_steps=40", "trainer.validate_every=40",
                   "optimizer={name: adamw, learning_rate: 1.0}", "training={latent: 0.0, truncation: 0.3}",
                   prompts=(PROMPTS[0],))  # fmt: skip
    seed_all(run.trainer)
    module, data = family.build(run, tmp_path)
    source = module.source(module.held_out)
    before = float(module.losses("beard", module.held_out, source)["clip"].detach())
    frozen = generator_digest(module.generator.state_dict())
    fit(module, data, run.trainer, tmp_path / "run", run)
    after = float(module.losses("beard", module.held_out, source)["clip"].detach())
    assert after < before - 0.01
    assert generator_digest(module.generator.state_dict()) == frozen


def test_the_command_writes_a_checkpoint_a_mapper(
    mapper_checkpoints: Path,
    tmp_path: Path,
    limner: Callable[..., Any],
) -> None:
    words = [w for s in settings(mapper_checkpoints, "trainer.max_steps=1") for w in ("--set", s)]
    beard = "{name: beard, text: a person with a beard, attribute: facial_hair, value: beard, levels: [coarse]"
    words += ["--set", f"prompts=[{beard}, strength: 1.5}}]", "--set", "drawings=avataaars"]
    words += ["--out", str(tmp_path / "run"), "--save", str(tmp_path / "saved")]
    ran = limner("train", "mapper", "--prompt", "beard", "--prompt", "a Person, with red hair!", *words)
    assert ran.code == 0, ran.err
    figures = json.loads(ran.out)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["a-person-with-red-hair", "beard"]
    seen = "the judge sees the attribute, %"
    assert seen in figures["beard"] and seen not in figures["a-person-with-red-hair"]
    model = load_model(tmp_path / "saved" / "beard")
    assert isinstance(model, LatentMapper)
    assert model.config.prompt == "a person with a beard" and model.config.levels == ("coarse",)
    assert model.config.strength == 1.5
    assert model.config.generator == generator_digest(load_model(mapper_checkpoints / "stylegan2").state_dict())
    assert {"README.md", "config.json", "figures.json", "model.safetensors", "samples.png"} == {
        path.name for path in (tmp_path / "saved" / "beard").iterdir()
    }
    text = (tmp_path / "saved" / "beard" / "README.md").read_text()
    assert "limner train mapper" in text and "Pablo Stanley" in text
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["prompts"][0]["strength"] == 1.5


def test_a_run_goes_on_from_finished_mappers(mapper_checkpoints: Path, tmp_path: Path) -> None:
    run = tiny_run(mapper_checkpoints)
    first = built(run, tmp_path).network
    for prompt, mapper in zip(run.prompts, first, strict=True):
        weights = {key: value + 1.0 for key, value in mapper.state_dict().items()}
        save_model(tmp_path / "trained" / prompt.label, "mapper", mapper.config, weights)
    second = built(replace(run, start=str(tmp_path / "trained")), tmp_path).network
    for ours, theirs in zip(first, second, strict=True):
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(theirs.state_dict()[key], value + 1.0, atol=5e-3, rtol=1e-3)  # stored as fp16
    other = replace(run, start=str(tmp_path / "trained"), model=replace(run.model, kind="single"))
    with pytest.raises(InputError, match="of other sizes"):
        built(other, tmp_path)


@pytest.mark.parametrize(
    ("more", "prompts", "field"),
    [
        ([], (), "prompts"),
        ([], ("x=a beard", "x=glasses"), "prompts"),
        (["latents.held_out=22"], PROMPTS, "latents"),
        (["generator={clip}"], PROMPTS, "generator"),
        (["identity={judge}"], PROMPTS, "identity"),
        (["judge={identity}"], PROMPTS, "judge"),
    ],
)
def test_bad_runs_are_refused(
    mapper_checkpoints: Path,
    tmp_path: Path,
    more: list[str],
    prompts: tuple[str, ...],
    field: str,
) -> None:
    filled = [m.format(**{name: mapper_checkpoints / name for name in ("clip", "judge", "identity")}) for m in more]
    with pytest.raises(InputError) as caught:
        built(tiny_run(mapper_checkpoints, *filled, prompts=prompts), tmp_path)
    assert caught.value.field == field


def test_what_the_judge_does_not_know_is_refused(mapper_checkpoints: Path, tmp_path: Path) -> None:
    for attribute, value, allowed in (("hat", "red", "facial_hair"), ("eyewear", "glases", "glasses")):
        prompts = f"prompts=[{{name: x, text: a text, attribute: {attribute}, value: {value}}}]"
        with pytest.raises(InputError, match=allowed):
            built(tiny_run(mapper_checkpoints, prompts, prompts=("x",)), tmp_path)


def test_levels_that_the_generator_lacks_are_refused(mapper_checkpoints: Path, tmp_path: Path) -> None:
    prompts = "prompts=[{name: x, text: a text, levels: [medium, fine]}]"
    with pytest.raises(InputError, match="none of 4 rows") as caught:
        built(tiny_run(mapper_checkpoints, prompts, prompts=("x",)), tmp_path)
    assert caught.value.field == "prompts.x.levels"


@pytest.mark.parametrize("given", ["", "!!", "A B=a text", "=a text", "name="])
def test_prompts_without_words_or_names_are_refused(mapper_checkpoints: Path, given: str) -> None:
    with pytest.raises(InputError, match="prompt"):
        tiny_run(mapper_checkpoints, prompts=(given,))


def test_published_settings_are_the_defaults() -> None:
    run = Run()
    assert (run.training.clip, run.training.identity, run.training.latent) == (1.0, 0.1, 0.8)
    assert (run.optimizer.name, run.optimizer.learning_rate, run.latents.count, run.latents.truncation) == (
        "ranger", 0.5, 5000, 0.7,
    )  # fmt: skip
    assert Ranger([torch.nn.Parameter(torch.zeros(1))]).defaults["betas"] == (0.95, 0.999)
