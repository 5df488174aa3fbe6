"""What Lightning's users expect of a training: each setting of `trainer` acts, or is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from limner.runtime.errors import InputError
from limner.training.families.judge import run as judge
from limner.training.loop.runner import fit, seed_all
from limner.training.running import resolve, run_family

TINY = ["data={size: 32, train: 24, validation: 8, test: 8}", "model.channels=[16, 16, 16]", "model.blocks=[1]",
        "model.features=16", "trainer.batch_size=8", "trainer.precision=32-true", "trainer.validation_limit=8",
        "trainer.validate_every=2", "trainer.checkpoint_every=3", "trainer.max_steps=6",
        "trainer.log_every=1"]  # fmt: skip
SEEN: list[str] = []


class Counts(pl.Callback):
    """A callback that a run names by its import path."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        SEEN.append("batch")


def needs_an_argument(number: int) -> pl.Callback:
    return Counts()


def run(*more: str) -> Any:
    return resolve("judge", overrides=[*TINY, *more])


def train(cache: Path, out: Path, *more: str, callbacks: tuple[pl.Callback, ...] = ()) -> tuple[Any, pl.Trainer]:
    made = run(*more)
    seed_all(made.trainer)
    module, data = judge.build(made, cache)
    return module, fit(module, data, made.trainer, out, made, callbacks=callbacks)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "csv" / "0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_checkpoint_is_the_one_with_the_best_figure(tiny_cache: Path, tmp_path: Path) -> None:
    for mode, pick in (("min", min), ("max", max)):
        out = tmp_path / mode
        train(tiny_cache, out, "trainer.monitor=validation/skin", f"trainer.monitor_mode={mode}")
        figures = {int(row["step"]) + 1: float(row["validation/skin"]) for row in rows(out) if row["validation/skin"]}
        best = pick(figures.values())
        wanted = next(step for step, value in figures.items() if value == best)  # the first of equal ones
        assert torch.load(out / "best.ckpt", weights_only=True)["global_step"] == wanted
        assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 6


def test_keep_best_gives_the_weights_of_the_best(tiny_cache: Path, tmp_path: Path) -> None:
    module, _ = train(tiny_cache, tmp_path / "run", "trainer.monitor=validation/loss", "trainer.keep=best",
                      "trainer.monitor_mode=max")  # fmt: skip
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert best["global_step"] < 6
    average = next(state["average"] for key, state in best["callbacks"].items() if "WeightAverage" in key)
    for key, value in module.network.state_dict().items():
        assert torch.equal(value, average[key]), key


def test_patience_ends_a_training(tiny_cache: Path, tmp_path: Path) -> None:
    _, trainer = train(tiny_cache, tmp_path / "run", "trainer.monitor=validation/loss", "trainer.monitor_mode=max",
                       "trainer.patience=1", "trainer.max_steps=100", "optimizer.learning_rate=0.001")  # fmt: skip
    assert trainer.global_step < 100
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == trainer.global_step


def test_accumulated_batches_are_one_step(tiny_cache: Path, tmp_path: Path) -> None:
    """Two batches of 4 a step: six optimizer steps of twelve batches, and the data of each batch is its own."""
    seen: list[int] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(int(batch["options"].sum()))

    _, trainer = train(tiny_cache, tmp_path / "run", "trainer.accumulate_grad_batches=2", "trainer.batch_size=4",
                       callbacks=(Watch(),))  # fmt: skip
    assert trainer.global_step == 6 and len(seen) == 12 and len(set(seen[:6])) > 3
    assert [int(row["step"]) + 1 for row in rows(tmp_path / "run") if row["validation/loss"]] == [2, 4, 6]


def test_clipping_bounds_the_step_of_a_fused_optimizer(tiny_cache: Path, tmp_path: Path) -> None:
    norms: list[float] = []

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            grads = [p.grad for p in pl_module.network.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.nn.utils.get_total_norm(grads)))

    module, _ = train(tiny_cache, tmp_path / "run", "trainer.gradient_clip=0.5", callbacks=(Watch(),))
    assert module.optimizers().defaults["fused"] and norms
    assert all(norm <= 0.5 * 1.0001 for norm in norms)
    logged = [float(row["train/gradient_norm"]) for row in rows(tmp_path / "run") if row["train/gradient_norm"]]
    assert len(logged) == 6 and min(logged) > 0.5  # before it was clipped


