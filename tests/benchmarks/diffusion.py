"""`make bench-diffusion`: edits of a diffusion bundle in the runtime, beside diffusers eager on the same weights.

- SEGA: `SemanticStableDiffusionPipeline`, against the method `sega`, for several sets of concepts.
- Prompt-to-Prompt, one edit of one picture: the published loop in torch (four rows a step, every attention map made,
  edited and applied), against the method `prompt-to-prompt`.
- The UNet alone: a call in torch eager, with identity control in the runtime, and its multiply-adds a second beside
  those of a large matrix product; and against the same UNet exported without control (`bench_control`).

Both sides take turns with equal threads and the same steps; text encoder and VAE are left out; medians are compared.
Writes benchmarks-diffusion.md and .json into --out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.attention_control import CONTROL_TARGET, ControlRow, control_cost
from benchmarks.stylegan2 import NO_GPU, machine
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.recipe import PromptEdit, Recipe, Source

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TARGET = 2.0  # how much faster an edit shall be than diffusers eager
PROMPT, EDITED = "a person with red hair", "a person with blue hair"
CONCEPTS = ("glasses", "a beard", "a hat")
SETS: dict[str, tuple[int, dict[str, Any]]] = {  # name -> how many concepts, parameters of both sides
    "one concept, published settings": (1, {}),
    "three concepts, published settings": (3, {}),
    "three concepts, no momentum, cool-down at 60 %": (3, {"momentum_scale": 0.0, "cooldown": 0.6}),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Row:
    """One thing that was timed on both sides, medians of milliseconds."""

    what: str
    threads: int
    eager_ms: float
    runtime_ms: float
    ratio: float  # eager / runtime


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    machine: dict[str, Any]
    model: str
    steps: int
    rows: list[Row] = field(default_factory=list)
    unet: dict[str, float] = field(default_factory=dict)
    control: list[ControlRow] = field(default_factory=list)


def first_noise(editor: Editor) -> Tensor:
    """Noise of the model's own size [1,C,h,w]."""
    meta = editor.bundle.diffusion
    return torch.randn(1, meta.latent_channels, meta.sample_size, meta.sample_size)


