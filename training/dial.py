"""Everything that gains from a GPU, trained in so many minutes: `limner train all --minutes 9 --out OUT`.

    OUT/<part>.tar      each result as soon as there is one: weights in fp16 (below 16 MB), card, part.json
    OUT/report.json     what was trained, for how many steps, and its figures
    WORK/               pictures, rendered with every core, and the run folder and model of each part

The parts go on from the shipped weights, those of a lane one after another; each gets its share of the time that is
left. How many steps that is follows from the first ones, so that learning rates fall to zero in time. On a GPU lanes
run side by side, in processes of their own: networks of this size leave most of it idle. `limner train adopt OUT`
takes the results over. OUT is few files, so that it can be brought back from a machine that is lent for an hour.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.schema import read_json
from limner.runtime.storage.files import write_atomically
from limner.runtime.storage.folders import file_beside, scratch
from limner.runtime.storage.stopping import Stopped
from limner.training.loop.precision import fast_bf16
from limner.training.loop.runner import cosine

log = logging.getLogger("limner")
REPORT = "report.json"
RESULT = "part.json"  # in a part's tar: its share of the report
MOST_BYTES = 1 << 26  # of one file of a result
LARGEST_MB = 16.0  # of a part's weights
MOST_STEPS = 10_000_000  # until the first steps say how many there will be
UNCOUNTED, COUNTED = 10, 20  # first steps, and those that are timed
FOR_TRAINING = 0.8  # of a part's time, loading included; the rest is for figures
WORKERS = 6  # processes that read pictures and write captions beside a GPU
PICTURES_A_SECOND = 70  # rendered by one core at 128 pixels


@dataclass(frozen=True)
class Part:
    """One training of the dial."""

    name: str  # of its folder in OUT/models and in checkpoints/avatars
    family: str
    lane: str  # parts of one lane follow one another
    share: float  # of the time of its lane
    settings: tuple[str, ...] = ()
    needs: dict[str, str] | None = None  # setting -> the part whose result it takes, else the shipped folder
    compiled: str = ""  # setting that compiles it on a GPU

    @property
    def stem(self) -> str:
        """The name of its file."""
        return self.name.rpartition("/")[2]


PARTS = (
    Part("autoencoder", "autoencoder", "diffusion", 0.35,
         ("start={shipped}/autoencoder", "optimizer.learning_rate=5e-4"), None, "trainer.compile"),
    Part("diffusion", "diffusion", "diffusion", 0.65,
         ("start={shipped}/diffusion", "optimizer.learning_rate=5e-4"),
         {"autoencoder": "autoencoder"}, "trainer.compile"),
    Part("stylegan2", "stylegan2", "stylegan2", 0.5,
         ("stage=warmup", "start={shipped}/stylegan2", f"warmup.stages=[[128, {MOST_STEPS}]]",
          "warmup.learning_rate=2e-3", "warmup.final_learning_rate=2e-5", "warmup.overdrive.probability=0.25",
          "warmup.overdrive.truncation=0.1", "trainer.gradient_clip=5")),
    Part("encoder", "encoder", "stylegan2", 0.25,
         ("start={shipped}/encoder", "training.deltas_from=0.0", "training.deltas_until=0.0"),
         {"generator": "stylegan2"}),
    Part("edits/mappers", "mapper", "stylegan2", 0.15, ("start={shipped}/edits/mappers", "latents.count=600"),
         {"generator": "stylegan2", "latents.encoder": "encoder"}),
    Part("edits/relevance", "relevance", "stylegan2", 0.1, (), {"generator": "stylegan2"}),
)  # fmt: skip
BATCHES = {"autoencoder": 32, "diffusion": 128, "stylegan2": 32, "encoder": 64, "mapper": 8}  # on a GPU
ON_CPU = {"diffusion": 32, "stylegan2": 4, "encoder": 8, "autoencoder": 4, "mapper": 2}


def train_all(minutes: float, out: Path, work: Path, shipped: Path, only: tuple[str, ...] = (),
              settings: tuple[str, ...] = (), rendered: int = 0) -> dict[str, Any]:  # fmt: skip
    """Train the parts within `minutes` and return the report. A part that fails is named in it and the next goes on.

    `settings` are PART.KEY=VALUE, over what a part sets itself; `rendered` is how many pictures WORK has already, in
    the process of one lane, which leaves the report to the one that started it. Raises InputError for a time that
    allows nothing or a part that is not known, LimnerError if every part failed.
    """
    known = [part.name for part in PARTS]
    for field, names in (("--part", only), ("--set", [split_setting(text)[0] for text in settings])):
        for name in names:
            if name not in known:
                raise InputError(field, repr(name), ", ".join(known), nearest(name, known))
    if not 1 <= minutes <= 24 * 60:
        raise InputError("--minutes", f"{minutes:g}", "1 to 1440")
    end = time.monotonic() + 60 * minutes
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = rendered or render_within(work / "cache", minutes)
    here = [part for part in PARTS if part.family != "relevance" or torch.cuda.is_available()]  # hours on a processor
    parts = [part for part in PARTS if part.name in only] if only else here
    lanes = list(dict.fromkeys(part.lane for part in parts))
    torch.backends.cudnn.benchmark = True  # few shapes, thousands of steps
    report: dict[str, Any] = {"minutes": minutes, "device": device_name(), "pictures": pictures, "parts": {}}
    if torch.cuda.is_available() and len(lanes) > 1:
        run_lanes([[part.name for part in parts if part.lane == lane] for lane in lanes], end, out, work, shipped,
                  pictures, settings)  # fmt: skip
    else:
        run_parts(parts, end, out, work, shipped, pictures, settings)
    report["parts"] = {part.name: result_of(out, part) for part in parts}
    if not rendered:
        write_atomically(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    if all("failed" in one for one in report["parts"].values()):
        raise LimnerError(f"no part could be trained; {out / REPORT} says why")
    return report


def split_setting(text: str) -> tuple[str, str]:
    """PART.KEY=VALUE as (PART, KEY=VALUE); InputError for anything else."""
    name, _, rest = text.partition(".")
    if not rest.partition("=")[1]:
        raise InputError("--set", repr(text), "PART.KEY=VALUE, such as autoencoder.start=''")
    return name, rest


def run_parts(parts: Sequence[Part], end: float, out: Path, work: Path, shipped: Path, pictures: int,
              settings: Sequence[str]) -> None:  # fmt: skip
    """Train parts one after another until `end`, writing OUT/<part>.tar, with part.json in it, for each."""
    for number, part in enumerate(parts):
        share = part.share / sum(later.share for later in parts[number:])
        seconds = (end - time.monotonic()) * share
        model = work / "models" / part.name
        try:
            result = train_part(part, seconds, work, shipped, pictures, settings)
        except Stopped:
            raise
        except Exception as reason:  # the other parts have time of their own
            log.exception("%s: %s: %s", part.name, type(reason).__name__, reason)
            result = {"failed": f"{type(reason).__name__}: {reason}"}
            shutil.rmtree(model, ignore_errors=True)
            model.mkdir(parents=True)
        write_atomically(model / RESULT, (json.dumps(result, indent=1) + "\n").encode())
        pack(model, out / f"{part.stem}.tar")
        if "failed" in result:
            shutil.rmtree(model)


def run_lanes(lanes: list[list[str]], end: float, out: Path, work: Path, shipped: Path, pictures: int,
              settings: Sequence[str]) -> None:  # fmt: skip
    """Train the named parts of each lane in a process of its own; all are ended if this one is."""
    left = max(1.0, (end - time.monotonic()) / 60)
    shared = ["--minutes", f"{left:.3f}", "--out", str(out), "--work", str(work), "--shipped", str(shipped),
              "--rendered", str(pictures)]  # fmt: skip
    shared += [word for text in settings for word in ("--set", text)]
    started = []
    try:
        for names in lanes:
            chosen = [word for name in names for word in ("--part", name)]
            started.append(subprocess.Popen([sys.executable, "-m", "limner.training.cli", "all", *shared, *chosen]))
        for process in started:
            process.wait()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()


def result_of(out: Path, part: Part) -> dict[str, Any]:
    """What part.json in a part's tar says."""
    file = out / f"{part.stem}.tar"
    if not file.is_file():
        return {"failed": "no result was written"}
    with scratch("limner-result-") as folder:
        unpack(file, folder / "part")
        found = read_json(folder / "part" / RESULT, "OUT")
    return found if isinstance(found, dict) else {"failed": f"{RESULT} is no object"}


