"""The warm start's window: the face drawn alone is the face of the whole drawing; the mouth weighs more there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limner.training.avatars.attributes import POSE_NAMES, STYLES
from limner.training.families.stylegan2.warmup import CodeEmbedding, WarmupConfig, WarmupModule, drawing_loss, focus_map
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

STYLE = STYLES["avataaars"]
INSIDE = 1e-5  # of the drawing's standard deviation; sums of the same numbers, perhaps in another order
RING = 0.03  # the same, for the outermost pixels at 128 px, which the cut still reaches through four convolutions


def module(size: int, **config: Any) -> WarmupModule:
    torch.manual_seed(0)
    channels = {4: 16, 8: 16, 16: 16, 32: 16, 64: 16, 128: 16}
    generator = Generator(StyleGAN2Config(size, 16, 32, 2, channels={k: v for k, v in channels.items() if k <= size}))
    for layer in generator.layers:  # biases that are not zero, as after training
        torch.nn.init.normal_(generator.conv(layer).modulation.weight)
    made = WarmupModule(generator, CodeEmbedding(STYLE, 32), WarmupConfig(jitter=0.0, blend=0.0, **config), bf16=False)
    made.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return made


def batch(count: int, size: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    options = torch.stack([torch.randint(len(o.choices), (count,), generator=rng) for o in STYLE.options], 1)
    image = torch.randint(0, 256, (count, 3, size, size), generator=rng, dtype=torch.uint8)
    return {"options": options, "pose": torch.rand(count, len(POSE_NAMES), generator=rng) * 2 - 1, "image": image}


@torch.no_grad()
@pytest.mark.parametrize("resolution", [64, 128])
def test_the_window_equals_the_whole_drawing_inside_its_margin(resolution: int) -> None:
    made = module(128)
    styles = made.affine(made.embedding.encode(*list(batch(2, 128).values())[:2])[:, None].expand(-1, 12, -1))
    whole = made._synthesize(styles, made._layers_until(resolution))
    window, seen = made._draw_window(styles, resolution)
    times = resolution // 32
    assert (seen.start, seen.stop) == (10 * times, 22 * times)
    assert window.shape == (2, 3, 12 * times, 12 * times)
    error = (window - whole[..., seen, seen]).abs() / whole.std()
    assert float(error[..., 1:-1, 1:-1].max()) < INSIDE
    assert float(error.max()) < (INSIDE if resolution == 64 else RING)


@torch.no_grad()
def test_without_a_margin_the_cut_shows() -> None:
    """So the test above would see a window in the wrong place, and the margin is needed."""
    made = module(64, window_margin=0)
    styles = made.affine(made.embedding.encode(*list(batch(2, 64).values())[:2])[:, None].expand(-1, 10, -1))
    whole = made._synthesize(styles, made._layers_until(64))
    window, seen = made._draw_window(styles, 64)
    assert float((window - whole[..., seen, seen]).abs().max() / whole.std()) > 0.01


def test_steps_of_the_window_see_the_mouth_more() -> None:
    """The loss of such a step is the drawing loss of the cut with the mouth's box weighted, once more by hand."""
    rows = batch(2, 64)
    losses = []
    for weight in (1.0, 5.0):
        made = module(64, stages=((64, 4),), window_every=1, mouth_weight=weight)
        losses.append(float(made.training_step(rows, 0).detach()))
        with torch.no_grad():
            window, seen = made._draw_window(made._styles(rows), 64)
            target = (rows["image"].float() / 127.5 - 1)[..., seen, seen]
            focus = torch.ones(64, 64)
            focus[round(0.53 * 64) : round(0.66 * 64), round(0.41 * 64) : round(0.59 * 64)] = weight
            wanted = drawing_loss(window, target, made.config, focus[seen, seen])
        assert losses[-1] == pytest.approx(float(wanted), rel=1e-5)
    assert losses[1] > 1.05 * losses[0]


def test_the_mouth_lies_inside_the_window() -> None:
    config = WarmupConfig(mouth_weight=2.0)
    (start, stop), margin = config.window, config.window_margin
    heavy = focus_map(128, config.mouth_box, config.mouth_weight).eq(2).nonzero()
    assert len(heavy)
    low, high = 4 * (start + margin), 4 * (stop - margin)
    assert int(heavy.min()) >= low and int(heavy.max()) < high


def test_between_windows_the_whole_picture_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    made = module(64, stages=((64, 4),), window_every=2)
    window, whole = made._draw_window, made._draw
    made._draw_window = lambda *a: drawn.append("window") or window(*a)  # type: ignore[func-returns-value,method-assign]
    made._draw = lambda *a: drawn.append("whole") or whole(*a)  # type: ignore[func-returns-value]
    for step in (0, 1, 2):
        monkeypatch.setattr(type(made), "global_step", step)
        made.training_step(batch(1, 64), step)
    assert drawn == ["window", "whole", "window"]


@torch.no_grad()
def test_jitter_moves_options_and_leaves_poses() -> None:
    made = module(64)
    rows = batch(3, 64)
    still = made._styles(rows)
    seen: list[torch.Tensor] = []
    made.affine = lambda codes: seen.append(codes) or still  # type: ignore[func-returns-value,method-assign]
    code = made.embedding.encode(rows["options"], rows["pose"])[:, None]
    made.config = WarmupConfig(jitter=0.1, blend=0.0)
    made._styles(rows)
    moved = (seen[-1] - code).std((0, 1))
    assert float(moved[-len(POSE_NAMES) :].max()) == 0
    assert float(moved[: -len(POSE_NAMES)].min()) > 0.05
    made.config = WarmupConfig(jitter=0.0, pose_jitter=0.02, blend=0.0)
    made._styles(rows)
    assert 0.01 < float((seen[-1] - code)[..., -len(POSE_NAMES) :].std()) < 0.03


def test_kernels_alone_are_stepped_by_muon() -> None:
    from limner.training.loop.muon import Muon

    made = module(64, kernel_rate=0.03)
    optimizer = made.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, Muon)
    kernels = {id(p) for group in optimizer.param_groups if group["matrices"] for p in group["params"]}
    names = {name for name, p in made.generator.named_parameters() if id(p) in kernels}
    assert names == {"conv1.conv.weight", *(f"convs.{k}.conv.weight" for k in range(8))}
    rest = [p for group in optimizer.param_groups if not group["matrices"] for p in group["params"]]
    trained = [*(p for p in made.generator.parameters() if p.requires_grad), *made.responses]
    assert {id(p) for p in rest} | kernels == {id(p) for p in trained}
    assert len(rest) + len(kernels) == len(trained)
    assert isinstance(module(64).configure_optimizers()["optimizer"], torch.optim.Adam)
