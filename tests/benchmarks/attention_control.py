"""What the control inputs cost when they ask for nothing: the control UNet against the same UNet exported without them.

Both graphs come from the same weights, run in turns in one process on one thread, and are timed by the process's own
CPU time, which other work on the machine does not change.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from limner.export.diffusion.control import ControlAttention, check_plain
from limner.export.diffusion.layers import attention_layers, stride
from limner.export.diffusion.specs import unet_inputs
from limner.export.diffusion.trace import export_module
from limner.export.onnx.weights import WeightFile
from limner.export.stylegan2.graphs import OPSET
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import TensorMeta
from limner.runtime.diffusion.control import AttentionControl

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CONTROL_TARGET = 1.05  # control UNet over plain UNet
ROWS = (1, 2, 4)


@dataclass(frozen=True)
class ControlRow:
    """Median CPU milliseconds of one call, and the median of control over plain, pair by pair."""

    rows: int
    plain_ms: float
    control_ms: float
    ratio: float


class PlainUNet(nn.Module):
    """The UNet with attention written out as in the control UNet, and nothing else."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        for name in attention_layers(unet):
            check_plain(name, unet.get_submodule(name))

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        before = self.unet.attn_processors
        self.unet.set_attn_processor(ControlAttention(edited=False))
        try:
            noise: Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
            return noise
        finally:
            self.unet.set_attn_processor(before)


def write_plain(unet: UNet2DConditionModel, folder: Path) -> Path:
    """The plain graph and its weights in `folder`; not for SDXL, whose UNet takes more."""
    import torch

    inputs = unet_inputs(unet)[:3]
    side = 2 * stride(unet)
    outputs = (TensorMeta("noise_pred", "float32", inputs[0].shape),)
    example = (
        torch.randn(2, int(unet.config.in_channels), side, side + stride(unet)),
        torch.tensor([3.0, 500.0]),
        torch.randn(2, *(int(size) for size in inputs[2].shape[1:])),
    )
    model = export_module(PlainUNet(unet).eval(), example, inputs, outputs, OPSET)
    return WeightFile(folder).save(model, folder / "plain.onnx")


def control_cost(unet: UNet2DConditionModel, bundle: Bundle, repeats: int = 30) -> list[ControlRow]:
    """Time both for each number of rows."""
    import onnxruntime

    meta = bundle.diffusion
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder:
        paths = write_plain(unet, Path(folder)), bundle.file(bundle.graph("unet").file)
        plain, controlled = (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths
        )
    random = np.random.RandomState(0)
    found = []
    for rows in ROWS:
        feed = {
            "sample": random.randn(rows, meta.latent_channels, meta.sample_size, meta.sample_size).astype(np.float32),
            "timestep": np.full(rows, 500, np.float32),
            "encoder_hidden_states": random.randn(rows, 77, bundle.manifest.clip.embedding).astype(np.float32),
        }
        control = {**feed, **vars(AttentionControl.identity(rows))}
        sides = (partial(plain.run, None, feed), partial(controlled.run, ["noise_pred"], control))
        found.append(_in_turns(rows, *sides, repeats))
    return found


def _in_turns(rows: int, plain: Callable[[], object], control: Callable[[], object], repeats: int) -> ControlRow:
    times: tuple[list[float], list[float]] = ([], [])
    sides = [(plain, times[0]), (control, times[1])]
    for repeat in range(repeats + 2):
        for run, found in sides if repeat % 2 else reversed(sides):
            begin = time.process_time()
            run()
            if repeat >= 2:  # the first two warm up
                found.append(1000 * (time.process_time() - begin))
    ratio = median(b / a for a, b in zip(*times, strict=True))
    return ControlRow(rows, median(times[0]), median(times[1]), ratio)
