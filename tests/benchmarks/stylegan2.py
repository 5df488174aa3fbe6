"""`make bench`: how long the runtime takes on this machine, beside the same step in torch eager.

- A step of latent optimization: gradient graph and Adam in numpy, against forward, backward and torch.optim.Adam on
  the networks as they were trained, weights frozen. Both sides take turns, with equal threads; medians are compared.
- An edit with global directions on a picture that is inverted each time, warm, split by stage.
- Cold start of `limner --help`, a process each time.

Writes benchmarks.md and benchmarks.json into --out.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from numpy.typing import NDArray

from limner.export.stylegan2.gradient_graph import INPUTS, LatentLoss
from limner.export.stylegan2.graphs import Sampler
from limner.export.stylegan2.networks import Networks, load_networks
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.editor import Editor
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.stylegan2.adam import Adam, AdamConfig
from limner.runtime.stylegan2.descent import LOSSES
from limner.runtime.stylegan2.networks import Models

TARGET = 1.5  # how much faster a step of the runtime shall be than torch eager
STAGES = ("source", "text", "affine", "synthesis", "scores", "total")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


NO_GPU = "Everything here ran on the CPU: no GPU run was made."


@dataclass(frozen=True)
class StepTiming:
    """One step of latent optimization, medians of milliseconds."""

    threads: int
    batch: int
    torch_ms: float
    runtime_ms: float
    ratio: float  # torch / runtime
    repeats: int


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    machine: dict[str, Any]
    steps: list[StepTiming] = field(default_factory=list)
    edit_ms: dict[str, float] = field(default_factory=dict)  # stage -> median
    edit_new_words_ms: dict[str, float] = field(default_factory=dict)  # the same with texts not seen before
    help_s: list[float] = field(default_factory=list)
    load_ms: dict[str, float] = field(default_factory=dict)  # graph -> loading


def torch_step(networks: Networks, inputs: Sequence[torch.Tensor], rate: float = 0.01) -> Callable[[], torch.Tensor]:
    """A function that makes one step of latent optimization in torch eager and returns w_plus."""
    loss = LatentLoss(networks.generator.synthesis, networks.clip_image, networks.identity)
    w_plus = inputs[0].clone().requires_grad_(True)
    *targets, weights = inputs[1:]
    optimizer = torch.optim.Adam([w_plus], lr=rate)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        *terms, _ = loss.terms(w_plus, *targets)
        total = torch.stack([(term * weight).sum() for term, weight in zip(terms, weights, strict=True)]).sum()
        total.backward()
        optimizer.step()
        return w_plus

    return step


def runtime_step(
    models: Models, inputs: Sequence[torch.Tensor], rate: float = 0.01
) -> Callable[[], NDArray[np.float32]]:
    """The same step in the runtime."""
    names = {"w_plus": "latents", "w_plus_source": "source"}
    feed = {names.get(name, name): tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
    adam = Adam(AdamConfig(learning_rate=rate))

    def step() -> NDArray[np.float32]:
        found = models.latent_gradient(**feed, only=[*LOSSES, "gradient"])
        feed["latents"] = adam.step(feed["latents"], found["gradient"]).astype(np.float32)
        return feed["latents"]

    return step


def compare_steps(networks: Networks, bundle: Bundle, threads: int, batch: int, repeats: int) -> StepTiming:
    """Time both steps in turns."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    inputs = Sampler(networks).latent_gradient(batch, torch.Generator().manual_seed(0))
    steps: tuple[Callable[[], object], Callable[[], object]]
    steps = (torch_step(networks, inputs), runtime_step(Models(bundle, threads=threads), inputs))
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 3):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if repeat >= 3:  # the first ones warm up
                found.append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(before)
    eager, runtime = (median(found) for found in times)
    return StepTiming(threads, batch, eager, runtime, eager / runtime, repeats)