def sega_sides(
    pipe: StableDiffusionPipeline, editor: Editor, steps: int, count: int, settings: dict[str, Any]
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Two functions that edit once and return the milliseconds of sampling."""
    from diffusers.pipelines.deprecated.semantic_stable_diffusion import pipeline_semantic_stable_diffusion as module

    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    semantic = module.SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
    semantic.set_progress_bar_config(disable=True)
    cooldown = int(settings["cooldown"] * steps) if "cooldown" in settings else None
    momentum, warmup = settings.get("momentum_scale", 0.1), min(10, steps // 5)
    texts = list(CONCEPTS[:count])
    latents = first_noise(editor)

    def eager() -> float:
        begin = time.perf_counter()
        semantic(
            PROMPT,
            num_inference_steps=steps,
            latents=latents,
            output_type="latent",
            editing_prompt=texts,
            edit_warmup_steps=[warmup] * count,
            edit_cooldown_steps=None if cooldown is None else [cooldown] * count,
            edit_momentum_scale=momentum,
        )
        return 1000 * (time.perf_counter() - begin)

    options = {"warmup": warmup, "cooldown": cooldown}
    prompts = tuple(PromptEdit(text, options=options) for text in texts)
    recipe = Recipe(
        "sega", Source.from_prompt(PROMPT, 0), prompts, {"steps": steps, "sampler": "ddim", "momentum_scale": momentum}
    )
    return eager, lambda: editor.edit(recipe).timing["sampling"]


class EditedMaps:
    """A diffusers attention processor in the published way: all maps of a layer at once, the last row edited."""

    def __init__(self, control: dict[str, Any]) -> None:
        self.control = control

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(project(x))
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        maps = attn.get_attention_scores(q, k)  # [4 H,P,77 or P]: unconditional, then source and edit
        rows = maps.unflatten(0, (4, -1))
        if encoder_hidden_states is not None:
            rows[3] = rows[2] @ self.control["transfer"] + rows[3] * self.control["keep"]
        elif self.control["self"] and maps.shape[1] <= 256:
            rows[3] = rows[2]
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(rows.flatten(0, 1), v)))


@torch.no_grad()
def published_edit(pipe: StableDiffusionPipeline, steps: int, latents: Tensor) -> Tensor:
    """Word swap by the published loop: four rows a step."""
    states, uncond = (pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ([PROMPT, EDITED], ["", ""]))
    context, scheduler, unet = torch.cat([uncond, states]), pipe.scheduler, pipe.unet
    control = {"transfer": torch.eye(77), "keep": torch.zeros(77), "self": True}
    before = unet.attn_processors
    unet.set_attn_processor(EditedMaps(control))
    scheduler.set_timesteps(steps)
    try:
        for index, timestep in enumerate(scheduler.timesteps):
            if index == int(0.8 * steps):
                control |= {"transfer": torch.zeros(77, 77), "keep": torch.ones(77)}
            control["self"] = index < int(0.4 * steps)
            output = unet(torch.cat([latents] * 2), timestep, encoder_hidden_states=context).sample
            none, text = output.chunk(2)
            latents = scheduler.step(none + 7.5 * (text - none), timestep, latents).prev_sample
    finally:
        unet.set_attn_processor(before)
    return latents


def prompt_sides(
    pipe: StableDiffusionPipeline, editor: Editor, steps: int
) -> tuple[Callable[[], float], Callable[[], float]]:
    """The same for one Prompt-to-Prompt edit."""
    latents = first_noise(editor).expand(2, -1, -1, -1)

    def eager() -> float:
        begin = time.perf_counter()
        published_edit(pipe, steps, latents)
        return 1000 * (time.perf_counter() - begin)

    parameters = {"steps": steps, "sampler": "ddim", "cross_replace": 0.8, "self_replace": 0.4}
    recipe = Recipe("prompt-to-prompt", Source.from_prompt(PROMPT, 0), (PromptEdit(EDITED),), parameters)
    return eager, lambda: editor.edit(recipe).timing["sampling"]


def in_turns(what: str, threads: int, sides: tuple[Callable[[], float], Callable[[], float]], repeats: int) -> Row:
    """Time both sides in turns; the first turn warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, found in zip(sides, times, strict=True):
            value = side()
            if repeat:
                found.append(value)
    eager, runtime = (median(found) for found in times)
    return Row(what, threads, eager, runtime, eager / runtime)


def unet_figures(pipe: StableDiffusionPipeline, editor: Editor, repeats: int, rows: int = 2) -> dict[str, float]:
    """Milliseconds of a call on both sides, multiply-adds, and GFLOP/s beside a large matrix product's."""
    from torch.utils.flop_counter import FlopCounterMode

    engine: Any = editor.engine
    meta, networks = editor.bundle.diffusion, engine.networks
    shape = (rows, meta.latent_channels, meta.sample_size, meta.sample_size)
    sample = np.random.RandomState(0).randn(*shape).astype(np.float32)
    states = networks.token_states([PROMPT] * rows)
    tensors = torch.from_numpy(sample), torch.tensor(500), torch.from_numpy(states)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipe.unet(*tensors)
    flops = float(counter.get_total_flops())

    def clock(run: Callable[[], object]) -> float:
        run()
        found = []
        for _ in range(max(5, repeats)):
            begin = time.perf_counter()
            run()
            found.append(time.perf_counter() - begin)
        return median(found)

    with torch.no_grad():
        eager = clock(lambda: pipe.unet(*tensors))
    runtime = clock(lambda: networks.unet(sample, 500.0, states))
    one = np.random.RandomState(1).randn(1024, 1024).astype(np.float32)
    product = clock(lambda: one @ one)
    return {
        "rows": float(rows),
        "multiply_adds": flops / 2,
        "eager_ms": 1000 * eager,
        "runtime_ms": 1000 * runtime,
        "runtime_gflops": flops / runtime / 1e9,
        "matrix_product_gflops": 2 * 1024**3 / product / 1e9,
    }


def as_markdown(report: Report) -> str:
    """benchmarks-diffusion.md."""
    about = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    lines = ["# Benchmarks of diffusion", "", f"`make bench-diffusion` on this machine: {about}.", "", NO_GPU, ""]
    lines += [f"Model: {report.model}. {report.steps} steps; both sides take turns with equal threads; medians.", ""]
    lines += ["| what | threads | diffusers eager, ms | runtime, ms | faster by |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.what} | {r.threads} | {r.eager_ms:.0f} | {r.runtime_ms:.0f} | {r.ratio:.2f} |" for r in report.rows
    ]
    lines += ["", "A call of the UNet:", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value:.4g} |" for name, value in report.unet.items()]
    lines += ["", "Identity control against the plain UNet, one thread, CPU time:", ""]
    lines += ["| rows | plain, ms | control, ms | ratio |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.rows} | {r.plain_ms:.1f} | {r.control_ms:.1f} | {r.ratio:.3f} |" for r in report.control]
    return "\n".join(lines) + "\n"


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="Diffusers folder.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle made from it.")] = None,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("docs/figures"),
    threads: Annotated[list[int] | None, typer.Option(help="CPU threads; 1 if not given.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each edit.")] = 3,
) -> None:
    """Measure, print, and write benchmarks-diffusion.md and benchmarks-diffusion.json."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    folder = model or checkpoints_folder() / "avatars" / "diffusion"
    if not (folder / "model_index.json").is_file():
        raise InputError("model", f"no model_index.json in {str(folder)!r}", "a folder in diffusers' format")
    loaded = load_bundle(bundle or shipped_bundle("diffusion"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rows: list[Row] = []
    counts: Sequence[int] = threads or (1,)
    unet: dict[str, float] = {}
    for count in counts:
        torch.set_num_threads(count)
        editor = Editor(loaded, threads=count)
        for name, (concepts, settings) in SETS.items():
            rows.append(in_turns(f"SEGA, {name}", count, sega_sides(pipe, editor, steps, concepts, settings), repeats))
        rows.append(in_turns("Prompt-to-Prompt, word swap", count, prompt_sides(pipe, editor, steps), repeats))
        unet = unet or unet_figures(pipe, editor, repeats)
    report = Report(machine(), folder.name, steps, rows, unet, control_cost(pipe.unet, loaded))
    text = as_markdown(report)
    (out / "benchmarks-diffusion.md").write_text(text, encoding="utf-8")
    (out / "benchmarks-diffusion.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    print(text)
    slow = [f"{row.ratio:.2f} for {row.what}" for row in rows if row.ratio < TARGET]
    costly = [f"{row.ratio:.3f} at {row.rows} rows" for row in report.control if row.ratio > CONTROL_TARGET]
    if costly:
        print(f"control costs more than {CONTROL_TARGET}: {'; '.join(costly)}", file=sys.stderr)
    if slow:
        print(f"below the target of {TARGET}: {'; '.join(slow)}", file=sys.stderr)


if __name__ == "__main__":
    app()