def train_part(part: Part, seconds: float, work: Path, shipped: Path, pictures: int, settings: Sequence[str] = ()
               ) -> dict[str, Any]:  # fmt: skip
    """Train one part for about so many seconds, its figures included, and say what came of it."""
    from limner.training.running import resolve, run_family

    begun = time.monotonic()
    model, folder = work / "models" / part.name, work / "runs" / part.name
    own = [rest for name, rest in map(split_setting, settings) if name == part.name]
    run = resolve(part.family, overrides=[*settings_of(part, work, shipped), *data_settings(part, pictures), *own])
    if part.family == "relevance":
        from limner.training.families.relevance import run as relevance

        figures = relevance.predict(run, folder, model)
        return {"steps": figures["channels"], "seconds": round(time.monotonic() - begun, 1), "figures": figures}
    deadline = Deadline(begun + FOR_TRAINING * seconds, getattr(run.optimizer, "warmup", 0.0)
                        if hasattr(run, "optimizer") else 0.0)  # fmt: skip
    figures = run_family(part.family, run, folder, model, work / "cache", callbacks=(deadline,))
    settle_card(model, work / "models", shipped, deadline.steps)
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e6
    if size > LARGEST_MB:
        log.warning("%s: %.1f MB of weights, more than %.0f", part.name, size, LARGEST_MB)
    return {"steps": deadline.steps, "seconds a step": round(deadline.step_s, 4), "precision": run.trainer.precision,
            "seconds": round(time.monotonic() - begun, 1), "megabytes": round(size, 2), "figures": figures}  # fmt: skip


