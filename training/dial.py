"""Everything that gains from a GPU, trained in so many minutes: `limner train all --minutes 9 --out OUT`.

    OUT/<part>.tar      each result as soon as there is one: weights in fp16 (below 16 MB), figures, card
    OUT/report.json     what was trained, for how many steps, and its figures
    WORK/               pictures, rendered with every core, and the run folder and model of each part

The parts follow one another and go on from the shipped weights; each gets its share of the time that is left. How many
steps that is follows from the first ones, so that learning rates fall to zero in time. `limner train adopt OUT` takes
the results over. OUT is few files, so that it can be brought back from a machine that is lent for an hour.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.files import write_atomically
from limner.runtime.folders import file_beside, scratch
from limner.runtime.schema import read_json
from limner.runtime.stopping import Stopped
from limner.training.precision import fast_bf16
from limner.training.runner import cosine

log = logging.getLogger("limner")
REPORT = "report.json"
MOST_BYTES = 1 << 26  # of one file of a result
LARGEST_MB = 16.0  # of a part's weights
MOST_STEPS = 10_000_000  # until the first steps say how many there will be
UNCOUNTED, COUNTED = 3, 5  # first steps, and those that are timed
FOR_TRAINING = 0.8  # of a part's time, loading included; the rest is for figures
PICTURES_A_SECOND = 200  # rendered by one core at 128 pixels


@dataclass(frozen=True)
class Part:
    """One training of the dial."""

    name: str  # of its folder in OUT/models and in checkpoints/avatars
    family: str
    share: float  # of the time for all parts
    settings: tuple[str, ...] = ()
    needs: dict[str, str] | None = None  # setting -> the part whose result it takes, else the shipped folder
    compiled: str = ""  # setting that compiles it on a GPU

    @property
    def stem(self) -> str:
        """The name of its file."""
        return self.name.rpartition("/")[2]


PARTS = (
    Part("autoencoder", "autoencoder", 0.2, ("start={shipped}/autoencoder", "optimizer.learning_rate=5e-4"),
         compiled="trainer.compile"),
    Part("diffusion", "diffusion", 0.35, ("start={shipped}/diffusion", "optimizer.learning_rate=8e-4"),
         {"autoencoder": "autoencoder"}, "trainer.compile"),
    Part("stylegan2", "stylegan2", 0.2, ("stage=adversarial", "start={shipped}/stylegan2")),
    Part("encoder", "encoder", 0.15, ("start={shipped}/encoder", "optimizer.learning_rate=7e-4",
                                      "training.image_from=0.0", "training.deltas_from=0.0",
                                      "training.deltas_until=0.0"), {"generator": "stylegan2"}),
    Part("edits/mappers", "mapper", 0.1, ("start={shipped}/edits/mappers", "latents.count=600"),
         {"generator": "stylegan2", "latents.encoder": "encoder"}),
)  # fmt: skip
BATCHES = {"autoencoder": 32, "diffusion": 256, "stylegan2": 16, "encoder": 32, "mapper": 8}  # on a GPU
ON_CPU = {"diffusion": 32, "stylegan2": 4, "encoder": 8, "autoencoder": 4, "mapper": 2}


def train_all(minutes: float, out: Path, work: Path, shipped: Path, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train the parts within `minutes` and return the report. A part that fails is named in it and the next goes on.

    Raises InputError for a time that allows nothing or a part that is not known, LimnerError if every part failed.
    """
    known = [part.name for part in PARTS]
    for name in only:
        if name not in known:
            raise InputError("--part", repr(name), ", ".join(known))
    if not 1 <= minutes <= 24 * 60:
        raise InputError("--minutes", f"{minutes:g}", "1 to 1440")
    end = time.monotonic() + 60 * minutes
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = render_within(work / "cache", minutes)
    parts = [part for part in PARTS if not only or part.name in only]
    report: dict[str, Any] = {"minutes": minutes, "device": device_name(), "pictures": pictures, "parts": {}}
    for number, part in enumerate(parts):
        share = part.share / sum(later.share for later in parts[number:])
        seconds = (end - time.monotonic()) * share
        try:
            report["parts"][part.name] = train_part(part, seconds, work, shipped, pictures)
            pack(work / "models" / part.name, out / f"{part.stem}.tar")
        except Stopped:
            raise
        except Exception as reason:  # the other parts have time of their own
            log.error("%s: %s: %s", part.name, type(reason).__name__, reason)
            report["parts"][part.name] = {"failed": f"{type(reason).__name__}: {reason}"}
        write_atomically(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    if all("failed" in one for one in report["parts"].values()):
        raise LimnerError(f"no part could be trained; {out / REPORT} says why")
    return report


def train_part(part: Part, seconds: float, work: Path, shipped: Path, pictures: int) -> dict[str, Any]:
    """Train one part for about so many seconds, its figures included, and say what came of it."""
    from limner.training.cli import resolve, run_family

    begun = time.monotonic()
    model, folder = work / "models" / part.name, work / "runs" / part.name
    run = resolve(part.family, overrides=[*settings_of(part, work, shipped), *data_settings(part, pictures)])
    deadline = Deadline(begun + FOR_TRAINING * seconds, getattr(run.optimizer, "warmup", 0.0)
                        if hasattr(run, "optimizer") else 0.0)  # fmt: skip
    figures = run_family(part.family, run, folder, model, work / "cache", callbacks=(deadline,))
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e6
    if size > LARGEST_MB:
        log.warning("%s: %.1f MB of weights, more than %.0f", part.name, size, LARGEST_MB)
    return {"steps": deadline.steps, "seconds a step": round(deadline.step_s, 4), "precision": run.trainer.precision,
            "seconds": round(time.monotonic() - begun, 1), "megabytes": round(size, 2), "figures": figures}  # fmt: skip


class Deadline(pl.Callback):
    """Sets, after the first few steps, how many there will be: as many as end at a time.

    The first steps compile and warm up, so they are not counted. Learning rates then fall along the cosine of that
    many steps, and what modules do from a share of their steps on follows it too.
    """

    def __init__(self, end: float, warmup: float) -> None:
        self.end, self.warmup = end, warmup
        self.steps, self.step_s = 0, 0.0
        self._from = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == UNCOUNTED:
            self._from = time.monotonic()
        if step != UNCOUNTED + COUNTED:
            return
        now = time.monotonic()
        self.step_s = (now - self._from) / COUNTED
        self.steps = max(step + 1, step + int((self.end - now) / self.step_s))
        log.info("%.3f s a step: %d steps", self.step_s, self.steps)
        trainer.fit_loop.epoch_loop.max_steps = self.steps
        if hasattr(pl_module, "max_steps"):
            pl_module.max_steps = self.steps  # type: ignore[assignment]
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, torch.optim.lr_scheduler.LambdaLR):
                config.scheduler.lr_lambdas = [cosine(self.warmup, self.steps)] * len(config.scheduler.lr_lambdas)