def test_loggers_and_callbacks_by_name(tiny_cache: Path, tmp_path: Path) -> None:
    SEEN.clear()
    train(tiny_cache, tmp_path / "run", "trainer.loggers=[csv]", f"trainer.callbacks=[{__name__}.Counts]",
          "trainer.devices=auto")  # fmt: skip
    assert len(SEEN) == 6
    assert (tmp_path / "run" / "csv").is_dir() and not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trainer.monitor=validation/los", "did you mean 'validation/loss'"),
        ("trainer.patience=2 & trainer.monitor=''", "without `monitor`"),
        ("trainer.keep=best & trainer.monitor=''", "without `monitor`"),
        ("trainer.loggers=[mlflow]", "pip install mlflow"),
        ("trainer.loggers=[vandb]", "wandb"),
        ("trainer.callbacks=[nowhere.Thing]", "nowhere"),
        ("trainer.callbacks=[pytorch_lightning.callbacks.EarlyStoping]", "EarlyStopping"),
        ("trainer.callbacks=[pathlib.PurePath]", "a PurePosixPath"),
        ("trainer.accelerator=gpu", "there is none here"),
        ("trainer.devices=0", "1 or more"),
        ("trainer.accumulate_grad_batches=0", "1 or more"),
        ("trainer.gradient_clip=-1.0", "0 or more"),
        ("trainer.strategy=fsdp", "ddp"),
        ("optimizer.learning_rate=0.0", "above 0"),
        ("trainer.batch_size=64", "up to 24"),
    ],
)
def test_settings_that_cannot_act_are_refused(
    tiny_cache: Path, tmp_path: Path, setting: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, found=None: None if name == "mlflow" else True)
    with pytest.raises(InputError, match=words):
        run_family("judge", run(*setting.split(" & ")), tmp_path / "run", tmp_path / "model", tiny_cache)
    assert not (tmp_path / "run" / "config.yaml").exists() and not (tmp_path / "model").exists()


def test_compiling_is_refused_where_nothing_would_be_compiled() -> None:
    made = resolve("mapper", overrides=["trainer.compile=true"])
    from limner.training.loop.compiling import compile_parts

    with pytest.raises(InputError, match=r"trainer\.compile"):
        compile_parts(pl.LightningModule())
    assert made.trainer.compile


@pytest.mark.parametrize(
    ("on_gpu", "once", "mode"), [(False, True, None), (True, True, "reduce-overhead"), (True, False, None)]
)
def test_on_a_gpu_each_pass_is_one_graph(on_gpu: bool, once: bool, mode: str | None) -> None:
    from limner.training.loop.compiling import compile_parts

    class Part(torch.nn.Linear):
        def compile(self, *_: object, **options: object) -> None:
            modes.append(options["mode"])

    class Module(pl.LightningModule):
        replays = once

        def compiled_parts(self) -> list[torch.nn.Module]:
            return [Part(1, 1)]

    modes: list[object] = []
    compile_parts(Module(), on_gpu)
    assert modes == [mode]


def test_the_lines_that_people_read_are_short(tiny_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
                                              ) -> None:  # fmt: skip
    with caplog.at_level("INFO", logger="limner"):
        train(tiny_cache, tmp_path / "run", "trainer.monitor=validation/loss")
    lines = [record.getMessage() for record in caplog.records if record.name == "limner"]
    assert any(line.startswith("step 6 of 6") and " left, loss " in line for line in lines)
    assert any(line.startswith("validation at step 6: validation/loss ") for line in lines)
    assert max(map(len, lines)) < 150


# --- mappers: refused before any picture is encoded -------------------------------------------------------


@pytest.mark.parametrize("case", ["twice", "taken", "other prompts", "nothing to resume"])
def test_a_mapper_run_is_refused_before_it_works(case: str, tmp_path: Path, limner: Any, repository: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(repository)
    out = tmp_path / "run"
    out.mkdir()
    words = ["train", "mapper", "--prompt", "beard", "--out", str(out)]
    if case == "twice":
        words += ["--prompt", "beard=another beard"]
    if case in ("taken", "other prompts"):
        before = limner("train", "mapper", "--prompt", "glasses", "--dry-run").out
        (out / "config.yaml").write_text(before)
        torch.save({"state_dict": {}, "optimizer_states": [], "loops": {}}, out / "last.ckpt")
    if case in ("other prompts", "nothing to resume"):
        words.append("--resume")
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    ended = limner(*words)
    assert ended.code == 2 and ended.err.startswith("error: ") and "encoding" not in ended.err, ended.err
    assert {"twice": "prompts", "taken": "--out", "other prompts": "prompts", "nothing to resume": "--resume"}[
        case
    ] in ended.err
    assert files == {path.name: path.read_bytes() for path in out.iterdir()}
    if case == "twice":
        assert limner(*words, "--dry-run").code == 2


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx512f amx_bf16 amx_tile", True), ("fpu avx512f avx512_bf16", True), ("fpu avx2 avx512f", False)],
)
def test_processors_that_multiply_bf16_themselves(monkeypatch: pytest.MonkeyPatch, flags: str, fast: bool) -> None:
    from limner.training.loop.precision import fast_bf16

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags\t\t: {flags}\n")
    assert fast_bf16() is fast
