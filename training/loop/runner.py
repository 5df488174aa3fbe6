"""One training run: a module and its data in, checkpoints, logs and grids out, resumable at any step.

A run folder holds ``config.yaml`` (resolved), ``last.ckpt`` and ``best.ckpt``, ``csv/`` and ``tensorboard/`` logs,
``grids/``. What surrounds the steps is in `limner.training.loop`.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.storage.stopping import stop_asked
from limner.training.loop.callbacks import Grids, WeightAverage
from limner.training.loop.checkpoints import BEST, LAST, Checkpoints
from limner.training.loop.compiling import compile_parts, leave_compiled
from limner.training.loop.extras import check_loggers, make_callbacks, make_loggers
from limner.training.loop.muon import Muon
from limner.training.loop.precision import fastest_precision
from limner.training.loop.progress_line import ProgressLine
from limner.training.loop.run_folder import check_run_folder, write_config
from limner.training.loop.steps import FiniteSteps, SeededBatches, Stopping


@dataclass(frozen=True)
class TrainerConfig:
    """How long and on what; the same for every family."""

    max_steps: int = 1000  # steps of the optimizer
    batch_size: int = 64  # pictures a batch and process
    accumulate_grad_batches: int = 1  # batches a step
    seed: int = 0  # of weights, data order and every draw
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "auto"  # auto: fastest here
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"  # where the networks run
    devices: int | Literal["auto"] = 1  # how many; auto takes all of the accelerator
    strategy: Literal["auto", "ddp", "ddp_spawn", "ddp_find_unused_parameters_true"] = "auto"  # of several devices
    workers: int = 0  # data loader processes
    compile: bool = False  # torch.compile the heavy part; on CPUs it needs a C++ compiler
    threads: int = 0  # CPU threads; 0 leaves torch's choice
    average_decay: float = 0.998  # moving average of the weights; 0 for none
    gradient_clip: float = 1.0  # largest norm of the gradient; 0 for no limit
    validate_every: int = 250  # steps
    validation_limit: int = 1024  # pictures of a validation
    checkpoint_every: int = 250  # steps between two writings of last.ckpt
    log_every: int = 10  # steps between two rows of the logs
    monitor: str = ""  # figure of the validation whose best value best.ckpt keeps; empty keeps the last alone
    monitor_mode: Literal["min", "max"] = "min"  # which value of it is the best
    patience: int = 0  # validations without a better figure that end the training; 0 goes on to max_steps
    keep: Literal["last", "best"] = "last"  # whose weights the finished model has
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")  # where figures go
    callbacks: tuple[str, ...] = ()  # further Lightning callbacks, by import path: package.module.Name

    def __post_init__(self) -> None:
        if self.precision == "auto":  # so that what is saved with a run says what it was
            object.__setattr__(self, "precision", fastest_precision())
        ones = ("max_steps", "batch_size", "accumulate_grad_batches", "validate_every", "validation_limit",
                "checkpoint_every", "log_every", *(("devices",) if self.devices != "auto" else ()))  # fmt: skip
        for name, least in [*((name, 1) for name in ones), ("seed", 0), ("workers", 0), ("threads", 0),
                            ("gradient_clip", 0), ("patience", 0)]:  # fmt: skip
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}; allowed: 0 up to 1")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}; allowed: below 2^32")
        for name, given in (("patience", self.patience > 0), ("keep", self.keep == "best")):
            if given and not self.monitor:
                raise ValueError(f"{name} is {getattr(self, name)} without `monitor`, the figure that it goes by")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon for matrices and AdamW for vectors, with a warm-up and a cosine down to zero."""

    learning_rate: float = 1e-3  # at the end of the warm-up
    weight_decay: float = 0.05  # of matrices alone
    betas: tuple[float, float] = (0.9, 0.99)  # of the means of the gradient and of its square
    warmup: float = 0.05  # share of all steps
    name: Literal["adamw", "muon"] = "adamw"  # muon for matrices, adamw for vectors

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; allowed: above 0")
        if not (0 <= self.weight_decay < float("inf") and 0 <= self.warmup <= 1):
            raise ValueError(f"weight_decay {self.weight_decay}, warmup {self.warmup}; allowed: 0 or more, 0 to 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; allowed: 0 up to 1")


def optimizer_of(module: nn.Module, config: OptimizerConfig, max_steps: int, scaled: bool = False) -> dict[str, Any]:
    """What `configure_optimizers` returns: the optimizer without decay of vectors, and the schedule by step.

    A parameter's attribute `lr_factor`, where it has one, multiplies its learning rate. With `scaled` losses (fp16) the
    optimizer is not fused: a fused one unscales gradients itself, after they were looked at.
    """
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for weight in module.parameters():
        if weight.requires_grad:
            matrix, factor = weight.ndim > 1, float(getattr(weight, "lr_factor", 1.0))
            decay, rate = config.weight_decay if matrix else 0.0, config.learning_rate * factor
            group = groups.setdefault(
                (matrix, factor), {"params": [], "lr": rate, "weight_decay": decay, "matrices": matrix}
            )
            group["params"].append(weight)
    kind: Any = Muon if config.name == "muon" else partial(torch.optim.AdamW, fused=not scaled)
    optimizer: torch.optim.Optimizer = kind(list(groups.values()), config.learning_rate, betas=config.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(config.warmup, max_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(warmup_share: float, max_steps: int) -> Callable[[int], float]:
    """Step -> factor of the learning rate: up to 1 in the first share of the steps, then along a cosine to 0."""
    warmup = max(1, round(warmup_share * max_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        along = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        return 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * along)))

    return factor


def seed_all(config: TrainerConfig) -> None:
    """Seed every generator and set the CPU threads; call it before the networks are made."""
    if config.threads:
        torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)


def fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    config: TrainerConfig,
    out: str | Path,  # run folder
    resolved: Any = None,  # the whole run's config, saved as config.yaml
    resume: bool = False,  # go on from last.ckpt
    fast_dev_run: bool = False,  # one step of everything, nothing written
    average: str = "network",  # the module's attribute that is averaged
    callbacks: tuple[pl.Callback, ...] = (),
) -> pl.Trainer:
    """Train, leaving the averaged weights in the module's network. Returns the trainer.

    Raises InputError when `resume` finds no checkpoint or one of other settings, or when a fresh run meets an old one;
    NonFiniteTraining when a loss or a gradient is NaN or infinite.
    """
    out = Path(out)
    if config.compile:
        compile_parts(module, on_gpu=torch.cuda.is_available() and config.accelerator != "cpu")
    if not fast_dev_run:
        check_run_folder(out, resolved or config, resume)
    averaging = WeightAverage(config.average_decay, average) if config.average_decay else None
    checkpoints = None if fast_dev_run else Checkpoints(
        out, min(config.checkpoint_every, config.max_steps), config.monitor, config.monitor_mode
    )  # fmt: skip
    steps = FiniteSteps(config.gradient_clip, checkpoints)
    hooks: list[pl.Callback] = [SeededBatches(config.seed), steps, *callbacks, *make_callbacks(config.callbacks),
                                *([averaging] if averaging else [])]  # fmt: skip
    if checkpoints is not None:
        out.mkdir(parents=True, exist_ok=True)
        pictures = config.batch_size * config.accumulate_grad_batches
        hooks += [ProgressLine(pictures, steps, config.monitor), Grids(out / "grids"), checkpoints,
                  *_early_stopping(config), Stopping(checkpoints), _RunRecord(out, resolved or config)]  # fmt: skip
    trainer = pl.Trainer(
        max_steps=config.max_steps, max_epochs=-1, accelerator=config.accelerator, devices=config.devices,
        strategy=config.strategy, precision=cast(Any, config.precision), callbacks=hooks,
        log_every_n_steps=config.log_every,
        logger=[] if fast_dev_run else make_loggers(config.loggers, out),
        accumulate_grad_batches=config.accumulate_grad_batches if module.automatic_optimization else 1,
        val_check_interval=min(config.validate_every, config.max_steps) * config.accumulate_grad_batches,
        check_val_every_n_epoch=None, num_sanity_val_steps=1 if config.monitor and not resume else 0,
        enable_checkpointing=False, enable_model_summary=False, fast_dev_run=fast_dev_run,
        enable_progress_bar=sys.stderr.isatty(), default_root_dir=str(out), use_distributed_sampler=False,
    )  # fmt: skip
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(out / LAST) if resume else None, weights_only=True)
    except SystemExit:  # between two steps the trainer sees a SIGTERM first, and would end with code 0
        if (asked := stop_asked()) is not None:
            raise asked from None
        raise
    if config.compile:
        leave_compiled(module)
    if averaging and averaging.average:
        kept = best_average(out) if config.keep == "best" and not fast_dev_run else None
        getattr(module, average).load_state_dict(kept or averaging.average)
    elif config.keep == "best" and not fast_dev_run:
        module.load_state_dict(torch.load(out / BEST, map_location="cpu", weights_only=True)["state_dict"])
    return trainer


def pictures_seen(module: pl.LightningModule, config: TrainerConfig) -> int:
    """Pictures that the steps of a finished training took, over all its processes and starts."""
    trainer = module.trainer
    return int(trainer.global_step * config.batch_size * config.accumulate_grad_batches * trainer.world_size)


class _RunRecord(pl.Callback):
    """Writes config.yaml once the run has begun: a run that was refused leaves the old one as it was."""

    def __init__(self, out: Path, run: Any) -> None:
        self.out, self.run = out, run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            write_config(self.out, self.run)


def _early_stopping(config: TrainerConfig) -> list[pl.Callback]:
    if not config.patience:
        return []
    return [EarlyStopping(config.monitor, patience=config.patience, mode=config.monitor_mode)]


def best_average(out: Path) -> dict[str, torch.Tensor] | None:
    """The averaged weights in best.ckpt; LimnerError if no validation gave one."""
    path = out / BEST
    if not path.is_file():
        raise LimnerError(f"keep is best, but no validation gave a finite figure: {path} was never written")
    for key, state in torch.load(path, map_location="cpu", weights_only=True)["callbacks"].items():
        if key.startswith("WeightAverage"):
            found: dict[str, torch.Tensor] = state["average"]
            return found
    return None


def check_run(config: TrainerConfig, run: Any, out: Path, resume: bool, fast_dev_run: bool) -> None:
    """Everything that can be refused before networks are loaded and data is made."""
    check_loggers(config.loggers)
    make_callbacks(config.callbacks)
    if config.accelerator in ("gpu", "cuda", "mps"):
        there = torch.backends.mps.is_available() if config.accelerator == "mps" else torch.cuda.is_available()
        if not there:
            raise InputError("trainer.accelerator", repr(config.accelerator), "cpu or auto: there is none here")
    if not fast_dev_run:
        check_run_folder(out, run, resume)


def quiet() -> None:
    """Progress as plain log lines on stderr, without Lightning's hints; of several processes the first one speaks."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    first = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"
    logging.getLogger("limner").setLevel(logging.INFO if first else logging.ERROR)
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING if first else logging.ERROR)
    for name in ("httpx", "httpcore", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.utils)\..*")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
