"""`make sd15-scale`: a pipeline of Stable Diffusion 1.5's size with random weights, exported, checked and edited with.

Weights do not change what export and runtime must carry, so none are downloaded. Every stage is a process of its
own, whose peak memory is measured by the system.

    PYTHONPATH=tests python -m benchmarks.scale_diffusion run --steps 2
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.errors import LimnerError

HERE = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
}  # where a process of its own finds this package
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
UNET: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8}  # fmt: skip
VAE: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
       "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
       "sample_size": 512, "scaling_factor": 0.18215}  # fmt: skip
TEXT: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}  # fmt: skip


@app.command("write")
def write_pipeline(folder: Path) -> None:
    """Write the pipeline's folder, weights drawn at random and kept in fp16."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from limner.training.models.diffusion import SCHEDULER, save_pipeline

    tokens = checkpoints_folder() / "avatars" / "clip"
    count = len(json.loads((tokens / "vocab.json").read_text(encoding="utf-8")))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=count, bos_token_id=count - 2, eos_token_id=count - 1, pad_token_id=count - 1, **TEXT
    ))  # fmt: skip
    save_pipeline(folder, unet, AutoencoderKL(**VAE), text, tokens, SCHEDULER)
    print(json.dumps({"unet, parameters": sum(weight.numel() for weight in unet.parameters())}))


def measured(*command: str) -> dict[str, Any]:
    """Run a command that prints JSON; what it printed, with its seconds and its peak memory in GiB."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=output, env=os.environ | HERE)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read().decode()
    if process.returncode:
        raise LimnerError(f"`{' '.join(command)}` ended with exit code {process.returncode}")
    found = {"seconds": round(time.monotonic() - start, 1), "peak, GiB": round(usage.ru_maxrss / 2**20, 2)}
    return {**found, "printed": json.loads(printed)}


def run_scale(folder: Path, steps: int = 2) -> dict[str, dict[str, Any]]:
    """Write, export and edit in `folder`; the figures of each stage."""
    model, bundle, picture = folder / "sd15", folder / "sd15_bundle", folder / "edited.png"
    edit = ["edit", "seed:0", "--source-prompt", "a person with red hair", "--prompt", "a person with blonde hair",
            "--method", "prompt-to-prompt", "--set", f"steps={steps}", "--bundle", str(bundle), "-o", str(picture),
            "--json"]  # fmt: skip
    return {
        "write": measured("benchmarks.scale_diffusion", "write", str(model)),
        "export": measured(
            "limner.runtime",
            "export",
            "onnx",
            "--model",
            str(model),
            "--out",
            str(bundle),
            "--name",
            "sd15",
            "--batches",
            "1",
            "--json",
        ),
        "edit": measured("limner.runtime", *edit),
    }


@app.command("run")
def main(
    steps: Annotated[int, typer.Option(help="Sampling steps of the edit.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Keep everything here; a temporary folder if not given.")] = None,
) -> None:
    """Write, export, check and edit; print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(run_scale(folder or Path(temporary), steps), indent=2))


if __name__ == "__main__":
    app()