def settings_of(part: Part, work: Path, shipped: Path) -> list[str]:
    """What a part sets over its family's YAML on this machine."""
    gpu = torch.cuda.is_available()
    found = [text.format(shipped=shipped) for text in part.settings]
    for name, other in (part.needs or {}).items():
        made = work / "models" / other
        found.append(f"{name}={made if made.is_dir() else shipped / other}")
    found += [f"trainer.batch_size={(BATCHES if gpu else ON_CPU)[part.family]}",
              f"trainer.precision={precision_here(part)}", f"trainer.max_steps={MOST_STEPS}",
              f"trainer.validate_every={MOST_STEPS}", "trainer.checkpoint_every=500",
              "trainer.monitor=''", "trainer.loggers=[csv]", "trainer.validation_limit=128"]  # fmt: skip
    if gpu and part.compiled:
        found.append(f"{part.compiled}=true")
    if part.family == "stylegan2":
        found += ["compile=false", f"figures_of={2000 if gpu else 100}"]
    if part.family == "diffusion":
        found.append(f"figures_of={100 if gpu else 10}")
    return found


def precision_here(part: Part) -> str:
    """bf16 on a GPU and on processors that multiply it themselves; small convolutions are faster in fp32 there."""
    fast = torch.cuda.is_available() or (fast_bf16() and part.name != "autoencoder")
    return "bf16-mixed" if fast else "32-true"


