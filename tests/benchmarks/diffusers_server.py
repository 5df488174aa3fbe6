"""The rival that most people build first: diffusers' SEGA pipeline behind FastAPI, one edit at a time under a lock.

python -m benchmarks.diffusers_server PORT
"""

import base64
import io
import sys
import threading

import torch
import uvicorn
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.deprecated.semantic_stable_diffusion import pipeline_semantic_stable_diffusion as module
from fastapi import FastAPI
from pydantic import BaseModel

from limner.runtime.bundle.shipped import checkpoints_folder

app, lock = FastAPI(), threading.Lock()


class Asked(BaseModel):
    """One edit."""

    prompt: str
    concept: str
    seed: int
    steps: int
    warmup: int


def loaded() -> module.SemanticStableDiffusionPipeline:
    """The shipped diffusion model as a semantic pipeline."""
    pipe = StableDiffusionPipeline.from_pretrained(
        checkpoints_folder() / "avatars" / "diffusion", torch_dtype=torch.float32
    )
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    parts["scheduler"] = DDIMScheduler.from_config(pipe.scheduler.config)
    found = module.SemanticStableDiffusionPipeline(**parts, requires_safety_checker=False)
    found.set_progress_bar_config(disable=True)
    return found


@app.get("/readyz")
def ready() -> dict[str, str]:
    """It listens."""
    return {"status": "ready"}


@app.post("/edit")
def edit(asked: Asked) -> dict[str, str]:
    """A picture of the prompt with the concept, PNG in base64."""
    with lock:
        image = app.state.pipe(
            asked.prompt, num_inference_steps=asked.steps, generator=torch.Generator().manual_seed(asked.seed),
            editing_prompt=[asked.concept], edit_warmup_steps=[asked.warmup], edit_momentum_scale=0.1,
        ).images[0]  # fmt: skip
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"image": base64.b64encode(buffer.getvalue()).decode()}


if __name__ == "__main__":
    app.state.pipe = loaded()
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
