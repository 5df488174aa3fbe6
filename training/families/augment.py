"""Picture augmentation on tensors: shift, brightness, blur, noise, JPEG and cutout, from a seeded generator."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn import functional as F


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how strongly; a probability is per picture."""

    shift: int = 4  # pixels, either way
    brightness: float = 0.08  # added, in units of [-1, 1]
    contrast: float = 0.1  # relative
    blur: float = 0.25  # probability
    noise: float = 0.5  # probability
    noise_strength: float = 0.12  # largest standard deviation
    jpeg: float = 0.0  # probability
    cutout: float = 0.0  # probability
    cutout_size: int = 20  # largest side, pixels


def augment(image: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """image [N,3,H,W] in [-1,1] -> the same shape, values in about [-1,1]. Draws on the CPU generator alone."""
    image = shift(image, config.shift, generator) if config.shift else image.clone()
    count = len(image)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, 1, 1, 1).uniform_(low, high, generator=generator).to(image)

    if config.brightness or config.contrast:
        gain = 1 + uniform(-config.contrast, config.contrast)
        image = image * gain + uniform(-config.brightness, config.brightness)
    if (rows := _some(count, config.jpeg, generator)).numel():
        image[rows] = jpeg(image[rows], generator)
    if (rows := _some(count, config.blur, generator)).numel():
        image[rows] = blur(image[rows], generator)
    if (rows := _some(count, config.noise, generator)).numel():
        strength = torch.empty(len(rows), 1, 1, 1).uniform_(0, config.noise_strength, generator=generator)
        normal = torch.empty(image[rows].shape).normal_(generator=generator)
        image[rows] = image[rows] + (strength * normal).to(image)
    if (rows := _some(count, config.cutout, generator)).numel():
        cutout(image, rows, config.cutout_size, generator)
    return image.clamp_(-1, 1).contiguous(memory_format=torch.channels_last)


def _some(count: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """The rows that a probability picks."""
    return (torch.rand(count, generator=generator) < probability).nonzero()[:, 0]


def shift(image: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Move each picture by up to `most` pixels; the border repeats."""
    count, _, height, width = image.shape
    moves = torch.randint(0, 2 * most + 1, (count, 2), generator=generator)
    padded = F.pad(image, (most, most, most, most), mode="replicate").contiguous(memory_format=torch.channels_last)
    return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(moves.tolist())])


def blur(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the pictures by a [1,2,1] filter, half by halving and doubling the size."""
    half = len(image) // 2
    height, width = image.shape[2:]
    filtered = image[:half]
    if half:
        rows = F.pad(filtered, (0, 0, 1, 1), mode="replicate")
        rows = rows[:, :, :-2] / 4 + rows[:, :, 1:-1] / 2 + rows[:, :, 2:] / 4
        columns = F.pad(rows, (1, 1, 0, 0), mode="replicate")
        filtered = columns[..., :-2] / 4 + columns[..., 1:-1] / 2 + columns[..., 2:] / 4
    small = F.avg_pool2d(image[half:], 2)
    return torch.cat([filtered, F.interpolate(small, (height, width), mode="bilinear", align_corners=False)])


def jpeg(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Through a real JPEG of quality 40 to 90."""
    qualities = torch.randint(40, 91, (len(image),), generator=generator).tolist()
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for picture, quality in zip(pixels, qualities, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        with Image.open(file) as back:
            decoded.append(torch.frombuffer(bytearray(back.tobytes()), dtype=torch.uint8).view(picture.shape))
    return (torch.stack(decoded).permute(0, 3, 1, 2).to(image) / 127.5) - 1


def cutout(image: torch.Tensor, rows: torch.Tensor, most: int, generator: torch.Generator) -> None:
    """Fill one rectangle of each of these pictures with one random colour, in place."""
    height, width = image.shape[2:]
    for row in rows.tolist():
        tall, wide = torch.randint(most // 2, most + 1, (2,), generator=generator).tolist()
        y = int(torch.randint(0, height - tall + 1, (1,), generator=generator))
        x = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
        color = torch.empty(3, 1, 1).uniform_(-1, 1, generator=generator)
        image[row, :, y : y + tall, x : x + wide] = color.to(image)
