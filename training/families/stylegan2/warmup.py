"""Warm start of the StyleGAN2 synthesis network: from known options to pixels.

Each avatar's options are a code [N, code_size] (one-hot blocks and the pose). A fixed linear embedding E turns it
into w, and synthesis is trained to draw the picture: it learns every part of the drawing before the adversarial
stage begins. What is trained of the affine layers is the response R = A E^T of each style channel to each choice,
so that Adam scales rare and small choices (a mouth) by their own gradients; A follows. Three habits make the
latent space one that edits well:

* jitter: each layer's code of options is disturbed a little, so that pictures are stable around their latents;
* code blending: a little of another avatar's code is mixed in, so that off-target leaks are absorbed;
* sparse styles: the response of style channels to each choice is soft-thresholded now and then, so that a
  style channel answers to few attributes (and to_rgb styles, which global directions never edit, to fewer).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.training.avatars.attributes import POSE_NAMES, StyleSpec
from limner.training.avatars.dataset import image_float
from limner.training.families.patch_terms import patch_terms
from limner.training.families.stylegan2.overdrive import Overdrive, OverdriveConfig
from limner.training.loop.muon import Muon
from limner.training.models.patches import PatchDiscriminator
from limner.training.models.stylegan2 import Generator, SynthesisState


@dataclass(frozen=True)
class WarmupConfig:
    """Recipe of the warm start."""

    stages: tuple[tuple[int, int], ...] = ((64, 6000), (128, 12000))  # (resolution, steps)
    learning_rate: float = 3e-3  # of the synthesis network
    final_learning_rate: float = 2e-4  # cosine decay over the last stage
    ema: float = 0.999  # decay of the average that is kept
    jitter: float = 0.1  # standard deviation of the noise on the codes of options
    pose_jitter: float = 0.0  # the same of poses, whose limits are about a pixel: more than 0.02 blurs every edge
    blend: float = 0.2  # largest share of another code
    blend_probability: float = 0.25  # share of the codes that are mixed
    shrink: float = 1.5e-3  # soft threshold on the styles' responses, see `shrink_styles`; 0 for none
    shrink_every: int = 10  # steps
    to_rgb_shrink: float = 5.0  # times as strong for to_rgb styles
    gradient_weight: float = 1.0  # weight of the L1 of picture gradients
    response_rate: float = 2e-3  # learning rate of the styles' responses to choices
    kernel_rate: float = 0.0  # learning rate of Muon for 3 x 3 kernels; 0 leaves them to Adam with the others
    focus_box: tuple[float, float, float, float] = (0.28, 0.26, 0.72, 0.72)  # left, top, right, bottom: the face
    focus_weight: float = 3.0  # times as much as the rest that pixels inside the box count
    edge_weight: float = 4.0  # how much more edges of the target count in the L1
    overdrive: OverdriveConfig = field(default_factory=OverdriveConfig)
    window_every: int = 0  # every so many steps only the face is drawn, at less than half of the cost; 0 for never
    window: tuple[int, int] = (8, 24)  # rows and columns of the 32 px features that are kept then
    window_margin: int = 2  # of these, at each side, is left out of the loss: it is wrong at the cut
    mouth_box: tuple[float, float, float, float] = (0.41, 0.53, 0.59, 0.66)  # inside the window, as focus_box
    mouth_weight: float = 1.0  # times as much as the rest of the window that it counts
    adversarial: float = 0.0  # weight of a patch discriminator on what is drawn, before the ratio of gradients
    adversarial_from: float = 0.5  # share of the steps without it


class CodeEmbedding(nn.Module):
    """Linear map from option codes [N, code_size] to w [N, w_dim]; rows sum to unit variance a dimension."""

    def __init__(self, style: StyleSpec, w_dim: int) -> None:
        super().__init__()
        self.style = style
        sizes = [len(o.choices) for o in style.options]
        self.sizes = [*sizes, len(POSE_NAMES)]
        scale = torch.full((sum(self.sizes),), len(sizes) ** -0.5)
        scale[-len(POSE_NAMES) :] *= 0.6
        self.weight = nn.Parameter(torch.randn(sum(self.sizes), w_dim) * scale[:, None])

    def encode(self, options: Tensor, pose: Tensor) -> Tensor:
        """options int64 [N, n_options], pose [N, 4] -> code [N, code_size]."""
        blocks = [F.one_hot(options[:, i], n) for i, n in enumerate(self.sizes[:-1])]
        return torch.cat([*[b.float() for b in blocks], pose], 1)

    def forward(self, code: Tensor) -> Tensor:
        return code @ self.weight


def edge_map(image: Tensor) -> Tensor:
    """Local contrast [N,1,H,W]: largest absolute difference to the right and lower neighbour."""
    dx = F.pad((image[..., 1:] - image[..., :-1]).abs(), (0, 1))
    dy = F.pad((image[..., 1:, :] - image[..., :-1, :]).abs(), (0, 0, 0, 1))
    return F.max_pool2d((dx + dy).amax(1, keepdim=True), 3, 1, 1)


def drawing_loss(made: Tensor, target: Tensor, config: WarmupConfig, focus: Tensor | None = None) -> Tensor:
    """L1 weighted towards edges and by `focus` [H,W] (the focus box if not given), plus the L1 of horizontal and
    vertical differences."""
    if focus is None:
        focus = focus_map(target.shape[-1], config.focus_box, config.focus_weight)
    error = (made - target) * focus.to(target)
    weight = 1 + config.edge_weight * edge_map(target)
    gradient = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return (error.abs() * weight).mean() + config.gradient_weight * gradient


def focus_map(size: int, box: tuple[float, float, float, float], weight: float) -> Tensor:
    """Weights [size, size]: `weight` inside the box (left, top, right, bottom as shares of the size), 1 outside."""
    left, top, right, bottom = (round(share * size) for share in box)
    weights = torch.ones(size, size)
    weights[top:bottom, left:right] = weight
    return weights


class WarmupModule(pl.LightningModule):
    """Losses and logging of the warm start. `generator` and `embedding` are trained; EMA copies are kept."""

    def __init__(self, generator: Generator, embedding: CodeEmbedding, config: WarmupConfig,
                 compile_synthesis: bool = False, bf16: bool = True, learn_responses: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.generator, self.embedding, self.config = generator, embedding, config
        embedding.requires_grad_(False)
        self.overdrive = Overdrive(embedding.style, config.overdrive)
        book = embedding.weight.detach()
        self.register_buffer("inverse", torch.linalg.pinv(book.double()).float(), persistent=False)  # [w_dim, K]
        self.responses = nn.ParameterList()  # R [C, K] of each layer; none where the affine weights themselves learn
        for layer in generator.layers if learn_responses else ():
            affine = generator.conv(layer).modulation
            self.responses.append(nn.Parameter(affine.weight.detach() @ book.T * affine.scale))
            affine.weight.requires_grad_(False)  # follows the responses
        generator.compute_dtype = torch.bfloat16 if bf16 else torch.float32
        self.ema = torch.optim.swa_utils.AveragedModel(
            nn.ModuleList([generator, embedding]),
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema),
        )
        self.discriminator = PatchDiscriminator(32) if config.adversarial and learn_responses else None
        self.max_steps = sum(steps for _, steps in config.stages)
        self._draw = torch.compile(self._synthesize) if compile_synthesis else self._synthesize
        self._draw_face = torch.compile(self._synthesize_window) if compile_synthesis else self._synthesize_window

    inverse: Tensor

    def stage_resolution(self, step: int) -> int:
        for resolution, steps in self.config.stages:
            if step < steps:
                return resolution
            step -= steps
        return self.config.stages[-1][0]

    def _synthesize(self, style_channels: Tensor, until: int) -> Tensor:
        state = self.generator.advance(self.generator.start(style_channels.shape[0]), style_channels, until, "none")
        if state.skip is None:
            raise RuntimeError("synthesis made no picture")
        return state.skip

    def _draw_window(self, style_channels: Tensor, resolution: int) -> tuple[Tensor, slice]:
        """The face alone. Returns what was made, [N,3,h,w], and which rows and columns of the picture these are."""
        (start, stop), margin, times = self.config.window, self.config.window_margin, resolution // 32
        made = self._draw_face(style_channels, self._layers_until(32), self._layers_until(resolution))
        inner = slice(margin * times, (stop - start - margin) * times)
        seen = slice((start + margin) * times, (stop - margin) * times)
        return made[..., inner, inner], seen

    def _synthesize_window(self, style_channels: Tensor, whole: int, until: int) -> Tensor:
        """The first `whole` layers, those up to 32 px, then the ones before `until` on a window of the features."""
        start, stop = self.config.window
        generator = self.generator
        state = generator.advance(generator.start(len(style_channels)), style_channels, whole, "none")
        if state.skip is None:
            raise RuntimeError("synthesis made no picture")
        cut = (..., slice(start, stop), slice(start, stop))
        state = SynthesisState(state.done, state.x[cut], state.skip[cut])
        made = generator.advance(state, style_channels, until, "none").skip
        if made is None:
            raise RuntimeError("synthesis made no picture")
        return made

    def _layers_until(self, resolution: int) -> int:
        return sum(s.resolution <= resolution for s in self.generator.layers)

    def _styles(self, batch: dict[str, Tensor]) -> Tensor:
        """Style channels [N, S] of the batch's pictures, disturbed as the config says."""
        config, generator = self.config, self.generator
        code = self.embedding.encode(batch["options"].cpu(), batch["pose"].cpu())  # draws are the processor's
        share = torch.rand(len(code), 1) * config.blend * (torch.rand(len(code), 1) < config.blend_probability)
        mixed = code.lerp(code[torch.randperm(len(code))], share)
        mixed[:, -len(POSE_NAMES) :] = code[:, -len(POSE_NAMES) :]  # a pose is not absorbed
        codes, rgb_codes, thresholds = self.overdrive(mixed, generator.num_ws, batch.get("stand_in"))
        amount = torch.full(codes.shape[-1:], config.jitter)
        amount[-len(POSE_NAMES) :] = config.pose_jitter
        noise = amount * torch.randn(codes.shape)
        device = generator.latent_avg.device  # the module itself may be no part of what is trained
        styles = self.affine((codes + noise).to(device))
        if not self.config.overdrive.moves:
            return styles
        rgb_styles = self.affine((rgb_codes + noise).to(device))
        is_rgb = torch.cat([torch.full((s.channels,), s.kind == "to_rgb") for s in generator.layers]).to(styles.device)
        kept = is_rgb
        if self.config.overdrive.sparse:
            kept = is_rgb | ~self.moves_most(styles - rgb_styles, thresholds.to(device), ~is_rgb)
        return torch.where(kept, rgb_styles, styles)

    @torch.no_grad()
    def moves_most(self, offset: Tensor, thresholds: Tensor, counted: Tensor) -> Tensor:
        """Which style channels [N, S] an offset [N, S] moves by at least `thresholds` [N] of the largest among the
        `counted` [S] ones, in deviations of each channel over the options' own frequencies (and a hundredth of the
        mean one, for channels that hardly vary)."""
        shares = self.overdrive.mean.to(offset)  # [K]
        codes = torch.eye(len(shares)).to(offset)[:, None].expand(-1, self.generator.num_ws, -1)
        responses = self.affine(codes) - self.affine(torch.zeros_like(codes[:1]))  # [K, S]
        blocks = (shares[:, None] * responses).split(self.embedding.sizes)
        variance = (shares[:, None] * responses.square()).sum(0) - sum(block.sum(0).square() for block in blocks)
        size = offset.abs() / (variance.clamp(min=0).sqrt() + 0.01 * variance.clamp(min=0).mean().sqrt() + 1e-9)
        return size >= thresholds[:, None] * (size * counted).amax(1, keepdim=True)

    @property
    def rate_factor(self) -> float:
        """The learning rate as a share of its largest: a proximal step is as long as the gradient's beside it."""
        schedulers = self.trainer.lr_scheduler_configs if self._trainer is not None else []
        return float(schedulers[0].scheduler.get_last_lr()[0]) / self.config.learning_rate if schedulers else 1.0

    @torch.no_grad()
    def shrink_styles(self, amount: float) -> None:
        """Proximal step of an L1 penalty on the styles' response to every choice: soft-thresholding by `amount`.

        The responses of a layer, centred within each option, are R [C, K]; Adam would drown the same penalty as a
        loss. The mean over an option's choices belongs to the bias.
        """
        for layer, response in zip(self.generator.layers, self.responses, strict=True):
            limit = amount * (self.config.to_rgb_shrink if layer.kind == "to_rgb" else 1.0)
            blocks = response.split(self.embedding.sizes, 1)
            centred = torch.cat([*[b - b.mean(1, keepdim=True) for b in blocks[:-1]], blocks[-1]], 1)
            response.sub_(centred.clamp(-limit, limit))

    @torch.no_grad()
    def write_affine(self) -> None:
        """The affine weights A [C, w_dim] that give the responses R = A E^T [C, K]: A = R pinv(E)^T."""
        for layer, response in zip(self.generator.layers, self.responses, strict=True):
            affine = self.generator.conv(layer).modulation
            affine.weight.copy_(response @ self.inverse.T / affine.scale)

    def affine(self, codes: Tensor) -> Tensor:
        """Style channels [N, S] of codes per layer [N, L, K], by the responses where there are any."""
        if not len(self.responses):
            return self.generator.affine(self.embedding.to(codes.device)(codes))
        rows, generator = codes.unbind(1), self.generator
        parts = [F.linear(rows[layer.w_index], response, generator.conv(layer).modulation.bias)
                 for layer, response in zip(generator.layers, self.responses, strict=True)]  # fmt: skip
        return torch.cat(parts, 1)

    def full_drawing_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The drawing loss at full size, for stages that hold on to the warm start."""
        made = self._draw(self._styles(batch), len(self.generator.layers))
        return drawing_loss(made, image_float(batch["image"]), self.config)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        resolution = self.stage_resolution(self.global_step)
        target = image_float(batch["image"])
        if resolution < target.shape[-1]:
            target = F.avg_pool2d(target, target.shape[-1] // resolution)
        if self.config.window_every and self.global_step % self.config.window_every == 0 and resolution > 32:
            made, seen = self._draw_window(self._styles(batch), resolution)
            focus = focus_map(resolution, self.config.mouth_box, self.config.mouth_weight)[seen, seen]
            target = target[..., seen, seen]
            drawing = drawing_loss(made, target, self.config, focus)
        else:
            made = self._draw(self._styles(batch), self._layers_until(resolution))
            drawing = drawing_loss(made, target, self.config)
        psnr = 10 * torch.log10(4 / (made.detach().clamp(-1, 1) - target).square().mean())
        self.log_dict({"drawing": drawing, "psnr_db": psnr, "resolution": float(resolution)})
        discriminator = self.discriminator
        if discriminator is None or self.global_step < self.config.adversarial_from * self.max_steps:
            return drawing
        last = self.generator.conv(self.generator.layers[self._layers_until(resolution) - 1]).weight
        terms = patch_terms(discriminator, drawing, made, target, last)
        self.log_dict(terms.logged)
        return drawing + self.config.adversarial * terms.generator + terms.discriminator

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, and what belongs to it: a checkpoint holds both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self.config.shrink and (self.global_step + 1) % self.config.shrink_every == 0:
            self.shrink_styles(self.config.shrink * self.rate_factor)
        self.write_affine()
        self.ema.update_parameters(nn.ModuleList([self.generator, self.embedding]))

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        averaged: Any = self.ema.module
        generator, embedding = averaged
        resolution = self.stage_resolution(self.global_step)
        target = image_float(batch["image"])
        if resolution < target.shape[-1]:
            target = F.avg_pool2d(target, target.shape[-1] // resolution)
        w_plus = generator.broadcast(embedding(embedding.encode(batch["options"], batch["pose"])))
        state = generator.advance(
            generator.start(len(target)), generator.affine(w_plus), self._layers_until(resolution), "none"
        )
        error = (state.skip.clamp(-1, 1) - target).square().mean((1, 2, 3))
        self.log("validation_psnr_db", (10 * torch.log10(4 / error)).mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        kernels = [p for p in trained if self.config.kernel_rate and p.ndim == 5 and p.shape[-1] > 1]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if all(p is not kernel for kernel in kernels)]},
            {"params": list(self.responses), "lr": self.config.response_rate},
        ]
        if self.discriminator is not None:
            groups.append({"params": list(self.discriminator.parameters())})
        optimizer: torch.optim.Optimizer
        if kernels:
            groups.append({"params": kernels, "lr": self.config.kernel_rate, "matrices": True})
            precision = self.generator.compute_dtype
            optimizer = Muon(groups, self.config.learning_rate, betas=(0.9, 0.99), precision=precision)
        else:
            optimizer = torch.optim.Adam(groups, self.config.learning_rate, betas=(0.9, 0.99))
        total = sum(steps for _, steps in self.config.stages)
        last = self.config.stages[-1][1]
        floor = self.config.final_learning_rate / self.config.learning_rate

        def factor(step: int) -> float:
            t = min(1.0, max(0.0, (step - (total - last)) / last))
            return floor + (1 - floor) * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * t))))

        return {"optimizer": optimizer, "lr_scheduler": {
            "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}}  # fmt: skip