def data_settings(part: Part, pictures: int) -> list[str]:
    if part.family == "mapper":
        return []
    return [f"data.train={pictures}", f"data.validation={held_out()}", f"data.test={held_out()}"]


def held_out() -> int:
    """Pictures that figures are measured on."""
    return 500 if torch.cuda.is_available() else 100


def render_within(cache: Path, minutes: float) -> int:
    """Render the pictures of all parts in about a tenth of the time (less without a GPU, where they are used more
    slowly too); how many there are."""
    from limner.training.avatars.dataset import AvatarsConfig, build_split

    cores = len(os.sched_getaffinity(0))
    share = 0.1 if torch.cuda.is_available() else 0.03
    wanted = int(60 * minutes * share * cores * PICTURES_A_SECOND)
    count = min(60_000, max(500, wanted // 500 * 500))
    for split in ("train", "validation", "test"):
        build_split(AvatarsConfig(size=128, train=count, validation=held_out(), test=held_out()), split, cache)
    return count


def adopt(out: Path, shipped: Path, parts: tuple[str, ...] = (), say: Callable[[str], None] = print) -> list[Path]:
    """Put the results in OUT in the place of the shipped ones, each loaded first; returns their folders.

    Raises InputError where OUT holds no result, or one that does not load.
    """
    from limner.training.saving import saved_whole

    report = read_json(out / REPORT, "OUT") if (out / REPORT).is_file() else {}
    if not isinstance(report, dict) or not isinstance(report.get("parts", {}), dict):
        raise InputError("OUT", f"{out / REPORT}, which is no report", "the folder of `limner train all`")
    parts_done = {name: part for name, part in report.get("parts", {}).items() if isinstance(part, dict)}
    done = [name for name, part in parts_done.items() if "steps" in part and (not parts or name in parts)]
    if not done:
        raise InputError("OUT", f"{out}, which holds no finished part", "the folder of `limner train all`")
    stems = {part.name: part.stem for part in PARTS}
    placed = []
    with scratch("limner-adopt-") as folder:
        for name in done:
            unpack(out / f"{stems[name]}.tar", folder / name)
            check_loads(folder / name, name)
        for name in done:
            target = shipped / name
            with saved_whole(target) as beside:
                shutil.copytree(folder / name, beside, dirs_exist_ok=True)
            placed.append(target)
            say(f"{target}: {parts_done[name]['steps']} steps, {parts_done[name].get('megabytes')} MB")
    return placed


def pack(folder: Path, file: Path) -> None:
    """A part's folder as one tar file."""
    with file_beside(file) as beside, tarfile.open(beside, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(path, path.relative_to(folder).as_posix())


def unpack(file: Path, folder: Path) -> None:
    """The files of such a tar, plain ones inside the folder alone; InputError for anything else."""
    allowed = "a file that `limner train all` wrote"
    folder.mkdir(parents=True)
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                parts = Path(member.name).parts
                if not member.isfile() or member.name.startswith("/") or ".." in parts or member.size > MOST_BYTES:
                    raise InputError("OUT", f"{file} with {member.name[:60]!r}", allowed)
                stream = archive.extractfile(member)
                assert stream is not None
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / member.name).write_bytes(stream.read())
    except (OSError, tarfile.TarError) as reason:
        raise InputError("OUT", f"{file}, which does not read ({reason})", allowed) from reason


def check_loads(folder: Path, name: str) -> None:
    """InputError unless the networks of a part's folder load with every tensor finite."""
    from limner.training.models.diffusion import load_autoencoder, load_denoiser
    from limner.training.models.store import load_model

    if name == "autoencoder":
        networks: list[Any] = [load_autoencoder(folder)]
    elif name == "diffusion":
        networks = [load_autoencoder(folder / "vae"), load_denoiser(folder / "unet")]
    else:
        networks = [load_model(path.parent) for path in sorted(folder.rglob("model.safetensors"))]
    if not networks:
        raise InputError("OUT", f"{folder}, which holds no weights", "the folder of `limner train all`")
    for network in networks:
        for key, value in network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise InputError("OUT", f"{folder}, whose {key} holds NaN or infinity", "finite weights")


def device_name() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{len(os.sched_getaffinity(0))} CPU cores, {'bf16 in hardware' if fast_bf16() else 'fp32'}"
