"""`make engines-scale`: graphs of full size, with random weights: a generator at 1024 pixels, Stable Diffusion's UNet.

Weights do not change what a compiler takes, so none are downloaded. Precision fp16 is decided by operators and
constants alone: running 860 million parameters on samples would measure noise.

    PYTHONPATH=tests python -m benchmarks.scale_engines --model generator-1024 --target sm89
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from numpy.typing import NDArray

from limner.export.diffusion.layers import choose_layers
from limner.export.diffusion.specs import unet_graph
from limner.export.precision.half import HalfConfig, half_graph
from limner.export.stylegan2.graphs import BATCH, GraphSpec, export_graph
from limner.export.stylegan2.synthesis import FastSynthesis
from limner.export.tensorrt.builders import find_builder
from limner.export.tensorrt.profiles import Profile
from limner.export.tensorrt.request import Request
from limner.export.tensorrt.rows import prepare
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.errors import InputError, nearest
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
FFHQ = StyleGAN2Config(
    size=1024, z_dim=512, w_dim=512, n_mlp=8,
    channels={4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32},
)  # fmt: skip
SD15 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """One graph of full size."""

    model: str
    precision: str
    targets: tuple[str, ...]
    parameters_millions: float
    engine_megabytes: float
    export_seconds: float
    build_seconds: float
    peak_gigabytes: float  # of the process


def generator_file(path: Path, config: StyleGAN2Config = FFHQ) -> tuple[Path, Shapes, int]:
    """Write the graph w_plus -> image of a generator with random weights; return it with its shapes and parameters."""
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    fast = FastSynthesis(generator).eval()
    w_plus: tuple[int | str, ...] = (BATCH, generator.num_ws, config.w_dim)
    spec = GraphSpec(
        "synthesis_w",
        (TensorMeta("w_plus", "float32", w_plus),),
        (TensorMeta("image", "float32", (BATCH, 3, config.size, config.size)),),
        lambda w: (fast.from_w_plus(w),),
        lambda w: (generator.synthesis(w),),
        lambda batch, rng: (torch.randn(batch, generator.num_ws, config.w_dim, generator=rng),),
    )
    ir.save(export_graph(spec), path, external_data=f"{path.name}.data")
    shape = (generator.num_ws, config.w_dim)
    return path, {"w_plus": ((1, *shape), (1, *shape), (4, *shape))}, _parameters(generator)


def tiny_unet() -> Any:
    """diffusers' UNet of three levels and few channels."""
    from diffusers import UNet2DConditionModel

    make: Any = UNet2DConditionModel  # diffusers has no types
    torch.manual_seed(0)
    levels = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    return make(
        sample_size=16, block_out_channels=(32, 64, 64), layers_per_block=1, cross_attention_dim=32,
        attention_head_dim=8, norm_num_groups=8, down_block_types=levels,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def sd15_unet() -> Any:
    """diffusers' UNet of Stable Diffusion 1.5's size, its weights random."""
    from diffusers import UNet2DConditionModel

    make: Any = UNet2DConditionModel
    torch.manual_seed(0)
    return make(**SD15).eval()


def unet_graph_file(unet: Any, path: Path) -> Path:
    """Write the control UNet."""
    unet.requires_grad_(False)
    ir.save(unet_graph(unet, choose_layers(unet)).export(), path, external_data=f"{path.name}.data")
    return path


def unet_file(path: Path, make: Callable[[], Any] = sd15_unet) -> tuple[Path, Shapes, int]:
    """The same, with its shapes and parameters."""
    unet = make()
    side, count = int(unet.config.sample_size), _parameters(unet)
    unet_graph_file(unet, path)
    return path, unet_shapes(path, side), count


def unet_shapes(path: Path, side: int) -> Shapes:
    """Shapes for half to twice a side; two rows to eight, four at best."""
    found: Shapes = {}
    for value in ir.load(path).graph.inputs:
        ends = []
        for rows, words, size in ((2, 1, side // 2), (4, 1, side), (8, 4, 2 * side)):
            sizes = {"batch": rows, "words": words, "height": size, "width": size}
            ends.append(tuple(sizes[str(d)] if isinstance(d, ir.SymbolicDim) else d for d in value.shape or ()))
        found[value.name or ""] = (ends[0], ends[1], ends[2])
    return found


def unet_feed(path: Path, batch: int, side: int) -> dict[str, NDArray[Any]]:
    """Inputs of a UNet graph with an edited and a replaced row."""
    random = np.random.default_rng(0)
    shapes = {v.name or "": v for v in ir.load(path).graph.inputs}
    sizes = {"batch": batch, "words": 2, "height": side, "width": side}
    feed: dict[str, NDArray[Any]] = {}
    for name, value in shapes.items():
        shape = [sizes[str(d)] if isinstance(d, ir.SymbolicDim) else d for d in value.shape or ()]
        feed[name] = random.standard_normal(shape).astype(np.float32)
    feed["timestep"] = np.linspace(1, 981, batch, dtype=np.float32)
    feed["source_index"] = np.zeros(batch, np.int64)
    feed["token_transfer"][2:] = 0
    feed["token_keep"], feed["blend_words"] = np.abs(feed["token_keep"]), np.abs(feed["blend_words"])
    feed["self_replace"] = (np.arange(batch) == batch - 1).astype(np.float32)
    return feed


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


MODELS: dict[str, Callable[[Path], tuple[Path, Shapes, int]]] = {
    "generator-1024": generator_file,
    "unet-sd15": unet_file,
}


def compile_model(name: str, precision: str, targets: tuple[str, ...], builder_name: str | None = None) -> Compiled:
    """Export, convert and compile one of MODELS; RefusedError names nodes that were refused."""
    builder = find_builder(builder_name)
    targets = builder.resolve_targets(targets)
    with tempfile.TemporaryDirectory(prefix="limner-scale-") as scratch:
        start = time.perf_counter()
        path, shapes, parameters = MODELS[name](Path(scratch) / "graph.onnx")
        path = prepare(path, Path(scratch))
        if precision == "fp16":
            model, _ = half_graph(path, name, HalfConfig(measure=False))
            path = Path(scratch) / "half.onnx"
            ir.save(model, path, external_data="half.data")
            del model
        gc.collect()
        exported = time.perf_counter() - start
        profiles = {key: Profile(*ends) for key, ends in shapes.items() if ends[0] != ends[2]}
        start = time.perf_counter()
        size = len(builder.build(Request(name, path, profiles, targets, precision)))  # type: ignore[arg-type]
        built = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Compiled(name, precision, targets, parameters / 1e6, size / 1e6, exported, built, peak)


def as_markdown(rows: list[Compiled]) -> str:
    """engines-scale.md."""
    lines = [
        "# Engines of full size",
        "",
        "`make engines-scale`, random weights. No engine was run. Peak memory is that",
    ]
    lines += ["of one process from export to engine; seconds are those of the machine at that time.", ""]
    lines += [
        "| model | parameters, M | precision | targets | engine, MB | export, s | build, s | peak, GB | refused |"
    ]
    lines.append("| --- " * 9 + "|")
    for row in rows:
        lines.append(
            f"| {row.model} | {row.parameters_millions:.1f} | {row.precision} | {', '.join(row.targets)} | "
            f"{row.engine_megabytes:.1f} | {row.export_seconds:.0f} | {row.build_seconds:.0f} | "
            f"{row.peak_gigabytes:.1f} | none |"
        )
    return "\n".join(lines) + "\n"


@app.command()
def main(
    model: Annotated[list[str] | None, typer.Option(help=f"{', '.join(MODELS)}; all if not given.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="GPU architectures; sm89 if not given.")] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    builder: Annotated[str | None, typer.Option(help="tensorrt or tensorrt-rtx.")] = None,
    out: Annotated[Path, typer.Option(help="Where engines-scale.md and .json go.")] = Path("docs/figures"),
) -> None:
    """Compile, print, and write the table; models that were compiled before stay in it."""
    for name in model or ():
        if name not in MODELS:
            raise InputError("model", repr(name), ", ".join(MODELS), nearest(name, MODELS))
    targets = tuple(name for names in target or ("sm89",) for name in names.split(","))
    table = out / "engines-scale.json"
    rows = [Compiled(**row) for row in json.loads(table.read_text())] if table.is_file() else []
    for name in model or MODELS:
        row = compile_model(name, precision, targets, builder)
        print(f"{name}: {row}", file=sys.stderr, flush=True)
        rows = [old for old in rows if (old.model, old.precision) != (name, precision)] + [row]
        out.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n", encoding="utf-8")
        (out / "engines-scale.md").write_text(as_markdown(rows), encoding="utf-8")
    print(as_markdown(rows))


if __name__ == "__main__":
    app()
