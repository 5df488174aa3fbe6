"""Forwards of the published networks in float64, written from their formulas on their own state dicts.

None of our modules is called here. Pictures are [N,3,H,W].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
SQRT2 = math.sqrt(2)


def double(state: State) -> State:
    return {key: value.double() if value.is_floating_point() else value for key, value in state.items()}


def lrelu(x: Tensor, slope: float = 0.2) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def upfirdn(x: Tensor, gain: float, up: int, pad: tuple[int, int]) -> Tensor:
    """Zeros between and around the samples, then the [1,3,3,1] filter on each map."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up, w * up)
    y[:, :, ::up, ::up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = (torch.outer(taps, taps) / 64 * gain)[None, None]
    y = F.pad(y, (pad[0], pad[1], pad[0], pad[1]))
    return F.conv2d(y.flatten(0, 1)[:, None], kernel).unflatten(0, (n, c))[:, :, 0]


# --- rosinality/stylegan2-pytorch, model.py ----------------------------------------------------------------


def rosinality_w(p: State, z: Tensor) -> Tensor:
    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    k = 1
    while f"style.{k}.weight" in p:
        weight = p[f"style.{k}.weight"] * (0.01 / math.sqrt(w.shape[1]))
        w = SQRT2 * lrelu(w @ weight.T + 0.01 * p[f"style.{k}.bias"])
        k += 1
    return w


def rosinality_image(p: State, w_plus: Tensor) -> Tensor:
    """ModulatedConv2d in its fused form: one weight a sample."""

    def modulated(x: Tensor, name: str, w: Tensor, demodulate: bool, up: bool) -> Tensor:
        weight = p[f"{name}.conv.weight"][0]
        i, k = weight.shape[1:3]
        affine = p[f"{name}.conv.modulation.weight"] / math.sqrt(w.shape[1])
        style = w @ affine.T + p[f"{name}.conv.modulation.bias"]
        rows = []
        for sample, s in zip(x, style, strict=True):
            one = weight / math.sqrt(i * k * k) * s[None, :, None, None]
            if demodulate:
                one = one / (one.square().sum((1, 2, 3)) + 1e-8).sqrt()[:, None, None, None]
            if up:
                rows.append(upfirdn(F.conv_transpose2d(sample[None], one.transpose(0, 1), stride=2), 4, 1, (1, 1)))
            else:
                rows.append(F.conv2d(sample[None], one, padding=k // 2))
        return torch.cat(rows)

    def styled(x: Tensor, name: str, w: Tensor, noise: int, up: bool) -> Tensor:
        y = modulated(x, name, w, True, up) + p[f"{name}.noise.weight"] * p[f"noises.noise_{noise}"]
        return SQRT2 * lrelu(y + p[f"{name}.activate.bias"][None, :, None, None])

    def rgb(x: Tensor, name: str, w: Tensor) -> Tensor:
        return modulated(x, name, w, False, False) + p[f"{name}.bias"]

    x = styled(p["input.input"].repeat(len(w_plus), 1, 1, 1), "conv1", w_plus[:, 0], 0, False)
    skip, k = rgb(x, "to_rgb1", w_plus[:, 1]), 0
    while f"to_rgbs.{k}.bias" in p:
        x = styled(x, f"convs.{2 * k}", w_plus[:, 2 * k + 1], 2 * k + 1, True)
        x = styled(x, f"convs.{2 * k + 1}", w_plus[:, 2 * k + 2], 2 * k + 2, False)
        skip = rgb(x, f"to_rgbs.{k}", w_plus[:, 2 * k + 3]) + upfirdn(skip, 4, 2, (2, 1))
        k += 1
    return skip


# --- NVlabs/stylegan2-ada-pytorch, training/networks.py ------------------------------------------------------


def nvidia_w(p: State, z: Tensor) -> Tensor:
    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    k = 0
    while f"mapping.fc{k}.weight" in p:
        weight, bias = p[f"mapping.fc{k}.weight"], p[f"mapping.fc{k}.bias"]
        x = SQRT2 * lrelu(x @ (weight * (0.01 / math.sqrt(weight.shape[1]))).T + 0.01 * bias)
        k += 1
    return x


def nvidia_image(p: State, w_plus: Tensor) -> Tensor:
    """noise_mode="const", force_fp32, without clamping. Upsampling by conv2d_resample's general path: filter first,
    then a convolution (flip_weight=False), where the published code takes a transposed convolution for speed."""

    def affine(name: str, w: Tensor) -> Tensor:
        weight = p[f"{name}.affine.weight"]
        return w @ (weight / math.sqrt(weight.shape[1])).T + p[f"{name}.affine.bias"]

    def layer(x: Tensor, name: str, w: Tensor, up: int) -> Tensor:
        weight, styles = p[f"{name}.weight"], affine(name, w)
        modulated = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
        modulated = modulated * (modulated.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        rows = []
        for sample, one in zip(x, modulated, strict=True):
            if up == 2:  # padding 1 grows by the filter: (1 + (4+1)//2, 1 + (4-2)//2)
                grown = upfirdn(sample[None], 4, 2, (3, 2))
                rows.append(F.conv2d(grown, one.flip(2, 3)))
            else:
                rows.append(F.conv2d(sample[None], one, padding=1))
        x = torch.cat(rows) + p[f"{name}.noise_const"] * p[f"{name}.noise_strength"]
        return SQRT2 * lrelu(x + p[f"{name}.bias"][None, :, None, None])

    def rgb(x: Tensor, name: str, w: Tensor) -> Tensor:
        weight = p[f"{name}.weight"]
        styles = affine(name, w) / math.sqrt(weight.shape[1])
        mixed = torch.einsum("oi,ni,nihw->nohw", weight[:, :, 0, 0], styles, x)
        return mixed + p[f"{name}.bias"][None, :, None, None]

    resolution, row = 4, 0
    x = p["synthesis.b4.const"][None].repeat(len(w_plus), 1, 1, 1)
    image = None
    while f"synthesis.b{resolution}.torgb.weight" in p:
        name = f"synthesis.b{resolution}"
        if resolution > 4:
            x = layer(x, f"{name}.conv0", w_plus[:, row], 2)
            row += 1
        x = layer(x, f"{name}.conv1", w_plus[:, row], 1)
        row += 1
        y = rgb(x, f"{name}.torgb", w_plus[:, row])
        image = y if image is None else y + upfirdn(image, 4, 2, (2, 1))
        resolution *= 2
    assert image is not None
    return image


# --- IR-SE: InsightFace_Pytorch, model.py; encoder4editing, models/encoders ---------------------------------


def _norm(x: Tensor, p: State, key: str) -> Tensor:
    axes = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
    mean, var, weight, bias = (p[f"{key}.{n}"].view(axes) for n in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight.view(1, -1, 1, 1) * x)


def irse_blocks(p: State, x: Tensor, units: list[int]) -> list[Tensor]:
    """The activation after each stage."""
    x = _prelu(_norm(F.conv2d(x, p["input_layer.0.weight"], padding=1), p, "input_layer.1"), p["input_layer.2.weight"])
    found, i = [], 0
    for count in units:
        for unit in range(count):
            key, stride = f"body.{i}", 2 if unit == 0 else 1
            shortcut = x[:, :, ::stride, ::stride]
            if f"{key}.shortcut_layer.0.weight" in p:
                shortcut = _norm(F.conv2d(x, p[f"{key}.shortcut_layer.0.weight"], stride=stride), p,
                                 f"{key}.shortcut_layer.1")  # fmt: skip
            y = F.conv2d(_norm(x, p, f"{key}.res_layer.0"), p[f"{key}.res_layer.1.weight"], padding=1)
            y = _prelu(y, p[f"{key}.res_layer.2.weight"])
            y = _norm(F.conv2d(y, p[f"{key}.res_layer.3.weight"], stride=stride, padding=1), p, f"{key}.res_layer.4")
            pooled = y.mean((2, 3), keepdim=True)
            inner = F.conv2d(pooled, p[f"{key}.res_layer.5.fc1.weight"]).clamp_min(0)
            gate = 1 / (1 + torch.exp(-F.conv2d(inner, p[f"{key}.res_layer.5.fc2.weight"])))
            x, i = shortcut + y * gate, i + 1
        found.append(x)
    return found


def identity(p: State, image: Tensor, units: list[int]) -> Tensor:
    """StyleCLIP's criteria/id_loss.py: pool to 256, crop, pool to 112, network, unit length."""
    x = F.adaptive_avg_pool2d(image, 256)[:, :, 35:223, 32:220]
    x = irse_blocks(p, F.adaptive_avg_pool2d(x, 112), units)[-1]
    x = _norm(x, p, "output_layer.0").flatten(1) @ p["output_layer.3.weight"].T + p["output_layer.3.bias"]
    x = _norm(x, p, "output_layer.4")
    return x / x.norm(dim=1, keepdim=True)


def e4e(p: State, image: Tensor, units: list[int], coarse: int = 3, middle: int = 7) -> Tensor:
    """Encoder4Editing at its last stage, on a picture of its own size, plus latent_avg."""
    c1, c2, c3 = irse_blocks(p, image, units)[-3:]

    def style(i: int, x: Tensor) -> Tensor:
        k = 0
        while f"styles.{i}.convs.{k}.weight" in p:
            x = lrelu(F.conv2d(x, p[f"styles.{i}.convs.{k}.weight"], p[f"styles.{i}.convs.{k}.bias"], 2, 1), 0.01)
            k += 2
        weight = p[f"styles.{i}.linear.weight"]
        return x.flatten(1) @ (weight / math.sqrt(weight.shape[1])).T + p[f"styles.{i}.linear.bias"]

    def grown(x: Tensor, lateral: Tensor) -> Tensor:
        return F.interpolate(x, lateral.shape[2:], mode="bilinear", align_corners=True) + lateral

    p2 = grown(c3, F.conv2d(c2, p["latlayer1.weight"], p["latlayer1.bias"]))
    p1 = grown(p2, F.conv2d(c1, p["latlayer2.weight"], p["latlayer2.bias"]))
    layers = len(p["latent_avg"])
    rows = [style(0, c3)]
    rows += [rows[0] + style(i, c3 if i < coarse else p2 if i < middle else p1) for i in range(1, layers)]
    return torch.stack(rows, 1) + p["latent_avg"]


# --- openai/CLIP, clip/model.py ---------------------------------------------------------------------------


def _layer_norm(x: Tensor, p: State, key: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{key}.weight"] + p[f"{key}.bias"]


def _transformer(x: Tensor, p: State, prefix: str, causal: bool) -> Tensor:
    i = 0
    while f"{prefix}resblocks.{i}.ln_1.weight" in p:
        key, heads = f"{prefix}resblocks.{i}", x.shape[-1] // 64
        y = _layer_norm(x, p, f"{key}.ln_1") @ p[f"{key}.attn.in_proj_weight"].T + p[f"{key}.attn.in_proj_bias"]
        mixed = []
        for q, k, v in zip(*(part.chunk(heads, -1) for part in y.chunk(3, -1)), strict=True):
            scores = q @ k.transpose(1, 2) / 8  # sqrt(64)
            if causal:
                above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(above, -math.inf)
            mixed.append(scores.softmax(-1) @ v)
        x = x + torch.cat(mixed, -1) @ p[f"{key}.attn.out_proj.weight"].T + p[f"{key}.attn.out_proj.bias"]
        y = _layer_norm(x, p, f"{key}.ln_2") @ p[f"{key}.mlp.c_fc.weight"].T + p[f"{key}.mlp.c_fc.bias"]
        y = y / (1 + torch.exp(-1.702 * y))
        x, i = x + y @ p[f"{key}.mlp.c_proj.weight"].T + p[f"{key}.mlp.c_proj.bias"], i + 1
    return x


def clip_image(p: State, pixels: Tensor) -> Tensor:
    """encode_image on preprocessed pixels, at unit length."""
    weight = p["visual.conv1.weight"]
    x = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    first = p["visual.class_embedding"].expand(len(x), 1, -1)
    x = _layer_norm(torch.cat([first, x], 1) + p["visual.positional_embedding"], p, "visual.ln_pre")
    x = _transformer(x, p, "visual.transformer.", False)
    x = _layer_norm(x[:, 0], p, "visual.ln_post") @ p["visual.proj"]
    return x / x.norm(dim=1, keepdim=True)


def clip_text(p: State, ids: Tensor) -> Tensor:
    """encode_text, read where the id is largest, at unit length."""
    x = p["token_embedding.weight"][ids] + p["positional_embedding"]
    x = _layer_norm(_transformer(x, p, "transformer.", True), p, "ln_final")
    x = x[torch.arange(len(x)), ids.argmax(1)] @ p["text_projection"]
    return x / x.norm(dim=1, keepdim=True)


# --- orpatashnik/StyleCLIP, mapper/latent_mappers.py --------------------------------------------------------


def mapper(p: State, w_plus: Tensor) -> Tensor:
    """0.1 M(w): PixelNorm over the layers of each part, as published; parts without weights give zeros."""

    def one(x: Tensor, name: str) -> Tensor:
        if f"{name}.mapping.1.weight" not in p:
            return torch.zeros_like(x)
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for k in range(1, 5):
            weight = p[f"{name}.mapping.{k}.weight"] * (0.01 / math.sqrt(x.shape[-1]))
            x = SQRT2 * lrelu(x @ weight.T + 0.01 * p[f"{name}.mapping.{k}.bias"])
        return x

    if "mapping.mapping.1.weight" in p:
        return 0.1 * one(w_plus, "mapping")
    names = ("course_mapping", "medium_mapping", "fine_mapping")
    parts = zip(names, (slice(0, 4), slice(4, 8), slice(8, None)), strict=True)
    return 0.1 * torch.cat([one(w_plus[:, rows], name) for name, rows in parts], 1)