def time_edits(editor: Editor, repeats: int, new_words: bool) -> dict[str, float]:
    """Median milliseconds by stage of a global-directions edit on a picture that was not seen before."""
    prompt = PromptEdit("a person with a beard", options={"neutral": "a person", "beta": 0.0})
    stages: dict[str, list[float]] = {}
    for seed in range(repeats + 2):
        picture = editor.sample(1000 + seed + repeats * new_words).image
        words = f"a person with {seed} beards" if new_words else prompt.text
        recipe = Recipe(
            "global-directions",
            Source("image"),
            (PromptEdit(words, options=prompt.options),),
        )
        timing = editor.edit(recipe, given=picture).timing
        if seed >= 2:
            for name, value in timing.items():
                stages.setdefault(name, []).append(value)
    return {name: median(values) for name, values in stages.items()}


def time_help(repeats: int) -> list[float]:
    """Seconds of `limner --help`, each in a process of its own."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "limner.runtime", "--help"], check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": name, "cores": os.cpu_count(), "load_average": load} | versions


def as_markdown(report: Report) -> str:
    """benchmarks.md."""
    about = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    lines = ["# Benchmarks", "", f"`make bench` on this machine: {about}.", "", NO_GPU, ""]
    if report.steps:
        lines += ["## A step of latent optimization", "", "Medians; both sides take turns with equal threads.", ""]
        lines += ["| threads | batch | torch eager, ms | runtime, ms | faster by |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {s.threads} | {s.batch} | {s.torch_ms:.1f} | {s.runtime_ms:.1f} | {s.ratio:.2f} |" for s in report.steps
        ]
    if report.edit_ms:
        lines += ["", "## An edit with global directions, warm, milliseconds", ""]
        lines += ["`source` is the inversion of a picture by the encoder.", ""]
        names = [name for name in STAGES if name in report.edit_ms]
        lines += [f"| words | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
        for label, found in (("known", report.edit_ms), ("new", report.edit_new_words_ms)):
            lines.append(f"| {label} | {' | '.join(f'{found.get(name, 0):.1f}' for name in names)} |")
    if report.load_ms:
        lines += ["", "## Loading a graph, milliseconds", "", "| graph | ms |", "| --- | --- |"]
        lines += [f"| {name} | {value:.0f} |" for name, value in report.load_ms.items()]
    if report.help_s:
        best, middle = min(report.help_s), median(report.help_s)
        lines += ["", "## Cold start", "", f"`limner --help`: {middle:.2f} s (median), {best:.2f} s (best)."]
    return "\n".join(lines) + "\n"


@app.command()
def main(
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of the torch checkpoints.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle made from them.")] = None,
    out: Annotated[Path, typer.Option(help="Where benchmarks.md and benchmarks.json go.")] = Path("docs/figures"),
    threads: Annotated[list[int] | None, typer.Option(help="CPU threads; 1 and all cores if not given.")] = None,
    batches: Annotated[list[int] | None, typer.Option(help="Batch sizes; 1 and 4 if not given.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Repeats of each measurement.")] = 15,
) -> None:
    """Measure, print, and write benchmarks.md and benchmarks.json."""
    folder = checkpoints or checkpoints_folder() / "avatars"
    loaded = load_bundle(bundle or folder / "bundle")
    networks = load_networks(folder, loaded.manifest.clip.preprocess)
    steps = [
        compare_steps(networks, loaded, count, batch, repeats)
        for count in threads or sorted({1, os.cpu_count() or 1})
        for batch in batches or (1, 4)
    ]
    editor = Editor(loaded)
    load_ms = editor.warm("latent-optimization", "global-directions")
    edits: list[dict[str, float]] = [{}, {}]
    if loaded.manifest.relevance is not None:
        edits = [time_edits(editor, repeats, new_words) for new_words in (False, True)]
    report = Report(
        machine(), steps, edit_ms=edits[0], edit_new_words_ms=edits[1], help_s=time_help(5), load_ms=load_ms
    )
    text = as_markdown(report)
    (out / "benchmarks.md").write_text(text, encoding="utf-8")
    (out / "benchmarks.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    print(text)
    slow = [f"{s.ratio:.2f} with {s.threads} threads, batch {s.batch}" for s in steps if s.ratio < TARGET]
    if slow:
        print(f"below the target of {TARGET}: {'; '.join(slow)}", file=sys.stderr)


if __name__ == "__main__":
    app()