def settle_card(model: Path, made: Path, shipped: Path, steps: int) -> None:
    """Let a card's recipe name the steps that were taken, and what it was made from where it will be shipped."""
    card = model / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace(str(made), str(shipped)).replace(str(MOST_STEPS), str(steps))
        write_atomically(card, text.encode())


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
    if part.family == "relevance":
        return [*found, *(["relevance.chunk=100"] if gpu else [])]
    found += [f"trainer.batch_size={(BATCHES if gpu else ON_CPU)[part.family]}",
              f"trainer.precision={precision_here(part)}", f"trainer.max_steps={MOST_STEPS}",
              f"trainer.validate_every={MOST_STEPS}", "trainer.checkpoint_every=2000",
              "trainer.monitor=''", "trainer.loggers=[csv]", "trainer.validation_limit=128"]  # fmt: skip
    if gpu and part.family != "mapper":
        found.append(f"trainer.workers={WORKERS}")
    if gpu and part.compiled:
        found.append(f"{part.compiled}=true")
    if part.family == "stylegan2":
        found += ["compile=false", f"figures_of={1000 if gpu else 100}", f"warmup.ema={0.998 if gpu else 0.9}"]
    if part.family == "diffusion":
        found += [f"figures_of={100 if gpu else 10}", f"trainer.average_decay={0.9995 if gpu else 0.99}"]
    return found


def precision_here(part: Part) -> str:
    """bf16 on a GPU and on processors that multiply it themselves; small convolutions are faster in fp32 there."""
    fast = torch.cuda.is_available() or (fast_bf16() and part.name != "autoencoder")
    return "bf16-mixed" if fast else "32-true"


def data_settings(part: Part, pictures: int) -> list[str]:
    if part.family in ("mapper", "relevance"):
        return []
    return [f"data.train={pictures}", f"data.validation={held_out()}", f"data.test={held_out()}"]


def held_out() -> int:
    """Pictures that figures are measured on."""
    return 500 if torch.cuda.is_available() else 100


def render_within(cache: Path, minutes: float) -> int:
    """Render the pictures of all parts in about a tenth of the time (less without a GPU, where they are used more
    slowly too); how many there are."""
    from limner.training.avatars.dataset import AvatarsConfig, build_all

    cores = len(os.sched_getaffinity(0))
    share = 0.1 if torch.cuda.is_available() else 0.03
    wanted = int(60 * minutes * share * cores * PICTURES_A_SECOND)
    count = min(60_000, max(500, wanted // 500 * 500))
    build_all(AvatarsConfig(size=128, train=count, validation=held_out(), test=held_out()), cache)
    return count


def adopt(out: Path, shipped: Path, parts: tuple[str, ...] = (), say: Callable[[str], None] = print) -> list[Path]:
    """Put the results in OUT in the place of the shipped ones, each loaded first; returns their folders.

    Raises InputError where OUT holds no result, or one that does not load.
    """
    from limner.training.loop.saving import saved_whole

    results = {part.name: result_of(out, part) for part in PARTS if not parts or part.name in parts}
    done = [name for name, result in results.items() if "steps" in result]
    if not done:
        raise InputError("OUT", f"{out}, which holds no finished part", "the folder of `limner train all`")
    stems = {part.name: part.stem for part in PARTS}
    placed = []
    with scratch("limner-adopt-") as folder:
        for name in done:
            unpack(out / f"{stems[name]}.tar", folder / name)
            check_loads(folder / name, name)
        for name in done:
            (folder / name / RESULT).unlink()
            target = shipped / (name if name != "edits/relevance" else "edits")
            with saved_whole(target) as beside:
                shutil.copytree(folder / name, beside, dirs_exist_ok=True)
            placed.append(target)
            say(f"{target}: {results[name]['steps']} steps, {results[name].get('megabytes')} MB")
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

    if name == "edits/relevance":
        from safetensors.torch import load_file

        rows = torch.nn.Module()
        for key, value in load_file(folder / "relevance.safetensors").items():
            rows.register_buffer(key, value)
        networks: list[Any] = [rows]
    elif name == "autoencoder":
        networks = [load_autoencoder(folder)]
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
